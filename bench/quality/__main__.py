"""`python -m bench.quality` measures the quality of each numeric mode, or with --url that of a running server."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer

from bench.quality.formats import CONSIDERED, LLAMA_CPP
from bench.quality.llama_cpp import LlamaCppError, llama_perplexity, requantize
from bench.quality.measure import measure
from bench.quality.perplexity import perplexity_of
from bench.quality.report import Report, markdown, write
from bench.quality.served import ScoredServer
from bench.quality.text import TEXT, beginnings, spread, windows
from pagoda.models.catalogue import DEFAULT_MODEL
from pagoda.models.model import Model
from pagoda.models.pull import open_puller
from pagoda.process.resources import usable_cores
from pagoda.rpc.sockets import default_home
from pagoda.text.tokenizer import Tokenizer
from worker.kernels.interface import Kernels
from worker.kernels.select import select_kernels


def main(
    model: Annotated[
        str, typer.Option(help="Name or path. Default: the default model; with --url the server's first.")
    ] = "",
    modes: Annotated[
        str, typer.Option(help="The worker's numeric modes, optionally with /KV_DTYPE, separated by commas.")
    ] = "integer,integer/int8",
    considered: Annotated[bool, typer.Option(help="Also emulate the number formats that were considered.")] = False,
    llama_cpp: Annotated[
        Path | None, typer.Option(help="Directory with llama.cpp's programs, to run llama-perplexity too.")
    ] = None,
    max_windows: Annotated[
        int | None, typer.Option(min=2, help="Score at most this many windows, evenly spaced over the text.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1)] = usable_cores(),
    output: Annotated[Path | None, typer.Option(help="Path without suffix for the .md and .json files.")] = None,
    text: Annotated[Path, typer.Option(help="Text to score.")] = TEXT,
    url: Annotated[str, typer.Option(help="Score this server instead, such as http://127.0.0.1:8000/v1.")] = "",
    api_key: Annotated[str | None, typer.Option(envvar="OPENAI_API_KEY")] = None,
) -> None:
    """Measure perplexity on a fixed text, divergence from float32, and how often the most probable token is the same."""
    if url:
        server = ScoredServer(url, model=model, api_key=api_key)
        print(f"{server.model}: {perplexity_of(server.logprobs(text.read_text(), max_windows))}")
        return
    torch.set_num_threads(threads)
    described = open_puller(default_home()).ensure(model or DEFAULT_MODEL, on_progress=lambda _: None)
    report = _report(described, modes.split(","), considered, text, max_windows)
    if llama_cpp is not None:
        try:
            report.llama_perplexity.update(_score_with_llama_cpp(llama_cpp, described, text, threads))
        except LlamaCppError as error:
            sys.exit(str(error))
    print(markdown(report))
    if output is not None:
        write(report, output)


def _report(model: Model, modes: list[str], considered: bool, text: Path, max_windows: int | None) -> Report:
    tokenizer = Tokenizer.load(model)
    bos_token_id = tokenizer.bos_token_id if tokenizer.add_bos else None
    written = text.read_text()
    cut = spread(windows(tokenizer.encode(written), bos_token_id), max_windows)
    begun = beginnings(written, tokenizer.encode, bos_token_id)
    kernels = {mode: _kernels(*mode.split("/")) for mode in modes}
    measured = measure(model, cut, begun, kernels, {**LLAMA_CPP, **(CONSIDERED if considered else {})})
    num_modes = 1 + len(modes) + len(LLAMA_CPP)
    return Report(
        model=model.name,
        digest=model.digest,
        quantization=model.quantization,
        modes=measured[:num_modes],
        llama_perplexity={},
        considered=measured[num_modes:],
    )


def _kernels(numerics: str, kv_dtype: str | None = None) -> Kernels:
    return select_kernels(numerics, "cpu", default_home() / "state" / "kernels", kv_dtype)


def _score_with_llama_cpp(directory: Path, model: Model, text: Path, threads: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        requantized = Path(scratch) / "q8_0.gguf"
        requantize(directory, model.path, requantized)
        return {
            "the file": llama_perplexity(directory, model.path, text, threads),
            "the file as Q8_0": llama_perplexity(directory, requantized, text, threads),
        }


if __name__ == "__main__":
    typer.run(main)
