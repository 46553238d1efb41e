"""The checks of a client's program: functions whose names begin with `check_`. All run; the program fails if one of them does.

The programs run with a client's own packages, without those of Pagoda.
"""

import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any

REAL_URL = os.environ["REAL_URL"]
"""The server with the default model. It is too small to call tools by itself, so calls and schemas are enforced."""
SCRIPTED_URL = os.environ["SCRIPTED_URL"]
"""A gateway whose model calls `get_weather` for Lima, and says what the weather is once it has the tool's result."""
MODEL = os.environ["MODEL"]
SCRIPTED_MODEL = os.environ["SCRIPTED_MODEL"]
QUESTION = "What is the weather in Lima?"
ANSWER = "It is 20 degrees in Lima."


def run_checks(namespace: Mapping[str, Any]) -> None:
    failed = 0
    for name, check in list(namespace.items()):
        if not name.startswith("check_"):
            continue
        try:
            check()
        except Exception:
            failed += 1
            print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)
        else:
            print(f"passed {name}", flush=True)
    sys.exit(1 if failed else 0)
