"""A worker can read a vocabulary's token bytes without the gateway's packages and without loading torch."""

import os
import subprocess
import sys
from pathlib import Path

from tests.deploy.image import REPOSITORY
from tests.deploy.installed import GUARD, modules_not_installed_with
from tests.fakes.tiny_model import CONTROL_TOKENS, write_tiny_gguf

PROGRAM = """
import sys
loaded_before = set(sys.modules)
from pathlib import Path
from pagoda.text import tokenizer
from pagoda.text.gguf_vocabulary import read_vocabulary
token_bytes = read_vocabulary(Path(sys.argv[1])).token_bytes
print(list(token_bytes) == [bytes([byte]) for byte in range(256)] + [b""] * int(sys.argv[2]))
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - loaded_before} - sys.stdlib_module_names))
"""


def test_token_bytes_with_what_a_workers_image_has(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    forbidden = ["gateway", "scheduler", *modules_not_installed_with("worker")]
    environment = {"PYTHONPATH": f"{GUARD}:{REPOSITORY}", "FORBIDDEN_MODULES": " ".join(forbidden)}
    command = [sys.executable, "-P", "-c", PROGRAM, str(model), str(len(CONTROL_TOKENS))]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    # The package needs only the tokenizers library, not torch, although a worker has it.
    assert done.stdout.split() == ["True", "pagoda", "tokenizers"]
