"""The tensors of mixtures of experts: their names in checkpoints, and which of them a layer has.

Checkpoints hold an expert's matrices alone, or those of all experts of a layer as one stack; gate and up may be one matrix, gate
first. {i} is a layer's number, {e} an expert's.
"""

from collections.abc import Container, Iterator, Mapping

from pagoda.models.model import ExpertsConfig, ModelConfig, ModelFormat

GGUF_EXPERT_NAMES: Mapping[str, str] = {
    "blk.{i}.ffn_gate_inp.weight": "layers.{i}.router.weight",
    "blk.{i}.ffn_gate_exps.weight": "layers.{i}.experts.gate.weight",
    "blk.{i}.ffn_up_exps.weight": "layers.{i}.experts.up.weight",
    "blk.{i}.ffn_down_exps.weight": "layers.{i}.experts.down.weight",
    "blk.{i}.ffn_gate_up_exps.weight": "layers.{i}.experts.gate_up.weight",
    "blk.{i}.ffn_gate.{e}.weight": "layers.{i}.experts.{e}.gate.weight",
    "blk.{i}.ffn_up.{e}.weight": "layers.{i}.experts.{e}.up.weight",
    "blk.{i}.ffn_down.{e}.weight": "layers.{i}.experts.{e}.down.weight",
    "blk.{i}.ffn_gate_inp_shexp.weight": "layers.{i}.shared_gate.weight",
    "blk.{i}.ffn_gate_shexp.weight": "layers.{i}.shared.gate.weight",
    "blk.{i}.ffn_up_shexp.weight": "layers.{i}.shared.up.weight",
    "blk.{i}.ffn_down_shexp.weight": "layers.{i}.shared.down.weight",
}

SAFETENSORS_EXPERT_NAMES: Mapping[str, str] = {
    f"model.layers.{{i}}.{spelled}": f"layers.{{i}}.{ours}.weight"
    for spelled, ours in {
        "mlp.gate.weight": "router",
        "mlp.experts.gate_up_proj": "experts.gate_up",
        "mlp.experts.down_proj": "experts.down",
        "mlp.experts.{e}.gate_proj.weight": "experts.{e}.gate",
        "mlp.experts.{e}.up_proj.weight": "experts.{e}.up",
        "mlp.experts.{e}.down_proj.weight": "experts.{e}.down",
        "mlp.shared_expert_gate.weight": "shared_gate",
        "mlp.shared_expert.gate_proj.weight": "shared.gate",
        "mlp.shared_expert.up_proj.weight": "shared.up",
        "mlp.shared_expert.down_proj.weight": "shared.down",
        # Mixtral.
        "block_sparse_moe.gate.weight": "router",
        "block_sparse_moe.experts.{e}.w1.weight": "experts.{e}.gate",
        "block_sparse_moe.experts.{e}.w3.weight": "experts.{e}.up",
        "block_sparse_moe.experts.{e}.w2.weight": "experts.{e}.down",
        # Granite MoE.
        "block_sparse_moe.router.layer.weight": "router",
        "block_sparse_moe.router.weight": "router",
        "block_sparse_moe.input_linear.weight": "experts.gate_up",
        "block_sparse_moe.output_linear.weight": "experts.down",
        "block_sparse_moe.experts.gate_up_proj": "experts.gate_up",
        "block_sparse_moe.experts.down_proj": "experts.down",
        "shared_mlp.input_linear.weight": "shared.gate_up",
        "shared_mlp.output_linear.weight": "shared.down",
    }.items()
}


def layer_expert_shapes(
    config: ModelConfig, experts: ExpertsConfig, layer: int, names: Container[str], checkpoint: ModelFormat
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of each tensor that takes the place of a layer's MLP, in the form that a checkpoint has.

    `names` are Pagoda's names of the checkpoint's tensors.
    """
    hidden, prefix = config.hidden_size, f"layers.{layer}."
    yield f"{prefix}router.weight", (experts.num_experts, hidden)
    sizes = matrix_sizes(hidden, experts.intermediate_size, f"{prefix}experts.gate_up.weight" in names)
    for part, size in sizes.items():
        stack, first = f"{prefix}experts.{part}.weight", f"{prefix}experts.0.{part}.weight"
        if stack in names or (checkpoint is ModelFormat.GGUF and first not in names):
            yield stack, (experts.num_experts, *size)
        else:
            for expert in range(experts.num_experts):
                yield f"{prefix}experts.{expert}.{part}.weight", size
    if experts.shared_size:
        is_joined = f"{prefix}shared.gate_up.weight" in names
        for part, size in matrix_sizes(hidden, experts.shared_size, is_joined).items():
            yield f"{prefix}shared.{part}.weight", size
    if experts.gates_shared:
        yield f"{prefix}shared_gate.weight", (hidden,) if checkpoint is ModelFormat.GGUF else (1, hidden)


def matrix_sizes(hidden: int, inner: int, is_joined: bool) -> dict[str, tuple[int, int]]:
    """Return the outputs and inputs of an MLP's matrices, by name."""
    inputs = {"gate_up": (2 * inner, hidden)} if is_joined else {"gate": (inner, hidden), "up": (inner, hidden)}
    return inputs | {"down": (hidden, inner)}
