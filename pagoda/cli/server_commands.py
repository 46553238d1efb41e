"""Implementation of `pagoda ps` and `pagoda stop`, which talk to a running server.

Their options are in model_commands.py.
"""

from datetime import UTC, datetime
from typing import Any

from pagoda.cli import human
from pagoda.cli.failure import CommandError, ServerError
from pagoda.cli.ollama_api import OllamaAPI

JSONObject = dict[str, Any]


def running_page(models: list[JSONObject]) -> str:
    now = datetime.now(UTC)
    rows = [
        [
            model["name"],
            model["digest"][:12],
            human.size(model["size"]),
            _processor(model["size"], model.get("size_vram", 0)),
            str(model.get("context_length", "")),
            _until(model, now),
        ]
        for model in models
    ]
    return human.table([["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"], *rows])


def queue_page(queue: JSONObject) -> str:
    """Return a table of the requests that wait for a worker, the next one first. Empty if none waits."""
    if not queue["num_waiting"]:
        return ""
    rows = [
        [
            row["model"],
            row["tenant"] or "-",
            str(row["num_waiting"]),
            str(row["next_position"]),
            f"{row['oldest_s']:.1f} s",
        ]
        for row in queue["queues"]
    ]
    wait = "" if queue["wait_s"] is None else f"; a new request waits about {queue['wait_s']:.0f} s"
    table = human.table([["MODEL", "TENANT", "WAITING", "NEXT IN LINE", "OLDEST"], *rows])
    return f"\n{table}\n{queue['num_running']} running, {queue['num_waiting']} waiting{wait}"


def stop_model(api: OllamaAPI, name: str) -> None:
    try:
        api.unload(name)
    except ServerError as error:
        if error.status == 404:
            raise CommandError(f'couldn\'t find model "{name}" to stop; to list running models: pagoda ps') from None
        raise


def _processor(size: int, size_vram: int) -> str:
    if size_vram == 0:
        return "100% CPU"
    if size_vram == size:
        return "100% GPU"
    if size_vram > size or size == 0:
        return "Unknown"
    cpu_percent = round(100 * (size - size_vram) / size)
    return f"{cpu_percent}%/{100 - cpu_percent}% CPU/GPU"


def _until(model: JSONObject, now: datetime) -> str:
    if model.get("status") == "loading":
        return f"Loading {100 * model['completed'] // max(model['total'], 1)}%"
    expires_at = datetime.fromisoformat(model["expires_at"])
    return "Stopping..." if expires_at < now else human.moment(expires_at, now)
