"""Implementation of `pagoda list`, `show`, `rm`, `cp` and `create`, which work on this machine's store without a server.

Their options are in model_commands.py; pagoda/models/model_editor.py changes the store.
"""

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pagoda.cli import human
from pagoda.cli.failure import CommandError
from pagoda.cli.text_check import check_text
from pagoda.models.blobs import BlobStore
from pagoda.models.errors import ModelNotFoundError
from pagoda.models.formats.description import files_to_copy, is_projector
from pagoda.models.formats.gguf_parts import first_part
from pagoda.models.model_editor import ModelEditor
from pagoda.models.modelfile import FromLine, Modelfile, parse_modelfile, render_modelfile
from pagoda.models.names import is_path, normalize_name, with_tag
from pagoda.models.ollama_objects import listed, shown
from pagoda.models.sampling_defaults import SamplingPolicy
from pagoda.models.store import ModelStore
from pagoda.models.stored_settings import read_settings

JSONObject = dict[str, Any]
_NUM_TEXT_LINES = 2
# A longer list, such as the vocabulary, is shown as its length.
_LONGEST_LIST = 5
Rows = Sequence[Sequence[str]]


def list_models(home: Path, prefix: str) -> list[JSONObject]:
    """Return the models whose names begin with `prefix`, the newest first. Say how many of Ollama's are left out."""
    store = ModelStore(home)
    models = [listed(model) for model in store.list() if model.name.lower().startswith(prefix.lower())]
    if num_left_out := sum(name.lower().startswith(prefix.lower()) for name in store.left_out):
        which = "1 model" if num_left_out == 1 else f"{num_left_out} models"
        _say(
            f"{which} of Ollama cannot be served and {'is' if num_left_out == 1 else 'are'} not listed; reasons: pagoda doctor"
        )
    return sorted(models, key=lambda model: str(model["modified_at"]), reverse=True)


def list_page(models: list[JSONObject]) -> str:
    now = datetime.now(UTC)
    rows = [
        [
            model["name"],
            model["digest"][:12],
            human.size(model["size"]),
            human.moment(datetime.fromisoformat(model["modified_at"]), now),
        ]
        for model in models
    ]
    return human.table([["NAME", "ID", "SIZE", "MODIFIED"], *rows])


def show_model(home: Path, name_or_path: str, *, verbose: bool) -> JSONObject:
    """Return the object of /api/show. Its Modelfile names absolute paths, so that it works from any directory of this machine."""
    model = ModelStore(home).get(name_or_path)
    modelfile = render_modelfile(str(model.path), read_settings(model), name=with_tag(model.name))
    return shown(model, SamplingPolicy(), verbose=verbose) | {"modelfile": modelfile}


def show_page(shown: JSONObject, *, verbose: bool = False) -> str:
    """Return the object of /api/show as sections of indented columns, in Ollama's layout."""
    sections = [(title, rows) for title, rows in _sections(shown, verbose) if rows]
    return "\n".join(f"  {title}\n{_indented(rows)}" for title, rows in sections)


def _sections(shown: JSONObject, verbose: bool) -> Iterator[tuple[str, Rows]]:
    yield "Model", list(_model_rows(shown))
    yield "Capabilities", [[capability] for capability in shown.get("capabilities") or []]
    yield "Parameters", [line.split(maxsplit=1) for line in (shown.get("parameters") or "").splitlines() if line]
    if verbose:
        yield "Metadata", [[key, _in_one_line(value)] for key, value in sorted((shown.get("model_info") or {}).items())]
        yield "Tensors", [[each["name"], each["type"], str(each["shape"])] for each in shown.get("tensors") or []]
    yield "System", _first_lines(shown.get("system") or "")
    yield "License", _first_lines(shown.get("license") or "")


def _model_rows(shown: JSONObject) -> Iterator[list[str]]:
    info, details = shown.get("model_info") or {}, shown.get("details") or {}
    family = info.get("general.architecture") or details.get("family", "")
    facts = (
        ("architecture", family),
        ("parameters", details.get("parameter_size")),
        ("context length", info.get(f"{family}.context_length")),
        ("embedding length", info.get(f"{family}.embedding_length")),
        ("quantization", details.get("quantization_level")),
        ("output format", _format_words(shown.get("output_format") or {})),
    )
    yield from ([name, str(value)] for name, value in facts if value)


