"""What a call prefers: results as they come, or an early end of the whole."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

import aio_provider as aio
from aio_provider.api.errors import ConfigurationError
from aio_provider.frames.arguments import check_options
from aio_provider.sandbox import Sandbox


@pytest.mark.parametrize(
    ("given", "prefer"),
    [
        ({}, "results"),
        ({"output": "out.parquet"}, "finish"),
        ({"output": "out.parquet", "prefer": None}, "finish"),
        ({"output": "out.parquet", "prefer": "results"}, "results"),
        ({"prefer": "finish"}, "finish"),
    ],
)
def test_where_nobody_looks_before_the_end_only_the_end_counts(given: dict[str, Any], prefer: str) -> None:
    assert check_options(pd.DataFrame(), given).prefer == prefer


def test_it_is_an_argument_of_the_call(aio_sandbox_env: Sandbox) -> None:
    frame = pd.DataFrame({"caption": ["a fox", "a hare"]})
    out = aio.generate(frame, "image", prompt="caption", prefer="finish", progress=False)
    assert list(out["aio_status"]) == ["succeeded"] * 2
    with pytest.raises(ConfigurationError, match="prefer='both'; it must be one of 'results', 'finish'"):
        aio.generate(frame, "image", prompt="caption", prefer="both")
