"""Charts as inline SVG, from numbers alone: no script, no network, colours from the page's style."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from aio_provider.accounting.formats import number

#: colours that the style defines for the parts of a stack (``--s1`` …); what is left goes under "other"
COLOURS = 6
_WIDTH, _HEIGHT = 960, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 6, 10, 26


def columns(days: Sequence[str], parts: Mapping[str, Sequence[float]], classes: Mapping[str, str]) -> str:
    """Stacked columns over time.

    :param days: names of the columns, in order.
    :param parts: name of a part -> its value for each day; the first is at the bottom.
    :param classes: name of a part -> its class in the style.
    """
    totals = [sum(values[i] for values in parts.values()) for i in range(len(days))]
    top, step = _nice(max(totals, default=0.0))
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    slot = wide / max(len(days), 1)
    bar = max(min(slot - (2 if slot > 5 else 0.5), 44.0), 1.0)
    out = [
        f'<svg class="columns" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="Credits, {escape(days[0])} to {escape(days[-1])}, at most {number(max(totals))}">'
    ]
    for i in range(round(top / step) + 1):
        y = _TOP + high * (1 - i * step / top)
        kind = "axis" if i == 0 else "grid"
        out.append(f'<line class="{kind}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="tick end" x="{_LEFT - 8}" y="{y + 4:.1f}">{_short(i * step)}</text>')
    for place, day in enumerate(days):
        x = _LEFT + slot * place + (slot - bar) / 2
        y = _TOP + high
        told = [f"{day}: {number(totals[place])} credits"]
        boxes = []
        for name, values in parts.items():
            if values[place] <= 0:
                continue
            tall = high * values[place] / top
            y -= tall
            gap = 1.0 if tall > 3 else 0.0  # what lies on another is set off by a line of the page's colour
            boxes.append(
                f'<rect class="{classes[name]}" x="{x:.1f}" y="{y:.2f}" width="{bar:.1f}" '
                f'height="{max(tall - gap, 0.3):.2f}"/>'
            )
            told.append(f"{name}: {number(values[place])}")
        left = _LEFT + slot * place
        hit = f'<rect class="hit" x="{left:.1f}" y="{_TOP}" width="{slot:.1f}" height="{high}"/>'
        out.append(f"<g><title>{escape(chr(10).join(told))}</title>{hit}{''.join(boxes)}</g>")
    for place in _labelled(len(days)):
        x = _LEFT + slot * (place + 0.5)
        side = (
            " start" if place == 0 and slot < 40 else " end" if place == len(days) - 1 and slot < 40 else ""
        )
        x += {" start": -slot / 2, " end": slot / 2}.get(side, 0)
        out.append(
            f'<text class="tick{side or " mid"}" x="{x:.1f}" y="{_HEIGHT - 8}">{escape(days[place])}</text>'
        )
    out.append("</svg>")
    return "".join(out)


def bar(share: float, kind: str = "s1", *, more: float = 0.0) -> str:
    """A bar in a table's cell.

    :param share: of the full width, 0 to 1.
    :param more: what is not certain yet, after it, hatched.
    """
    whole, rest = _unit(share), _unit(min(more, 1 - _unit(share)))
    extra = f'<rect class="more" x="{100 * whole:.2f}" width="{100 * rest:.2f}" height="10"/>' if rest else ""
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="10"/>'
        f'<rect class="{kind}" width="{100 * whole:.2f}" height="10"/>{extra}</svg>'
    )


def deviation(value: float, most: float) -> str:
    """A bar to the left or right of a middle line: how far something is off, against the worst of them."""
    if not math.isfinite(value):
        return ""
    wide = 48 * min(abs(value) / most, 1.0) if most else 0.0
    x = 50 - wide if value < 0 else 50
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="{"under" if value < 0 else "over"}" x="{x:.2f}" width="{wide:.2f}" height="10"/>'
        '<rect class="middle" x="49.6" width="0.8" height="10"/></svg>'
    )


def reach(low: float, high: float, most: float) -> str:
    """A line from a median to a high percentile, with a mark at the median; the scale is logarithmic."""
    if not (math.isfinite(low) and math.isfinite(high)) or most <= 0:
        return ""

    def place(value: float) -> float:
        return 2 + 96 * _unit(math.log1p(max(value, 0.0)) / math.log1p(most))

    a, b = place(low), place(high)
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" y="4.5" width="100" height="1"/>'
        f'<rect class="more" x="{a:.2f}" y="3" width="{max(b - a, 0.5):.2f}" height="4"/>'
        f'<rect class="s1" x="{max(a - 0.7, 0):.2f}" width="1.4" height="10"/></svg>'
    )


def _unit(share: float) -> float:
    return min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0


def _nice(most: float) -> tuple[float, float]:
    """The end of an axis and the step of its ticks: three to six of them, at round numbers."""
    if most <= 0:
        return 1.0, 1.0
    rough = most / 5
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough * 0.999)
    return step * math.ceil(most / step * 0.999), step


def _short(value: float) -> str:
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{number(value / (1e3 if sign == 'k' else size))}{sign}"
    return number(value)


def _labelled(count: int) -> list[int]:
    """Which columns get their name: the first, the last, and a few between at even distances."""
    if count <= 8:
        return list(range(count))
    return sorted({round(i * (count - 1) / 6) for i in range(7)})
