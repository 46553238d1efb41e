"""The checks of a new request, and the creation of its sequences."""

from dataclasses import replace

from kvcache.block_hash import BlockHash, hash_blocks, root_hash
from pagoda.wire.inference_request import InferenceRequest
from scheduler.errors import InvalidRequestError
from scheduler.steps.sequence import Sequence
from scheduler.steps.sequence_records import History
from scheduler.worker_info import ModelLimits, WorkerInfo

MAX_SAMPLES = 128


def make_sequences(request: InferenceRequest, info: WorkerInfo, *, first_id: int, now_s: float) -> list[Sequence]:
    """Return one sequence per unfinished sample, in order. Ids and the order of arrival count up from `first_id`.

    The prompt is scored only once, with the first sequence, and not at all if a sample already has tokens, since scores come first.
    """
    prompt, page_size = request.prompt_token_ids, info.limits.page_size
    root = root_hash(model_digest=info.model_digest, page_size=page_size, cache_salt=request.cache_salt)
    prompt_hashes: list[BlockHash] = [root, *hash_blocks(root, prompt, page_size)]
    max_tokens = request.sampling.max_tokens or info.limits.max_model_len
    unscored = replace(request.sampling, num_prompt_logprobs=None)
    generated = {sample.sample_index: sample.generated_token_ids for sample in request.resumed}
    has_answers = any(sample.is_finished or sample.generated_token_ids for sample in request.resumed)
    is_scored = request.sampling.num_prompt_logprobs is not None and not has_answers
    sequences: list[Sequence] = []
    for number, index in enumerate(request.open_samples, start=first_id):
        sequence = Sequence(
            sequence_id=number,
            request_id=request.request_id,
            sample_index=index,
            model=info.model,
            token_ids=[*prompt, *generated.get(index, ())],
            num_prompt_tokens=len(prompt),
            sampling=request.sampling if is_scored and not sequences else unscored,
            leader=sequences[0] if is_scored and sequences else None,
            max_length=min(len(prompt) + max_tokens, info.limits.max_model_len),
            priority=request.priority,
            arrival=number,
            block_hashes=list(prompt_hashes),
            page_size=page_size,
            tenant=request.tenant,
            group=f"{request.tenant}/{request.group_id}" if request.group_id else str(first_id),
            history=History(arrival_s=now_s),
        )
        sequence.hash_full_blocks()
        sequences.append(sequence)
    return sequences


def check_request(request: InferenceRequest, limits: ModelLimits) -> None:
    """Raise InvalidRequestError if the request can never be served. The message says what is wrong and what is allowed."""
    problem = (
        request.sampling.problem()
        or _samples_problem(request)
        or _token_problem(request, limits)
        or length_problem(len(request.prompt_token_ids), limits)
    )
    if problem:
        raise InvalidRequestError(problem)


def _samples_problem(request: InferenceRequest) -> str | None:
    if not 1 <= request.num_samples <= MAX_SAMPLES:
        return f"num_samples must be between 1 and {MAX_SAMPLES} (got {request.num_samples})"
    strange = sorted(each.sample_index for each in request.resumed if each.sample_index >= request.num_samples)
    if strange:
        return f"resume names sample_index {strange[0]}, but the request has {request.num_samples} samples"
    return None if request.open_samples else "resume marks all samples as finished; at least one must be open"


def _token_problem(request: InferenceRequest, limits: ModelLimits) -> str | None:
    if not request.prompt_token_ids:
        return "the prompt must have at least one token"
    generated = (sample.generated_token_ids for sample in request.resumed)
    named = [request.prompt_token_ids, *request.sampling.named_token_ids, *generated]
    largest = max(max(token_ids, default=0) for token_ids in named)
    if largest >= limits.vocab_size:
        return f"token id {largest} is outside the vocabulary of {limits.vocab_size} tokens"
    return None


def length_problem(num_tokens: int, limits: ModelLimits) -> str | None:
    """Return what is wrong with a prompt of `num_tokens` tokens, or None."""
    if num_tokens >= limits.max_model_len:
        return (
            f"the prompt has {num_tokens} tokens, but the model's context window is {limits.max_model_len} tokens, "
            "including at least one for the answer; shorten the prompt"
        )
    num_held = limits.num_pages * limits.page_size
    if num_tokens > num_held:
        return f"the prompt has {num_tokens} tokens, but the KV memory holds {num_held} tokens; shorten the prompt"
    return None
