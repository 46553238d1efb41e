"""Logging of all processes: one line per event on stderr, with a fixed message and values as fields.

Fields must never contain prompt text.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

# Fields of a record without `extra`. asyncio adds taskName, and formatting adds message.
_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure_logging(level: LogLevel, log_format: LogFormat) -> None:
    """Configure the log of this process, replacing any earlier configuration. Called once, by a process's `__main__`."""
    output = logging.StreamHandler(sys.stderr)
    output.setFormatter(JSONFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[output], force=True)
    # httpx logs the URL of every request at INFO, httpcore its headers at DEBUG. A URL may be signed, like a password.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # OpenTelemetry's API warns of each malformed tracestate and quotes it: a client could write lines into the log.
    logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)


def configure_warnings() -> None:
    """Format warnings of a command that configures no log, which Python writes to stderr."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(WarningFormatter())


class WarningFormatter(logging.Formatter):
    """A format for people: `Warning: model cannot be read (manifest=/home/you/…/manifest.json, reason="it is empty")`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = ", ".join(f"{key}={_quoted(value)}" for key, value in _fields(record).items())
        return f"Warning: {record.getMessage()}" + (f" ({fields})" if fields else "")


class TextFormatter(logging.Formatter):
    """A format of one line: `2026-01-31T12:00:00.000Z INFO scheduler.loop worker attached worker=w1 pages=512`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {key}={_quoted(value)}" for key, value in _fields(record).items())
        line = f"{_timestamp(record)} {record.levelname} {record.name} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JSONFormatter(logging.Formatter):
    """A format of one JSON object per line. The traceback, if any, is a field."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": _timestamp(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= _fields(record)
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD_FIELDS}


def _timestamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _quoted(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if not text or set(text) & set(" \"'=\n\r\t") else text
