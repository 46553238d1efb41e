"""Chooses the files of one model in a repository of the Hugging Face hub: a GGUF file by its quantization, or a safetensors
checkpoint.

GGUF files are chosen as by llama.cpp and Ollama, checkpoints as by vLLM. If a repository has both, a name without a selector means
the checkpoint, as for vLLM, and a name with one (`ORG/REPO:Q8_0`) the GGUF file, as for Ollama.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pagoda.models.errors import ModelFormatError, ModelNotFoundError, some_names
from pagoda.models.formats.description import CHECKPOINT_FILES
from pagoda.models.formats.gguf_parts import PartName, model_stem
from pagoda.models.formats.safetensors_file import INDEX_NAME, PICKLED_SUFFIXES
from pagoda.models.sources.remote import RemoteFile

DEFAULT_TAGS = ("Q4_K_M", "Q8_0")
"""Quantizations to look for, in this order, if the name has none. Then comes the first file."""
OVERRIDES = ("template", "system", "params")
"""Files beside GGUF files that replace settings: a chat template in Go, the system prompt, and parameters in JSON."""
OPTIONAL_FILES = ("chat_template.json", "tokenizer.model", "vocab.json", "merges.txt")
"""Files of a checkpoint that other programs read, but Pagoda does not."""
SHA256, GIT_OID = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
_SMALL_FILES = frozenset({*CHECKPOINT_FILES, INDEX_NAME, *OPTIONAL_FILES})
# Projectors, importance matrices and draft models, which are not models of their own.
_NOT_MODELS = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
_QUANTIZATION = re.compile(r"(?i)(?:^|[.-])((?:UD-)?(?:I?Q\d\w*|TQ\d_\d|B?F16|F32|FP16|MXFP4\w*|NVFP4))$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The files of one model."""

    files: tuple[RemoteFile, ...]
    """The files to download."""
    root: str
    """Path of the GGUF file (the first, if the model is split), or "" for a checkpoint."""
    overrides: Mapping[str, RemoteFile]
    """Files that replace settings, by their names, which are those of OVERRIDES."""
    warnings: tuple[str, ...] = ()


def select_files(
    repo: str, files: Sequence[RemoteFile], selector: str, read: Callable[[RemoteFile], bytes]
) -> Selection:
    """Return the files of the model that a selector means. `read` returns the content of a small file.

    Raises ModelNotFoundError if no file matches the selector, ModelFormatError if the repository has no model that can be read.
    """
    models = [file for file in files if _is_gguf_model(file)]
    top = {file.path: file for file in files if "/" not in file.path}
    if selector and not models:
        raise ModelNotFoundError(f"{repo} has no GGUF files, so it has no {selector!r}; leave out ':{selector}'")
    if not selector and _is_checkpoint(top):
        return _select_checkpoint(repo, top, read)
    if models:
        return _select_gguf(repo, files, models, selector)
    raise ModelFormatError(f"{repo} {_why_unreadable(files, top)}")


def _select_gguf(repo: str, files: Sequence[RemoteFile], models: Sequence[RemoteFile], selector: str) -> Selection:
    first = _find_gguf(models, selector)
    if first is None:
        available = some_names(sorted({_quantization(file) for file in models}))
        raise ModelNotFoundError(f"{repo} has no GGUF file {selector!r} (available: {available})")
    chosen = _all_parts(repo, first, models)
    projectors = [file.name for file in files if "mmproj" in file.name and file.name.endswith(".gguf")]
    return Selection(
        files=chosen,
        root=chosen[0].path,
        overrides={file.path: file for file in files if file.path in OVERRIDES},
        warnings=(f"images cannot be used: the projector {projectors[0]} is not supported",) if projectors else (),
    )


def _find_gguf(models: Sequence[RemoteFile], selector: str) -> RemoteFile | None:
    """Return the first file that matches the selector, or the default one if the selector is empty.

    A selector is a file's name, or a quantization before a dot or hyphen as for llama.cpp. Names in which it is a complete word
    come first, so that F16 does not mean BF16.
    """
    first_parts = [file for file in models if (part := PartName.parse(file.name)) is None or part.place.number == 1]
    for file in models:
        if selector.lower() in (file.name.lower(), file.name.lower().removesuffix(".gguf"), _stem(file).lower()):
            return file
    for tag in [selector] if selector else DEFAULT_TAGS:
        for pattern in (rf"(?:^|[./_-]){re.escape(tag)}[.-]", rf"{re.escape(tag)}[./-]"):
            for file in first_parts:
                if re.search(pattern, file.path, re.IGNORECASE):
                    return file
    return None if selector or not first_parts else first_parts[0]