def _format_words(output_format: JSONObject) -> str:
    """Return the name of the format of calls and reasoning, and the place that names it."""
    found = {
        "response_template": "named by the model's files",
        "template": "found in the template and the vocabulary",
        "fallback": "Pagoda's own, since the chat template has none",
    }
    source = output_format.get("source", "")
    return f"{output_format['name']} ({found.get(source, source)})" if output_format else ""


def _first_lines(text: str) -> Rows:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [[line] for line in lines[:_NUM_TEXT_LINES] + ["..."] * (len(lines) > _NUM_TEXT_LINES)]


def _in_one_line(value: object) -> str:
    if isinstance(value, list) and len(value) > _LONGEST_LIST:
        return f"[{len(value)} values]"
    return " ".join(str(value).split())


def _indented(rows: Rows) -> str:
    return "".join(f"    {line}\n" for line in human.table(rows).splitlines())


def remove_models(home: Path, names: list[str]) -> list[str]:
    """Remove the models and return their names. Removes nothing if one of them does not exist or belongs to Ollama."""
    editor = _editor(home)
    for name in names:
        if not editor.has(name):
            raise ModelNotFoundError(f"model '{name}' not found; to list the models: pagoda list")
        editor.check_deletable(name)
    for name in names:
        foreign = editor.find_foreign_files(name)
        editor.delete(name)
        if foreign is not None:
            _say(f"the files of '{name}' stay in {foreign.place}: {foreign.path}")
            _say(f"to remove them too: {editor.foreign_files.removal_of(foreign)}")
    return names


def copy_model(home: Path, source: str, destination: str) -> None:
    normalize_name(destination)
    _editor(home).copy(source, destination)


def create_model(home: Path, name: str, file: Path) -> None:
    """Create a model from `file`: a Modelfile, a GGUF file or a directory of safetensors. Fetches the model that FROM names."""
    normalize_name(name)
    recipe = _recipe(file)
    for warning in recipe.warnings:
        _say(f"warning: {warning}")
    base = _base(recipe, file.parent)
    weights = _weights(base, file.parent)
    template_name = f"line {recipe.template_line} of the Modelfile: TEMPLATE"
    if weights is None:
        from pagoda.cli.fetch import fetch_model  # imported only here, so that `pagoda list` stays quick

        model = fetch_model(home, base.value)
        _editor(home).create_from_model(name, model, recipe.settings, _say, template_name=template_name)
    else:
        _editor(home).create_from_files(name, weights, recipe.settings, _say, template_name=template_name)
    _say("success")


def _recipe(file: Path) -> Modelfile:
    if file.is_dir() or file.suffix == ".gguf":
        return parse_modelfile(f"FROM {file.absolute()}")
    try:
        return parse_modelfile(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CommandError(
            f"no such file: {file}; write a Modelfile, or name one, a .gguf file or a directory with -f"
        ) from None
    except UnicodeDecodeError:
        raise CommandError(f"{file} is not a text file; -f takes a Modelfile, a .gguf file or a directory") from None


def _base(recipe: Modelfile, directory: Path) -> FromLine:
    """Return the FROM line of the model. Others name the projectors of a model that sees images, which are not used."""
    used: FromLine | None = None
    for each in recipe.bases:
        if is_projector(_path(each, directory)):
            _say(
                f"warning: line {each.line} of the Modelfile: FROM names a projector for images; the model takes only text"
            )
        elif used is not None:
            raise CommandError(
                f"line {each.line} of the Modelfile: there is a FROM before this one, and this one names no projector; "
                "remove one of them"
            )
        else:
            used = each
    if used is None:
        raise CommandError("the Modelfile's FROM names only a projector for images; add a FROM with the model")
    return used


def _weights(base: FromLine, directory: Path) -> dict[str, Path] | None:
    """Return the files that FROM names, by file name; for one part of a GGUF model, all parts. None if it names a model.

    Paths are relative to the Modelfile.
    """
    path = _path(base, directory)
    if path.exists():
        return {file.name: file for file in files_to_copy(first_part(path))}
    if is_path(base.value):
        raise CommandError(
            f"line {base.line} of the Modelfile: FROM {base.value}: no such file or directory; "
            "name a file of this machine, or a model such as qwen3:0.6b"
        )
    return None


def _path(base: FromLine, directory: Path) -> Path:
    return directory / Path(base.value).expanduser()


def _editor(home: Path) -> ModelEditor:
    return ModelEditor(ModelStore(home), BlobStore(home), check_text)


def _say(status: str) -> None:
    print(status, file=sys.stderr)
