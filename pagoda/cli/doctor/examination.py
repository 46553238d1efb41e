"""Runs all checks of `pagoda doctor` and prints their report."""

import textwrap
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.text import Text

from pagoda.cli.doctor import machine, models, setup, sources
from pagoda.cli.doctor.finding import Finding, Level
from pagoda.models.catalogue import DEFAULT_MODEL, find_entry
from pagoda.models.store import ModelStore

_MARKS = {Level.OK: ("ok     ", "green"), Level.WARNING: ("warning", "yellow"), Level.PROBLEM: ("problem", "bold red")}


def examine(home: Path, *, deep: bool, api_key: str | None) -> list[Finding]:
    """Return the findings in the order of the report. The checks run concurrently, because some wait for a program or server."""
    default = find_entry(DEFAULT_MODEL)
    assert default is not None and default.wheel is not None
    needed_bytes = default.wheel.download_bytes + default.wheel.file_bytes
    looks: list[Callable[[], Finding | list[Finding]]] = [
        setup.check_versions,
        setup.check_python,
        setup.check_gateway_packages,
        setup.check_torch,
        machine.check_cpu,
        machine.check_threads,
        machine.check_memory,
        lambda: machine.check_gpu(setup.torch_build()),
        lambda: setup.check_home(home),
        lambda: machine.check_disk(home, needed_bytes),
        lambda: setup.check_sockets(home),
        *(lambda port=port: setup.check_port(port, api_key) for port in setup.PORTS),
        lambda: models.check_index(home),
        lambda: sources.check_hub(ModelStore(home).sources),
        lambda: sources.check_registry(ModelStore(home).sources),
        lambda: models.check_ollama(ModelStore(home).ollama_stores),
        lambda: models.check_models(home, deep=deep),
    ]
    with ThreadPoolExecutor(max_workers=len(looks)) as pool:
        found = [future.result() for future in [pool.submit(look) for look in looks]]
    return [finding for each in found for finding in (each if isinstance(each, list) else [each])]


def print_report(findings: Sequence[Finding]) -> None:
    console = Console(highlight=False, emoji=False, soft_wrap=True)
    subject_width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        mark, style = _MARKS[finding.level]
        indent = " " * (len(mark) + subject_width + 4)
        lines = [finding.text, *([f"→ {finding.next_step}"] if finding.next_step else [])]
        page = "\n".join(_wrapped(line, indent, console) for line in lines)
        console.print(Text(mark, style), f"{finding.subject:<{subject_width}}  {page.lstrip()}", sep="  ", markup=False)
    console.print(_verdict(findings), markup=False)


def _wrapped(line: str, indent: str, console: Console) -> str:
    """Wrap a line between words on a terminal. Output to a file is not wrapped."""
    if not console.is_terminal:
        return indent + line
    width = max(console.width, len(indent) + 20)
    return textwrap.fill(line, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False)


def _verdict(findings: Sequence[Finding]) -> str:
    problems, warnings = (sum(f.level is level for f in findings) for level in (Level.PROBLEM, Level.WARNING))
    if problems:
        return f"\n{problems} {'problem' if problems == 1 else 'problems'} to fix before pagoda serve works."
    return "\nNo problems found." if not warnings else "\nNo problems found; see the warnings above."
