"""Wheels with the files that a test chooses."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path


def write_wheel(directory: Path, project: str, files: Mapping[str, bytes]) -> Path:
    """Write a wheel of version 1.0 for any Python and machine into the directory. Return its path."""
    name = project.replace("-", "_")
    info = f"{name}-1.0.dist-info"
    about = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in {**files, **about}.items():
            archive.writestr(path, data)
    wheel = directory / f"{name}-1.0-py3-none-any.whl"
    wheel.write_bytes(content.getvalue())
    return wheel
