"""The programs of the tiers: a check that their packages are installed, and how this process becomes one of them."""

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Sequence

from pagoda.cli.failure import CommandError, failing_in_sentences
from pagoda.distribution import DISTRIBUTION, install_command

TIERS = ("gateway", "scheduler", "worker")
_ALL_TIERS = "all"


def become_tier(tier: str, arguments: Sequence[str]) -> None:
    """Replace this process by the tier's, so that signals and exit status are the tier's own.

    Exit with one sentence if packages of the tier are not installed.
    """
    with failing_in_sentences():
        check_installed(tier)
        # -P: otherwise a folder of the working directory with the tier's name would be imported.
        os.execv(sys.executable, [sys.executable, "-P", "-m", tier, *arguments])


def check_installed(*tiers: str) -> None:
    """Raise CommandError if one of the tiers lacks packages: its own traceback would not say how to install them."""
    missing = sorted({name for tier in tiers for name in missing_packages(tier)})
    if missing:
        extra = tiers[0] if len(tiers) == 1 else _ALL_TIERS
        raise CommandError(
            f"packages of {', '.join(tiers)} are not installed: {', '.join(missing)}. "
            f"Install them: {install_command(extra)} (in a clone: make setup)."
        )


def missing_packages(tier: str) -> list[str]:
    """Return the packages that the tier's extra names and this environment lacks; versions are not compared."""
    from packaging.requirements import Requirement  # imported here, so that `pagoda --help` stays quick

    needed = map(Requirement, importlib.metadata.requires(DISTRIBUTION) or ())
    of_tier = [each.name for each in needed if each.marker is not None and each.marker.evaluate({"extra": tier})]
    # Each package's module has the package's name.
    return [name for name in of_tier if importlib.util.find_spec(name.replace("-", "_")) is None]
