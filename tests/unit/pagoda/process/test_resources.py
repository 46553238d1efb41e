"""Freed memory returns to the system, even below live blocks and after a large block was freed."""

import subprocess
import sys

import pytest

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
