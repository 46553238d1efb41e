"""The sampling parameters of a request that name tokens, and the others that only a request can set."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Protocol

from gateway.models.served_model import ServedModel
from gateway.prompts.bad_words import bad_word_tokens
from pagoda.wire.sampling import SamplingParams


class TokenFields(Protocol):
    """The fields of a request body that name tokens. All may be absent."""

    @property
    def min_tokens(self) -> int | None: ...
    @property
    def ignore_eos(self) -> bool | None: ...
    @property
    def stop_token_ids(self) -> Sequence[int] | None: ...
    @property
    def allowed_token_ids(self) -> Sequence[int] | None: ...
    @property
    def logprob_token_ids(self) -> Sequence[int] | None: ...
    @property
    def bad_words(self) -> Sequence[str] | None: ...
    @property
    def logit_bias(self) -> dict[str, float] | None: ...


def token_params(body: TokenFields, model: ServedModel) -> SamplingParams:
    """Return the parameters. Raises InvalidRequestError for a token that is not in the model's vocabulary."""
    stop_token_ids = tuple(body.stop_token_ids or ())
    allowed_token_ids = tuple(sorted(set(body.allowed_token_ids or ())))
    logprob_token_ids = tuple(dict.fromkeys(body.logprob_token_ids or ()))
    bias = {int(token_id): value for token_id, value in (body.logit_bias or {}).items()}
    model.check_token_ids(stop_token_ids, "stop_token_ids")
    model.check_token_ids(allowed_token_ids, "allowed_token_ids")
    model.check_token_ids(logprob_token_ids, "logprob_token_ids")
    model.check_token_ids(bias, "logit_bias")
    return SamplingParams(
        min_tokens=body.min_tokens or 0,
        ignore_eos=bool(body.ignore_eos),
        logit_bias=MappingProxyType(bias),
        stop_token_ids=stop_token_ids,
        allowed_token_ids=allowed_token_ids,
        bad_words=bad_word_tokens(model.tokenizer, body.bad_words or ()),
        logprob_token_ids=logprob_token_ids,
    )
