"""Credits as people read them: the same everywhere."""

from __future__ import annotations

from math import isfinite


def in_digits(credits: float | None) -> str:
    """A number of credits: ``1,234,567``, ``12.5``, ``0.0047``; ``–`` for none.

    Exact to the unit however large, never with an exponent; two decimals, or for less than a hundredth two
    digits that are not zeros.
    """
    if credits is None or not isfinite(credits):
        return "–"
    decimals = 2
    while 0 < abs(credits) < 0.995 * 10.0 ** (1 - decimals) and decimals < 6:
        decimals += 1
    text = f"{credits:,.{decimals}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def in_credits(credits: float) -> str:
    """An amount with its unit: ``1 credit``, ``1,485 credits``."""
    return "1 credit" if credits == 1 else f"{in_digits(credits)} credits"
