"""A comparison as an SVG bar chart: output tokens per second of each server, row by row.

Each row has its own scale, because rows differ by a factor of a hundred. Bars and text need no library.
"""

from collections.abc import Sequence
from html import escape

from bench.peers.comparison import Comparison, tokens_per_s

WIDTH, LABEL_WIDTH, VALUE_WIDTH = 860, 190, 110
BAR_HEIGHT, BAR_STEP, TITLE_STEP, MARGIN = 14, 18, 26, 12
OURS_COLOR, PEER_COLOR, TEXT_COLOR = "#c2410c", "#64748b", "#1f2937"


def draw(comparison: Comparison) -> str:
    servers = [standing.server for standing in comparison.standings]
    row_height = TITLE_STEP + BAR_STEP * len(servers) + MARGIN
    height = MARGIN + row_height * len(comparison.row_names)
    rows = (
        line
        for index, row in enumerate(comparison.row_names)
        for line in _draw_row(comparison, row, servers, MARGIN + row_height * index)
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *rows, "</svg>"]) + "\n"


def _draw_row(comparison: Comparison, row: str, servers: Sequence[str], top: int) -> list[str]:
    cells = [comparison.cell(row, server) for server in servers]
    speeds = [tokens_per_s(cell) if cell else 0.0 for cell in cells]
    fastest = max(speeds, default=0.0) or 1.0
    lines = [_text(MARGIN, top + BAR_HEIGHT, f"{row}: output tokens per second", weight="bold")]
    for index, (server, speed) in enumerate(zip(servers, speeds, strict=True)):
        y = top + TITLE_STEP + BAR_STEP * index
        length = (WIDTH - LABEL_WIDTH - VALUE_WIDTH) * speed / fastest
        color = OURS_COLOR if index == 0 else PEER_COLOR
        lines.append(_text(MARGIN, y + BAR_HEIGHT - 3, server))
        lines.append(
            f'<rect x="{LABEL_WIDTH}" y="{y}" width="{length:.1f}" height="{BAR_HEIGHT}" fill="{color}"/>',
        )
        lines.append(_text(LABEL_WIDTH + length + 6, y + BAR_HEIGHT - 3, f"{speed:.1f}" if speed else "not measured"))
    return lines


def _text(x: float, y: float, words: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y}" fill="{TEXT_COLOR}" font-weight="{weight}">{escape(words)}</text>'
