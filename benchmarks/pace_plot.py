"""The table of :mod:`pace` as a plot: what each policy spends, and how late it is. Plain SVG, no library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from pace_sim import Result

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 300, 230, 62, 46, 44
_COLOURS = {"oracle": "#888888", "ours": "#0a7d4b", "ours, prefer=finish": "#1f5fbf"}
_PEER = "#c2571a"


def plot(found: Mapping[str, Sequence[Result]]) -> str:
    """One panel a case: requests a task (across) against mean lag (up, logarithmic)."""
    columns = min(3, len(found))
    rows = math.ceil(len(found) / columns)
    width = columns * (_WIDTH + _GAP) + _LEFT
    height = rows * (_HEIGHT + _TOP + 50) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for index, (title, results) in enumerate(found.items()):
        x = _LEFT + (index % columns) * (_WIDTH + _GAP)
        y = _TOP + (index // columns) * (_HEIGHT + _TOP + 50)
        parts.append(f'<g transform="translate({x},{y})">{_panel(title, results)}</g>')
    x, y = _LEFT, height - 10
    for name, colour in {**_COLOURS, "peers' policies": _PEER}.items():
        parts.append(f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 8}" y="{y}">{escape(name)}</text>')
        x += 30 + 7 * len(name)
    return "\n".join([*parts, "</svg>\n"])


def _panel(title: str, results: Sequence[Result]) -> str:
    most = max(3.0, *(r.requests for r in results)) * 1.05
    low, high = -1.0, max(1.0, *(math.log10(max(r.lag, 0.1)) for r in results)) + 0.2

    def across(requests: float) -> float:
        return (requests - 1.8) / (most - 1.8) * _WIDTH

    def up(lag: float) -> float:
        return _HEIGHT - (math.log10(max(lag, 0.1)) - low) / (high - low) * _HEIGHT

    parts = [
        f'<text x="0" y="-12" font-weight="bold">{escape(title)}</text>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#999"/>',
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT + 32}" text-anchor="middle">requests a task (floor: 2)</text>',
        f'<text transform="translate(-42,{_HEIGHT / 2}) rotate(-90)" text-anchor="middle">mean lag, s</text>',
    ]
    for power in range(-1, math.floor(high) + 1):
        y = up(10.0**power)
        parts.append(f'<line x1="0" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eee"/>')
        parts.append(f'<text x="-6" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    for step in range(2, math.floor(most) + 1, max(1, math.floor(most / 6))):
        parts.append(f'<text x="{across(step):.1f}" y="{_HEIGHT + 16}" text-anchor="middle">{step}</text>')
    for result in reversed(results):
        colour = _COLOURS.get(result.policy, _PEER)
        parts.append(
            f'<circle cx="{across(result.requests):.1f}" cy="{up(result.lag):.1f}" r="4.5" fill="{colour}" '
            f'fill-opacity="0.85"><title>{escape(result.policy)}: {result.requests:.2f} requests a task, '
            f"lag {result.lag:.1f} s, makespan {result.makespan:.0f} s</title></circle>"
        )
    return "".join(parts)
