"""Python imports this module at its start if its folder is in PYTHONPATH.

Modules and packages that FORBIDDEN_MODULES names, separated by spaces, then cannot be imported.
"""

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

FORBIDDEN = frozenset(os.environ.get("FORBIDDEN_MODULES", "").split())
MOST_PARTS = max((name.count(".") + 1 for name in FORBIDDEN), default=0)


class Guard(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        parts = name.split(".")
        if any(".".join(parts[:number]) in FORBIDDEN for number in range(1, min(len(parts), MOST_PARTS) + 1)):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


sys.meta_path.insert(0, Guard())
