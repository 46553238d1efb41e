"""The distribution that holds this code: its name on the package index and its version."""

import importlib.metadata

DISTRIBUTION = "pagoda-llm"
"""Name on the package index, where `pagoda` is another project."""
try:
    VERSION = importlib.metadata.version(DISTRIBUTION)
except importlib.metadata.PackageNotFoundError:
    # A checkout that was installed under its old name, or never.
    raise ImportError(
        f"{DISTRIBUTION} is not installed; in the checkout, run: python -m pip install -e '.[all]'"
    ) from None


def install_command(extra: str) -> str:
    """Return the shell command that installs the distribution with one of its extras."""
    return f"python -m pip install '{DISTRIBUTION}[{extra}]'"
