"""The distribution that holds this code: its name on the package index and its version."""

import importlib.metadata

DISTRIBUTION = "pagoda-llm"
"""Name on the package index, where `pagoda` is another project."""
VERSION = importlib.metadata.version(DISTRIBUTION)


def install_command(extra: str) -> str:
    """Return the shell command that installs the distribution with one of its extras."""
    return f"python -m pip install '{DISTRIBUTION}[{extra}]'"
