"""Tests of the quality report, and of the calls of llama.cpp's programs."""

import json
from pathlib import Path

import pytest

from bench.quality.comparison import Quality
from bench.quality.llama_cpp import LlamaCppError, llama_perplexity, requantize
from bench.quality.report import Report, markdown, write


def quality(name: str) -> Quality:
    return Quality(
        name=name,
        perplexity=24.884,
        perplexity_second_half=21.256,
        perplexity_change=0.0071,
        perplexity_change_error=0.0015,
        mean_kl=0.005,
        top1=0.959,
        largest_kl=0.25,
        ten_largest_kl=0.125,
        num_tokens=6643,
    )


def report(*, considered: tuple[Quality, ...] = ()) -> Report:
    return Report(
        model="tiny:1b",
        digest="0" * 64,
        quantization="Q4_1",
        modes=[quality("integer")],
        llama_perplexity={"the file": 20.604},
        considered=considered,
    )


def test_a_row_per_mode_and_peer() -> None:
    table = markdown(report())
    assert "| integer | 24.884 | +0.71% ± 0.15% | 0.0050 | 0.1250 | 0.2500 | 95.9% | 21.256 |" in table
    assert "| llama.cpp itself, the file | | | | | | | 20.604 |" in table
    assert "considered" not in table


def test_formats_considered_are_a_part_of_their_own() -> None:
    modes, considered = markdown(report(considered=(quality("int3"),))).split("## Formats considered")
    assert "int3" in considered and "int3" not in modes


def test_numbers_are_written_beside_the_table(tmp_path: Path) -> None:
    write(report(), tmp_path / "quality-tiny-1.5b")
    assert (tmp_path / "quality-tiny-1.5b.md").read_text() == markdown(report())
    numbers = json.loads((tmp_path / "quality-tiny-1.5b.json").read_text())
    assert numbers["modes"][0]["mean_kl"] == 0.005


def program(directory: Path, name: str, script: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)


def test_llama_perplexity_s_estimate_is_read(tmp_path: Path) -> None:
    program(
        tmp_path, "llama-perplexity", '[ "$6" = 512 ] && echo "3.3 I Final estimate: PPL = 20.6041 +/- 0.79741" >&2'
    )
    assert llama_perplexity(tmp_path, Path("model.gguf"), Path("text"), threads=2) == 20.6041


def test_a_program_of_llama_cpp_that_fails_ends_with_its_reason(tmp_path: Path) -> None:
    program(tmp_path, "llama-quantize", "echo 'no such type' >&2; exit 3")
    with pytest.raises(LlamaCppError, match="status 3: no such type"):
        requantize(tmp_path, Path("model.gguf"), tmp_path / "q8.gguf")


def test_without_an_estimate_there_is_no_number(tmp_path: Path) -> None:
    program(tmp_path, "llama-perplexity", "echo you need at least 1024 tokens")
    with pytest.raises(LlamaCppError, match="printed no estimate: you need"):
        llama_perplexity(tmp_path, Path("model.gguf"), Path("text"), threads=2)
