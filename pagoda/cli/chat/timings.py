"""The lines of `--verbose`, from the last object of an answer, as Ollama writes them."""

from typing import Any

from pagoda.cli import human


def timing_lines(end: dict[str, Any]) -> list[str]:
    values = [
        ("total duration", _duration(end, "total_duration")),
        ("load duration", _duration(end, "load_duration")),
        ("prompt eval count", _count(end, "prompt_eval_count")),
        ("prompt eval duration", _duration(end, "prompt_eval_duration")),
        ("prompt eval rate", _rate(end, "prompt_eval_count", "prompt_eval_duration")),
        ("eval count", _count(end, "eval_count")),
        ("eval duration", _duration(end, "eval_duration")),
        ("eval rate", _rate(end, "eval_count", "eval_duration")),
    ]
    return [f"{name + ':':<21} {value}" for name, value in values if value]


def _duration(end: dict[str, Any], field: str) -> str:
    return human.duration(end[field]) if end.get(field) else ""


def _count(end: dict[str, Any], field: str) -> str:
    return f"{end[field]} token(s)" if end.get(field) else ""


def _rate(end: dict[str, Any], count: str, duration: str) -> str:
    return f"{end.get(count, 0) / (end[duration] / 1e9):.2f} tokens/s" if end.get(duration) else ""
