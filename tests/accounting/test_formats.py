"""Numbers as people read them."""

from __future__ import annotations

from math import inf, nan

import pytest

from aio_provider.accounting.formats import aligned, money, number, percent, seconds


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (number(1234.25), "1,234.25"),
        (number(1200.0), "1,200"),
        (number(0.1 + 0.2), "0.3"),
        (number(-1e-9), "0"),
        (number(nan), "–"),
        (money(0.5), "0.50"),
        (percent(0.1234), "12.3 %"),
        (percent(0.18, sign=True), "+18.0 %"),
        (percent(-0.00001, sign=True), "0.0 %"),
        (percent(inf), "–"),
        (seconds(4.25), "4.2 s"),
        (seconds(59.6), "1:00 min"),
        (seconds(3725), "1:02 h"),
        (" ".join(aligned([1.0, 2.0, nan])), "1 2 –"),
        (" ".join(aligned([1.0, 2.5])), "1.00 2.50"),
    ],
)
def test_numbers(shown: str, said: str) -> None:
    assert shown == said
