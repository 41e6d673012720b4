from __future__ import annotations

import subprocess
import sys

import pytest

from aio_provider.api.catalog import KINDS
from aio_provider.frames.accessor import AioAccessor


@pytest.mark.parametrize(
    "program",
    [
        "import pandas, aio_provider; pandas.DataFrame({'a': [1]}).aio",
        "import aio_provider as aio, pandas; aio.generate; pandas.DataFrame({'a': [1]}).aio",
        "import aio_provider as aio, pandas; aio.col('a'); pandas.DataFrame({'a': [1]}).aio",
        "import aio_provider as aio, sys; aio.col('a'); aio.lit(1); assert 'pandas' not in sys.modules",
        "import aio_provider, sys; assert 'pandas' not in sys.modules",
    ],
)
def test_it_is_there_when_it_should_be_and_loads_pandas_only_when_it_must(program: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=120)


def test_there_is_a_method_for_each_kind() -> None:
    assert all(callable(getattr(AioAccessor, kind)) for kind in KINDS)
