from __future__ import annotations

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from aio_provider.api.errors import InvalidRequestError
from aio_provider.api.requests import GenerationRequest
from aio_provider.frames.columns import col, lit, nested_value, plain, template
from aio_provider.frames.spec import make_spec


def test_template_quotes_columns_and_formats_them() -> None:
    row = {"product": "a lamp", "price": 3.5}
    made = template("{product!r} at {price:.2f} {{EUR}}")
    assert made.names == ("product", "price")
    assert made.value(row.__getitem__) == "'a lamp' at 3.50 {EUR}"


def test_template_takes_column_names_as_they_are() -> None:
    """Dots and brackets belong to the name: a template can reach no attribute of a value."""
    made = template("{a.b} {c[0]}")
    assert made.names == ("a.b", "c[0]")
    assert made.value({"a.b": 1, "c[0]": 2}.__getitem__) == "1 2"


def test_a_template_finds_columns_that_are_whole_numbers() -> None:
    spec = make_spec("image", fields={"prompt": template("{0} on {10}")})
    df = pd.DataFrame({0: ["a lamp"], 10: ["a table"]})
    spec.check_columns(list(df.columns))
    (request,) = spec.requests(df)
    assert isinstance(request, GenerationRequest) and request.params["prompt"] == "a lamp on a table"
    both = pd.DataFrame({0: ["a lamp"], "0": ["a cup"], 10: ["a table"]})
    (request,) = spec.requests(both)
    assert isinstance(request, GenerationRequest) and request.params["prompt"] == "a cup on a table"
    with pytest.raises(InvalidRequestError, match=r"no column '10'\. Did you mean 0\?"):
        spec.check_columns([0])


def test_template_with_a_null_column_is_null() -> None:
    assert template("{a} on {b}").value({"a": "x", "b": None}.__getitem__) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a {", "literal braces"),
        ("a {} b", "name a column"),
        ("no column", "aio.lit"),
        ("{a:{b}}", "cannot quote another column"),
        ("{a!x}", "!x"),
    ],
)
def test_bad_templates_are_refused_with_the_fix(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        template(text)


def test_wrong_types_are_refused() -> None:
    with pytest.raises(TypeError, match=r"aio\.template"):
        template(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"aio\.col"):
        col(["a"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="JSON"):
        lit({1, 2})
    with pytest.raises(TypeError, match="JSON"):
        lit(float("nan"))


@pytest.mark.parametrize("null", [None, float("nan"), pd.NA, pd.NaT, np.nan, np.datetime64("NaT")])
def test_every_null_is_none(null: object) -> None:
    assert plain(null) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5.0, 5),
        (5.5, 5.5),
        (np.int64(5), 5),
        (np.float32(2.0), 2),
        (np.bool_(True), True),
        (True, True),
        (Decimal("2.50"), 2.5),
        (np.array(["a", "b"]), ["a", "b"]),
        ((1.0, [2.0]), [1, [2]]),
        ({"a": np.int8(1)}, {"a": 1}),
        (np.str_("x"), "x"),
    ],
)
def test_cells_become_plain_values(value: object, expected: object) -> None:
    result = plain(value)
    assert result == expected
    assert type(result) is type(expected)


def test_expressions_inside_params_and_nulls_left_out() -> None:
    value = {"lines": [{"text": col("a"), "voice": col("v")}, col("v")], "n": 1}
    assert nested_value(value, {"a": "hi", "v": None}.__getitem__) == {"lines": [{"text": "hi"}], "n": 1}
