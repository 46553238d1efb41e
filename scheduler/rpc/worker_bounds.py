"""The checks of workers' messages, made before memory is allocated for them or anything is counted.

A worker is authenticated, but it may be broken, hostile, or of another version. Each function returns what is wrong and what is
allowed as a sentence, or None.
"""

import math
from collections.abc import Iterable, Iterator

from pagoda.wire.sampling import MAX_LOGPROB_TOKEN_IDS, MAX_LOGPROBS
from protos.v1 import types_pb2, worker_pb2
from scheduler.worker_info import ModelLimits

MAX_NAME_CHARS = 512
MAX_LOADABLE_MODELS = 10_000
MAX_REASON_CHARS = 1000
# Each step grants pages for this many tokens per sequence, and charges them to its budget.
MAX_NEW_TOKENS = 64
_MAX_ALTERNATIVES = max(MAX_LOGPROBS, MAX_LOGPROB_TOKEN_IDS)
# Each bound is several times larger than the largest machines need: a device of 141 GB has room for 800,000 pages of 16 tokens of
# a small model.
BOUNDS = {
    "page_size": 4096,
    "num_pages": 2**24,
    "max_model_len": 2**24,
    "max_step_tokens": 2**20,
    "max_step_sequences": 2**16,
    "vocab_size": 2**22,
}


def hello_problem(hello: worker_pb2.Hello) -> str | None:
    return next(_hello_problems(hello), None)


def store_problem(store: worker_pb2.LoadableModels) -> str | None:
    return next(_store_problems(store), None)


def result_problem(result: worker_pb2.StepResult, limits: ModelLimits) -> str | None:
    return next(_result_problems(result, limits), None)


def shortened(reason: str) -> str:
    """Return a worker's error message, shortened for logs and clients."""
    return reason if len(reason) <= MAX_REASON_CHARS else f"{reason[:MAX_REASON_CHARS]}…"


def _hello_problems(hello: worker_pb2.Hello) -> Iterator[str]:
    if not hello.worker_id:
        yield "the first message must be a Hello with a worker_id"
    yield from _name_problems("Hello", worker_id=hello.worker_id, device=hello.device, instance=hello.instance)
    if hello.HasField("model"):
        model = hello.model
        if not model.name:
            yield "Hello's model must have a name"
        yield from _name_problems("Hello's model", name=model.name, digest=model.digest, numerics_id=model.numerics_id)
        yield from _number_problems("Hello's model", model, BOUNDS)
        if model.max_new_tokens > MAX_NEW_TOKENS:
            yield f"Hello's model has max_new_tokens {model.max_new_tokens}, which must be between 1 and {MAX_NEW_TOKENS}"
    if hello.num_held_blocks_messages > hello.model.num_pages:
        yield (
            f"Hello announces {hello.num_held_blocks_messages} HeldBlocks messages for {hello.model.num_pages} pages; "
            "there is at most one for each page"
        )
    yield from _store_problems(hello.loadable_models)


def _store_problems(store: worker_pb2.LoadableModels) -> Iterator[str]:
    if len(store.models) > MAX_LOADABLE_MODELS:
        yield f"at most {MAX_LOADABLE_MODELS} models may be loadable (got {len(store.models)})"
    yield from _name_problems("LoadableModels", host_id=store.host_id, home_model=store.home_model)
    for model in store.models:
        if not model.name:
            yield "a loadable model must have a name"
        yield from _name_problems("a loadable model", name=model.name, digest=model.digest)
        yield from _number_problems(f"the loadable model {model.name!r}", model, _OF_LOADABLE)


_OF_LOADABLE = ("page_size", "max_model_len", "vocab_size")


def _result_problems(result: worker_pb2.StepResult, limits: ModelLimits) -> Iterator[str]:
    batch = result.sampled_batch
    lengths = [len(column) for column in (batch.sequence_ids, batch.attempts, batch.token_ids)]
    if len(set(lengths)) > 1:
        yield f"a sampled_batch has columns of {', '.join(map(str, lengths))} entries, which must have the same length"
    if max(batch.token_ids, default=0) >= limits.vocab_size:
        yield _strange_token(max(batch.token_ids), limits)
    for sampled in result.sampled:
        if not 1 <= len(sampled.token_ids) <= limits.max_new_tokens:
            yield (
                f"sequence {sampled.sequence_id} has {len(sampled.token_ids)} new tokens, which must be between 1 and "
                f"{limits.max_new_tokens}"
            )
        if (largest := max(sampled.token_ids, default=0)) >= limits.vocab_size:
            yield _strange_token(largest, limits)
        if len(sampled.logprobs) not in (0, len(sampled.token_ids)):
            yield f"{len(sampled.token_ids)} tokens must have as many logprobs, or none (got {len(sampled.logprobs)})"
        yield from _logprob_problems(sampled.logprobs)
    for scored in result.scored:
        yield from _logprob_problems(scored.logprobs)


def _strange_token(token_id: int, limits: ModelLimits) -> str:
    return f"token id {token_id} is outside the vocabulary of {limits.vocab_size} tokens"


def _logprob_problems(logprobs: Iterable[types_pb2.Logprobs]) -> Iterator[str]:
    for each in logprobs:
        if len(each.top) > _MAX_ALTERNATIVES:
            yield f"a token has {len(each.top)} alternatives; at most {_MAX_ALTERNATIVES} are allowed"
        values = (each.logprob, *(other.logprob for other in each.top))
        # Minus infinity is valid: it is the log-probability of an impossible token.
        if any(math.isnan(value) or value == math.inf for value in values):
            yield "a log-probability is NaN or positive infinity"


def _name_problems(whose: str, **names: str) -> Iterator[str]:
    for field, name in names.items():
        if len(name) > MAX_NAME_CHARS:
            yield f"{whose} has a {field} of {len(name)} characters; at most {MAX_NAME_CHARS} are allowed"
        if not name.isprintable():
            yield f"{whose} has a {field} with non-printable characters"


def _number_problems(
    whose: str, model: worker_pb2.LoadedModel | worker_pb2.LoadableModel, fields: Iterable[str]
) -> Iterator[str]:
    for field in fields:
        value, most = getattr(model, field), BOUNDS[field]
        if not 1 <= value <= most:
            yield f"{whose} has {field} {value}, which must be between 1 and {most}"
