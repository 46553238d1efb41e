"""`python -m worker.kernels.triton.compile`: compile all kernels ahead of time, without a GPU, and print what they need.

It prints, for each target, model and kernel: registers per thread, shared memory per block, and bytes spilled from registers.
So a kernel that a GPU cannot run is found here and not by the first request. `--json` prints JSON lines, which also have the
size of the binary.
"""

import argparse
import dataclasses
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from worker.kernels.triton.kv_pages import write_kv_kernel, write_kv_launch
from worker.kernels.triton.online_softmax import HeadShape
from worker.kernels.triton.paged_decode import decode_join_kernel, decode_split_kernel, join_launch, split_launch
from worker.kernels.triton.paged_prefill import prefill_kernel, prefill_launch

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
"""The targets: A100, H100 and MI300."""
SHARED_BYTES = {"sm_80": 163 << 10, "sm_90": 227 << 10, "gfx942": 64 << 10}
"""Maximum shared memory of one block, in bytes."""
BINARIES = {"cuda": "cubin", "hip": "hsaco"}

MODELS = {
    "SmolLM2 135M": (HeadShape(num_heads=9, num_kv_heads=3, head_size=64, page_size=16), False),
    "Phi-2": (HeadShape(num_heads=32, num_kv_heads=32, head_size=80, page_size=16), False),
    "Phi-3 mini": (HeadShape(num_heads=32, num_kv_heads=32, head_size=96, page_size=16), False),
    "Llama 3 8B": (HeadShape(num_heads=32, num_kv_heads=8, head_size=128, page_size=16), False),
    "Gemma 2 2B": (HeadShape(num_heads=8, num_kv_heads=4, head_size=256, page_size=16), True),
}
"""Models by head size, each with True if its scores are capped."""

KV_TYPES = {"bf16": 2, "fp16": 2, "fp32": 4}
"""Bytes per element of each type."""
ARGUMENT_TYPES = {
    "out_ptr": "*fp32",
    "mean_ptr": "*fp32",
    "log_weight_ptr": "*fp32",
    "q_ptr": "*fp32",
    "k_ptr": "*fp32",
    "v_ptr": "*fp32",
    "slots_ptr": "*i64",
    "tables_ptr": "*i64",
    "decodes_ptr": "*i32",
    "tiles_ptr": "*i32",
    "q_stride": "i32",
    "k_stride": "i32",
    "v_stride": "i32",
    "table_stride": "i32",
    "num_splits": "i32",
    "window": "i32",
    "scale": "fp32",
    "cap": "fp32",
}
"""Types of the arguments, as launches pass them; `kv_ptr` has the type of the KV memory."""
MULTIPLES_OF_16 = {"q_stride", "k_stride", "v_stride", "window"}
"""Arguments, beside the pointers, that are nearly always multiples of 16; Triton compiles a special kernel for that case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One kernel for one model, with the constants, warps and stages of its launch."""

    model: str
    kv_type: str
    kernel: Any
    launch: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    target: str
    model: str
    kernel: str
    binary_bytes: int
    registers: int
    spilled_bytes: int
    shared_bytes: int


def variants(model: str, kv_type: str) -> Iterator[Variant]:
    (shape, has_cap), element_bytes = MODELS[model], KV_TYPES[kv_type]
    launches = [
        (write_kv_kernel, write_kv_launch(shape.num_kv_heads, shape.page_size, shape.head_size)),
        (decode_split_kernel, split_launch(shape, element_bytes, has_cap=has_cap)),
        (decode_join_kernel, join_launch(shape)),
        (prefill_kernel, prefill_launch(shape, element_bytes, has_cap=has_cap)),
    ]
    for kernel, launch in launches:
        yield Variant(model=model, kv_type=kv_type, kernel=kernel, launch=launch)


def compile_variant(variant: Variant, target: str) -> Compiled:
    kernel, gpu = variant.kernel, TARGETS[target]
    compiled = triton.compile(
        _source(variant),
        target=gpu,
        options={name: value for name, value in variant.launch.items() if name not in kernel.arg_names},
    )
    measure = _measure_nvidia if gpu.backend == "cuda" else _measure_amd
    registers, spilled_bytes = measure(compiled.asm, target)
    return Compiled(
        target=target,
        model=variant.model,
        kernel=kernel.__name__,
        binary_bytes=len(compiled.asm[BINARIES[gpu.backend]]),
        registers=registers,
        spilled_bytes=spilled_bytes,
        shared_bytes=compiled.metadata.shared,
    )


def _source(variant: Variant) -> Any:
    names = variant.kernel.arg_names
    types = ARGUMENT_TYPES | {"kv_ptr": f"*{variant.kv_type}"}
    aligned = [name for name in names if name.endswith("_ptr") or name in MULTIPLES_OF_16]
    return ASTSource(
        fn=variant.kernel,
        signature={name: "constexpr" if name in variant.launch else types[name] for name in names},
        constexprs={name: value for name, value in variant.launch.items() if name in names},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )


def _measure_nvidia(asm: Mapping[str, Any], target: str) -> tuple[int, int]:
    """Return registers and spilled bytes from the assembler's report; Triton shows them only once a driver has loaded a kernel."""
    architecture = f"{target}a" if target == "sm_90" else target
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "kernel.ptx")
        source.write_text(asm["ptx"])
        command = [triton.knobs.nvidia.ptxas.path, "-v", f"--gpu-name={architecture}", source, "-o", "/dev/null"]
        report = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    return _number(r"Used (\d+) registers", report), _number(r"(\d+) bytes spill stores", report)


def _measure_amd(asm: Mapping[str, Any], target: str) -> tuple[int, int]:
    """Return registers and spilled bytes from the assembly's metadata. A vector register holds 4 bytes for each of 64 threads."""
    text = asm["amdgcn"]
    return _number(r"\.vgpr_count:\s+(\d+)", text), 4 * _number(r"\.vgpr_spill_count:\s+(\d+)", text)


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"the assembler's output has no match for {pattern!r}")
    return int(match[1])


def _print_table(rows: list[Compiled]) -> None:
    targets = list(dict.fromkeys(row.target for row in rows))
    print(f"| model | kernel | {' | '.join(targets)} |")
    print(f"|{'---|' * (2 + len(targets))}")
    for model, kernel in dict.fromkeys((row.model, row.kernel) for row in rows):
        cells = [_needs(row) for row in rows if (row.model, row.kernel) == (model, kernel)]
        print(f"| {model} | `{kernel}` | {' | '.join(cells)} |")


def _needs(row: Compiled) -> str:
    spills = f", {row.spilled_bytes} bytes spilled" if row.spilled_bytes else ""
    return f"{row.registers} registers, {row.shared_bytes / 1024:.0f} KiB{spills}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--target", action="append", choices=TARGETS, help="Default: all.")
    parser.add_argument("--model", action="append", choices=MODELS, help="Default: all.")
    parser.add_argument("--kv-type", default="bf16", choices=KV_TYPES)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = [
        compile_variant(variant, target)
        for target in arguments.target or TARGETS
        for model in arguments.model or MODELS
        for variant in variants(model, arguments.kv_type)
    ]
    if arguments.json:
        print("\n".join(json.dumps(dataclasses.asdict(row)) for row in rows))
    else:
        _print_table(rows)


if __name__ == "__main__":
    main()
