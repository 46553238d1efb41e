"""Sizes, times and tables in the format of Ollama's output, so that scripts for that output work with Pagoda's."""

from collections.abc import Sequence
from datetime import datetime, timedelta

_PADDING = "    "
_YEARS_UNTIL_FOREVER = 20


def size(num_bytes: int) -> str:
    """Return a size in decimal units, without a fraction from ten on: `98 MB`, `4.7 GB`."""
    for divisor, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "KB")):
        if num_bytes >= divisor:
            value = num_bytes / divisor
            return f"{int(value)} {unit}" if value >= 10 or value == int(value) else f"{value:.1f} {unit}"
    return f"{num_bytes} B"


def moment(then: datetime, now: datetime) -> str:
    """Return a relative time: `2 weeks ago`, `4 minutes from now` or `Forever`."""
    if then - now > timedelta(days=365 * _YEARS_UNTIL_FOREVER):
        return "Forever"
    return f"{_span(then - now)} from now" if then > now else f"{_span(now - then)} ago"


def _span(delta: timedelta) -> str:
    seconds = int(delta.total_seconds())
    minutes, hours = seconds // 60, round(seconds / 3600)
    if seconds < 60:
        return "Less than a second" if seconds < 1 else "1 second" if seconds == 1 else f"{seconds} seconds"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    days = hours // 24
    for limit, length, unit in ((14, 1, "days"), (60, 7, "weeks"), (730, 30, "months")):
        if days < limit:
            return f"{days // length} {unit}"
    return f"{days // 365} years"


def duration(nanoseconds: int) -> str:
    """Return a duration in Go's format: `1.5s`, `12.3ms`, `2m3.5s`."""
    if nanoseconds < 1000:
        return f"{nanoseconds}ns"
    if nanoseconds < 10**9:
        divisor, unit = (10**3, "µs") if nanoseconds < 10**6 else (10**6, "ms")
        return f"{_decimal(nanoseconds, divisor)}{unit}"
    minutes, rest = divmod(nanoseconds, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    prefix = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{prefix}{_decimal(rest, 10**9)}s"


def _decimal(value: int, divisor: int) -> str:
    whole, rest = divmod(value, divisor)
    digits = str(rest).zfill(len(str(divisor)) - 1).rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows in left-aligned columns that are four spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (_PADDING.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
