"""Freed memory returns to the system, even below live blocks and after a large block was freed. Container limits count."""

import subprocess
import sys
from pathlib import Path

import pytest

from pagoda.process import resources
from pagoda.process.resources import machine_available_bytes

GROWTH_MIB = """
import psutil
from pagoda.process.resources import keep_little_freed_memory
if {is_asked}:
    keep_little_freed_memory()
resident = psutil.Process().memory_info
before = resident().rss
large = bytearray(20 << 20)
del large
blocks = [(bytearray(1 << 20), bytearray(600)) for _ in range(64)]
kept = [small for _, small in blocks]
del blocks
print((resident().rss - before) >> 20)
"""


@pytest.mark.parametrize("is_asked", [True, False])
def test_freed_blocks_are_given_back(is_asked: bool) -> None:
    """The call returns the blocks. The C library keeps them without it; otherwise it would be unnecessary."""
    program = GROWTH_MIB.format(is_asked=is_asked)
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert (int(done.stdout) < 16) is is_asked


def test_a_container_limit_counts_and_cached_files_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 200\n")
    monkeypatch.setattr(resources, "CGROUP", tmp_path)
    assert machine_available_bytes() == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert machine_available_bytes() > 1000
