"""Shell completion of model names."""

import json
import os
import subprocess
import sys
from pathlib import Path

from pagoda.models.catalogue import CATALOGUE


def complete(home: Path, line: str) -> list[str]:
    environment = os.environ | {
        "PAGODA_HOME": str(home),
        "_PAGODA_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - (not line.endswith(" "))),
    }
    code = "from pagoda.cli.main import app; app(prog_name='pagoda')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=200)
    return done.stdout.split()


def test_commands_and_model_names(tmp_path: Path) -> None:
    directory = tmp_path / "models" / "mine" / "latest"
    directory.mkdir(parents=True)
    (directory / "manifest.json").write_text(json.dumps({"name": "mine:latest", "file": "x"}))
    (tmp_path / "models" / "broken" / "latest").mkdir(parents=True)
    (tmp_path / "models" / "broken" / "latest" / "manifest.json").write_text("{")
    assert complete(tmp_path, "pagoda do") == ["doctor"]
    assert complete(tmp_path, "pagoda run ") == sorted(["mine:latest", *(entry.name for entry in CATALOGUE)])
    assert complete(tmp_path, "pagoda pull smol") == ["smollm2:1.7b", "smollm2:135m", "smollm2:360m"]
    assert complete(tmp_path, "pagoda serve --model phi") == ["phi4:14b"]
    assert complete(tmp_path, "pagoda rm ") == ["mine:latest"]
