"""One prompt in tokens with the options of its answer, and how both fit into a window.

The sampling parameters are those of the request, completed by pagoda/models/sampling_defaults.py. Each dialect passes the requested
ones under Ollama's names, and its own defaults, which apply last.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from gateway.errors import InvalidRequestError, PromptTooLongError
from gateway.http.fields import nucleus, seed_bits
from gateway.parsing.output_parser import OutputParser
from pagoda.models.sampling_defaults import APIValues, ModelDefaults, Parameter, Source
from pagoda.wire.sampling import SamplingParams

RANDOM_SEED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingChoice:
    """The sampling parameters of a request, after defaults."""

    params: SamplingParams
    """Parameters for the worker; their seed is unset, see `seed`."""
    seed: int | None = None
    """Seed of the request; None draws one at random."""
    stops: tuple[str, ...] = ()
    max_total_tokens: int | None = None
    """Limit of the model or the client on prompt and output together, besides the window."""
    parameters: Mapping[str, Parameter] = field(default_factory=lambda: MappingProxyType({}))
    """Each value with its source, for the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """One prompt in tokens, with the options of its answer."""

    prompt_token_ids: tuple[int, ...]
    prompt_text: str | None = None
    """Prompt as the client wrote it; None if it was not a text or was cut."""
    prompt_field: str
    """Name of the prompt in the dialect, for errors."""
    sampling: SamplingChoice
    include_stop: bool = False
    """True if the stop string or token that ended a sample is part of its text."""
    skip_special_tokens: bool = True
    num_samples: int = 1
    cut_to_fit: bool = False
    """True if a prompt that leaves no room loses its beginning."""
    cache_salt: str = ""
    priority: int | None = None
    """Priority; lower goes first. None is as urgent as the caller's key allows, at most 0."""
    keep_alive_s: float | None = None
    """Seconds for which the model stays loaded afterwards; None leaves its keep-alive unchanged."""
    open_parser: Callable[[], OutputParser] | None = None
    """Makes the parser of a sample's output; None if the whole output is text."""


def choose_sampling(
    asked: Mapping[str, Any], defaults: ModelDefaults, api: APIValues, request_only: SamplingParams
) -> SamplingChoice:
    """Complete the requested parameters with defaults. `request_only` has the fields that only a request can set.

    Raises InvalidRequestError if the values contradict each other.
    """
    parameters = defaults.choose(asked, api)
    values = {name: each.value for name, each in parameters.items()}
    window, seed = values["repeat_last_n"], values.get("seed")
    params = replace(
        request_only,
        **nucleus(values["temperature"], values["top_p"]),
        top_k=max(0, values["top_k"]),
        min_p=values["min_p"],
        presence_penalty=values["presence_penalty"],
        frequency_penalty=values["frequency_penalty"],
        # A window of 0 disables the penalty; -1 is the whole context, which SamplingParams calls 0.
        repetition_penalty=1.0 if window == 0 else values["repeat_penalty"],
        repetition_window=max(0, window),
        max_tokens=_max_tokens(parameters.get("num_predict"), request_only.min_tokens),
    )
    if (problem := params.problem()) is not None:
        raise InvalidRequestError(problem, param=problem.partition(" ")[0])
    return SamplingChoice(
        params=params,
        seed=None if seed in (None, RANDOM_SEED) else seed_bits(seed),
        stops=tuple(values.get("stop", ())),
        max_total_tokens=values.get("num_ctx"),
        parameters=parameters,
    )


def _max_tokens(limit: Parameter | None, min_tokens: int) -> int | None:
    if limit is None or limit.value < 0:
        return None
    # A default must not cut a request that sets a higher min_tokens.
    return int(limit.value if limit.source is Source.REQUEST else max(limit.value, min_tokens))


def fit_to_window(request: TextRequest, window: int) -> TextRequest:
    """Cut or refuse a prompt that leaves no room, and limit max_tokens to the room that is left."""
    limit = request.sampling.max_total_tokens
    if limit is not None:
        window = min(window, limit)
    if request.cut_to_fit:
        prompt = request.prompt_token_ids[-(window - _reserved(request.sampling, window)) :]
        request = replace(request, prompt_token_ids=prompt)
    num_prompt_tokens = len(request.prompt_token_ids)
    if num_prompt_tokens == 0:
        raise InvalidRequestError("The prompt is empty; it must have at least one token.", param=request.prompt_field)
    if num_prompt_tokens >= window:
        raise PromptTooLongError(num_prompt_tokens=num_prompt_tokens, window=window, param=request.prompt_field)
    room, params = window - num_prompt_tokens, request.sampling.params
    max_tokens = room if params.max_tokens is None else min(params.max_tokens, room)
    params = replace(params, max_tokens=max_tokens, min_tokens=min(params.min_tokens, max_tokens))
    return replace(request, sampling=replace(request.sampling, params=params))


def _reserved(sampling: SamplingChoice, window: int) -> int:
    """Return how many tokens a cut prompt leaves for its answer: the requested limit, or a default of at most half the window."""
    limit = sampling.parameters.get("num_predict")
    most = window - 1 if limit is None or limit.source is Source.REQUEST else max(1, window // 2)
    return min(sampling.params.max_tokens or 1, most, window - 1)