def _all_parts(repo: str, file: RemoteFile, models: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
    """Return all parts of a split file in their order. Raises ModelFormatError if one is missing."""
    part = PartName.parse(file.name)
    if part is None:
        return (file,)
    by_path, folder = {each.path: each for each in models}, file.path.removesuffix(file.name)
    paths = [f"{folder}{name}" for name in part.all_names()]
    if missing := [path for path in paths if path not in by_path]:
        raise ModelFormatError(f"{repo} lacks a part of {part.stem}: {missing[0]}; choose another quantization")
    return tuple(by_path[path] for path in paths)


def _is_gguf_model(file: RemoteFile) -> bool:
    return file.name.endswith(".gguf") and not any(word in file.name for word in _NOT_MODELS)


def _stem(file: RemoteFile) -> str:
    """Return the name of a GGUF file without its ending and the number of its part."""
    return model_stem(Path(file.name))


def _quantization(file: RemoteFile) -> str:
    """Return the quantization in a file's name, or the name if it has none."""
    found = _QUANTIZATION.search(_stem(file))
    return found[1] if found is not None else _stem(file)


def _is_checkpoint(top: Mapping[str, RemoteFile]) -> bool:
    return "config.json" in top and (INDEX_NAME in top or bool(_weight_names(top)))


def _select_checkpoint(repo: str, top: Mapping[str, RemoteFile], read: Callable[[RemoteFile], bytes]) -> Selection:
    names = _indexed_names(repo, read(top[INDEX_NAME])) if INDEX_NAME in top else _weight_names(top)
    if missing := [name for name in names if name not in top]:
        raise ModelFormatError(f"{repo} lacks the file {missing[0]!r}, which its {INDEX_NAME} names")
    small = [file for path, file in top.items() if path in _SMALL_FILES]
    return Selection(files=(*small, *(top[name] for name in names)), root="", overrides={})


def _weight_names(top: Mapping[str, RemoteFile]) -> list[str]:
    """Return the weight files of a checkpoint without an index: model.safetensors, else all that belong to a checkpoint."""
    if "model.safetensors" in top:
        return ["model.safetensors"]
    return sorted(
        path for path in top if path.endswith(".safetensors") and not path.startswith(("consolidated", "adapter_"))
    )


def _indexed_names(repo: str, index: bytes) -> list[str]:
    try:
        weight_map = json.loads(index)["weight_map"]
        names = sorted({str(name) for name in weight_map.values()})
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        names = []
    if not names or not all(PurePosixPath(name).name == name for name in names):
        raise ModelFormatError(f"the {INDEX_NAME} of {repo} is damaged: it has no weight_map with names of files")
    return names


def _why_unreadable(files: Sequence[RemoteFile], top: Mapping[str, RemoteFile]) -> str:
    """Return the end of a sentence that begins with the repository: why no model in it can be read."""
    needed = "a GGUF file, or config.json with safetensors"
    if "adapter_config.json" in top:
        return "is an adapter, which cannot be served without merging it into its base model"
    if any(path.startswith("consolidated") and path.endswith(".safetensors") for path in top):
        return "has only weights in the Mistral format, which is not supported; choose a repository with config.json"
    if pickled := [file.path for file in files if file.path.endswith(PICKLED_SUFFIXES)]:
        return (
            f"has only pickled weights ({pickled[0]}), which can run code when opened; "
            "choose a repository with safetensors, or convert them (transformers: model.save_pretrained(directory))"
        )
    if "model_index.json" in top:
        return f"is a pipeline of diffusers, which is not supported; a model needs {needed}"
    if any(path.endswith(".safetensors") for path in top):
        return "has safetensors but no config.json, so the model's architecture is unknown"
    return f"has no model that can be served: it needs {needed}"
