"""Estimates of how much of a prompt each scheduler's workers have cached.

They come from the shared prefix index and from the prefixes that this gateway sent recently (recent_prefixes.py). Both are hints:
a wrong one costs a cache hit, never an answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from gateway.upstream.recent_prefixes import MAX_REMEMBERED_BLOCKS, RecentPrefixes
from kvcache.block_hash import BlockHash, hash_blocks, root_hash
from kvcache.prefix_index import IndexLimits, PrefixIndex
from pagoda.wire.inference_request import InferenceRequest
from pagoda.wire.model_info import ModelInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptBlocks:
    """The hashes of a prompt's leading blocks, for one model's files."""

    root: BlockHash | None = None
    names: tuple[BlockHash, ...] = ()


NO_BLOCKS = PromptBlocks()


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixHint:
    """The result of a look-up for one prompt."""

    blocks: PromptBlocks = NO_BLOCKS
    num_cached_tokens: Mapping[str, int]
    """Number of cached prompt tokens by the scheduler's address; schedulers without any are left out."""


NO_HINT = PrefixHint(num_cached_tokens={})


class PrefixHints:
    """The look-up of prompts in the shared prefix index and in the recently sent prefixes."""

    def __init__(self, index: PrefixIndex, max_remembered_blocks: int = MAX_REMEMBERED_BLOCKS) -> None:
        self._index = index
        self._recent = RecentPrefixes(max_remembered_blocks)
        self._max_blocks = IndexLimits().max_lookup_blocks

    async def look_up_prefix(
        self, request: InferenceRequest, model: ModelInfo, known: PromptBlocks = NO_BLOCKS
    ) -> PrefixHint:
        """Look up the prompt's prefix, at most as long as the index allows. `model` is the description of a scheduler.

        `known` is from an earlier look-up for the same request, so that a waiting prompt is not hashed at each attempt.
        """
        if not model.page_size:
            return NO_HINT
        blocks = self._name_blocks(request, model, known)
        num_blocks = self._recent.leading_runs(blocks.names)
        for holder, length in (await self._index.lookup(model.digest, blocks.names)).items():
            num_blocks[holder.scheduler_id] = max(length, num_blocks.get(holder.scheduler_id, 0))
        num_tokens = {address: length * model.page_size for address, length in num_blocks.items()}
        return PrefixHint(blocks=blocks, num_cached_tokens=num_tokens)

    def remember_sent(self, hint: PrefixHint, address: str) -> None:
        """Record that the request of this look-up was sent to this scheduler."""
        self._recent.remember_prefix(hint.blocks.names, address)

    async def close(self) -> None:
        await self._index.close()

    def _name_blocks(self, request: InferenceRequest, model: ModelInfo, known: PromptBlocks) -> PromptBlocks:
        """Return the block hashes, equal to those of the schedulers for the same blocks."""
        root = root_hash(model_digest=model.digest, page_size=model.page_size, cache_salt=request.cache_salt)
        if root == known.root:
            return known
        named = hash_blocks(root, request.prompt_token_ids, model.page_size)
        return PromptBlocks(root=root, names=tuple(islice(named, self._max_blocks)))
