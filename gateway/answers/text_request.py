"""One prompt in tokens and what is wanted of its answer, as a dialect understood it; and how both fit into a window."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from gateway.errors import InvalidRequestError, PromptTooLongError
from pagoda.models.sampling_defaults import Parameter, Source
from pagoda.wire.sampling import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    """Without a seed; that is `seed`."""
    seed: int | None
    """None draws one at random."""
    stops: tuple[str, ...] = ()
    include_stop: bool = False
    """Whether what ended a sample, a stop string or a token, is part of its text."""
    skip_special_tokens: bool = True
    num_samples: int = 1
    max_total_tokens: int | None = None
    """The client's own limit on prompt and output together, or that of the model's parameters, besides its window."""
    cut_to_fit: bool = False
    """A prompt that leaves no room loses its beginning."""
    cache_salt: str = ""
    priority: int | None = None
    """Lower goes first. None is as urgent as the caller's key allows, at most 0."""
    keep_alive_s: float | None = None
    """How long the model is to stay in memory afterwards; None says nothing about it."""
    chosen: Mapping[str, Parameter] = field(default_factory=lambda: MappingProxyType({}))
    """Where each parameter of `sampling` came from, for the log."""
    prompt_field: str
    """What the dialect calls the prompt, for errors."""


def fit_to_window(request: TextRequest, window: int) -> TextRequest:
    """A prompt that leaves no room is cut or refused; a max_tokens that would not fit becomes what does."""
    if request.max_total_tokens is not None:
        window = min(window, request.max_total_tokens)
    if request.cut_to_fit:
        prompt = request.prompt_token_ids[-(window - _reserved(request, window)) :]
        request = replace(request, prompt_token_ids=prompt)
    num_prompt_tokens = len(request.prompt_token_ids)
    if num_prompt_tokens == 0:
        raise InvalidRequestError("The prompt is empty.", param=request.prompt_field)
    if num_prompt_tokens >= window:
        raise PromptTooLongError(num_prompt_tokens=num_prompt_tokens, window=window, param=request.prompt_field)
    room = window - num_prompt_tokens
    sampling = request.sampling
    max_tokens = room if sampling.max_tokens is None else min(sampling.max_tokens, room)
    sampling = replace(sampling, max_tokens=max_tokens, min_tokens=min(sampling.min_tokens, max_tokens))
    return replace(request, sampling=sampling)


def _reserved(request: TextRequest, window: int) -> int:
    """How many tokens a prompt that is cut leaves for its answer: what the client asked, or a default up to half the window."""
    limit = request.chosen.get("num_predict")
    most = window - 1 if limit is None or limit.source is Source.REQUEST else max(1, window // 2)
    return min(request.sampling.max_tokens or 1, most, window - 1)
