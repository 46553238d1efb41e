"""The roofline: the throughput of a perfect server on this machine.

A step takes at least as long as its bytes at the memory's bandwidth, and at least as long as its operations at the int8
ceiling. A row takes at least as long as its steps. The count includes the linear layers (2 operations per weight and
token) and reading weights, keys and values. It leaves out attention's own operations, norms and sampling, so the true
limit is a little lower.
"""

from dataclasses import dataclass

from bench.peers.rows import Row
from pagoda.models.model import ModelConfig

KV_BYTES_PER_ELEMENT = 2
"""All servers store 16-bit keys and values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """The machine's limits, measured in the same run."""

    read_bytes_per_s: float
    int8_operations_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    layer_weights: int
    """Weights of all layers' matrices, which every token uses."""
    head_weights: int
    """Weights of the output matrix, which every sampled token uses."""
    kv_elements_per_token: int


def model_size(config: ModelConfig) -> ModelSize:
    query_size, kv_size = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
    attention = config.hidden_size * (query_size + 2 * kv_size) + query_size * config.hidden_size
    mlp = 3 * config.hidden_size * config.intermediate_size
    return ModelSize(
        layer_weights=config.num_layers * (attention + mlp),
        head_weights=config.vocab_size * config.hidden_size,
        kv_elements_per_token=config.num_layers * 2 * kv_size,
    )


def best_tokens_per_s(row: Row, model: ModelSize, bytes_per_weight: float, ceilings: Ceilings) -> float:
    """Return the output tokens per second at the roofline."""
    workload = row.workload
    num_decode_steps = workload.num_requests * (workload.output_len - 1) / row.concurrency
    seconds = _prefill_s(row, model, ceilings) + num_decode_steps * decode_step_s(
        row, model, bytes_per_weight, ceilings
    )
    return workload.num_requests * workload.output_len / seconds


def decode_step_s(row: Row, model: ModelSize, bytes_per_weight: float, ceilings: Ceilings) -> float:
    """Return the shortest time of a step with one token per sequence, halfway through their output."""
    num_weights = model.layer_weights + model.head_weights
    context = row.input_len + row.workload.output_len / 2
    kv_bytes = row.concurrency * context * model.kv_elements_per_token * KV_BYTES_PER_ELEMENT
    read_s = (num_weights * bytes_per_weight + kv_bytes) / ceilings.read_bytes_per_s
    compute_s = 2 * num_weights * row.concurrency / ceilings.int8_operations_per_s
    return max(read_s, compute_s)


def _prefill_s(row: Row, model: ModelSize, ceilings: Ceilings) -> float:
    """Return the shortest time of all prompts. Operations limit it, as steps have many tokens; each prompt samples one token."""
    layers = 2 * model.layer_weights * row.num_computed_prompt_tokens
    head = 2 * model.head_weights * row.workload.num_requests
    return (layers + head) / ceilings.int8_operations_per_s
