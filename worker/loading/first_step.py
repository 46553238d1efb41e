"""A step of one token before a model is served, because damaged weights show only in what is computed with them."""

import torch

from pagoda.models.model import Model
from worker.errors import UnusableModelError
from worker.kernels.step_batch import StepBatch
from worker.kv_memory import KVMemory
from worker.models.decoder import DecoderModel


@torch.inference_mode()
def check_first_step(model: Model, decoder: DecoderModel, kv: KVMemory) -> None:
    """Raise UnusableModelError if the logits after an end token are not finite. The first page holds the token."""
    token_id = min(model.eos_token_ids, default=0)
    zero_1, one_page_11 = torch.zeros(1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64)
    batch = StepBatch(
        token_ids_T=torch.tensor([token_id]),
        positions_T=zero_1,
        slots_T=zero_1,
        query_starts=(0, 1),
        context_lens=(1,),
        block_tables_SB=one_page_11,
        sample_rows_R=zero_1,
    )
    if not decoder.forward(batch, kv.layers).isfinite().all():
        raise UnusableModelError(
            f"{model.path}: the model computes logits that are not finite numbers; its weights or its numbers are damaged, "
            "so download or convert it again"
        )
