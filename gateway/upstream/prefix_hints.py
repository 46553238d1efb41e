"""How much of a prompt each scheduler's workers have probably cached: by the shared prefix index, and by what was sent where.

The second is recent_prefixes.py. Both are hints: a wrong one costs a hit, never an answer.
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
    """What the leading blocks of a prompt are called, for one model's files."""

    root: BlockHash | None = None
    names: tuple[BlockHash, ...] = ()


NO_BLOCKS = PromptBlocks()


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixHint:
    blocks: PromptBlocks = NO_BLOCKS
    num_cached_tokens: Mapping[str, int]
    """By the scheduler's address; those that have none are left out."""


NO_HINT = PrefixHint(num_cached_tokens={})


class PrefixHints:
    def __init__(self, index: PrefixIndex, max_remembered_blocks: int = MAX_REMEMBERED_BLOCKS) -> None:
        self._index = index
        self._recent = RecentPrefixes(max_remembered_blocks)
        self._max_blocks = IndexLimits().max_lookup_blocks

    async def look_up_prefix(
        self, request: InferenceRequest, model: ModelInfo, known: PromptBlocks = NO_BLOCKS
    ) -> PrefixHint:
        """Look up a prefix up to the index's own limit. `model` is what a scheduler says of the request's model.

        `known` is from an earlier look-up for the same request: a prompt that waits is not hashed each time that it is tried.
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
        """Note that the request that was asked about went to this scheduler."""
        self._recent.remember_prefix(hint.blocks.names, address)

    async def close(self) -> None:
        await self._index.close()

    def _name_blocks(self, request: InferenceRequest, model: ModelInfo, known: PromptBlocks) -> PromptBlocks:
        """Name the blocks as the schedulers do: the same names for the same blocks."""
        root = root_hash(model_digest=model.digest, page_size=model.page_size, cache_salt=request.cache_salt)
        if root == known.root:
            return known
        named = hash_blocks(root, request.prompt_token_ids, model.page_size)
        return PromptBlocks(root=root, names=tuple(islice(named, self._max_blocks)))
