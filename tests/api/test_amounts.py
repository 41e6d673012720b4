"""Credits in words: whoever reads them must be able to add them up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import aio_provider
from aio_provider.api.amounts import in_credits, in_digits


@pytest.mark.parametrize(
    ("credits", "text"),
    [
        (0, "0"),
        (-0.0, "0"),
        (1_234_567, "1,234,567"),
        (1_234_567.5, "1,234,567.5"),
        (12.505, "12.51"),
        (0.1 + 0.2, "0.3"),
        (0.0047, "0.0047"),
        (0.00999999, "0.01"),
        (-25_050.0, "-25,050"),
        (1e-9, "0"),
        (float("nan"), "–"),
    ],
)
def test_text(credits: float, text: str) -> None:
    assert in_digits(credits) == text


def test_with_their_unit() -> None:
    assert [in_credits(n) for n in (1, 0, 1_234_567)] == ["1 credit", "0 credits", "1,234,567 credits"]


@given(st.floats(min_value=-1e12, max_value=1e12))
@example(1_234_567.0)
@example(999_999.5)
def test_exact_and_never_with_an_exponent(credits: float) -> None:
    text = in_digits(credits)
    assert re.fullmatch(r"-?\d{1,3}(,\d{3})*(\.\d{1,6})?", text), text
    read = float(text.replace(",", ""))
    assert abs(read - credits) <= max(min(0.00501, abs(credits) * 0.0501), 5.01e-7)


def test_nothing_in_the_package_rounds_credits_to_six_digits() -> None:
    at_risk = re.compile(r"\{[^{}]*credits:g\}|:g\} credits|:,?\.\d+g\}")
    package = Path(aio_provider.__file__).parent
    for path in package.rglob("*.py"):
        assert not at_risk.search(path.read_text(encoding="utf-8")), path
