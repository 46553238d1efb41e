"""Files whose bytes are read where they are: mapped into memory, and forgotten in parts after they were read."""

import mmap
from contextlib import suppress
from pathlib import Path


def map_file(path: Path) -> memoryview:
    """Return the content of a file that is not empty. Release it to close the file."""
    with path.open("rb") as file:
        # Copy on write, because array libraries warn about read-only buffers. Nothing writes, so no page is copied.
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def forget(data: memoryview, offset: int, num_bytes: int) -> None:
    """Free the memory that these bytes of a mapped file take in this process. A later access reads them from the file again."""
    mapped = data.obj
    assert isinstance(mapped, mmap.mmap)
    start = offset // mmap.PAGESIZE * mmap.PAGESIZE
    with suppress(AttributeError, OSError):  # If this fails, closing the file frees the memory.
        mapped.madvise(mmap.MADV_DONTNEED, start, offset + num_bytes - start)
