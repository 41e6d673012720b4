from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from aio_provider.frames.collector import patient_collector


@pytest.fixture(autouse=True)
def thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(700, 11, 12)
    yield
    gc.set_threshold(*before)


def test_what_was_set_comes_back_after_the_last_of_two_runs() -> None:
    first, second = patient_collector(), patient_collector()
    first.__enter__()
    second.__enter__()
    assert gc.get_threshold() == (50_000, 11, 12)
    first.__exit__(None, None, None)
    assert gc.get_threshold() == (50_000, 11, 12)
    second.__exit__(None, None, None)
    assert gc.get_threshold() == (700, 11, 12)


@pytest.mark.parametrize("first", [0, 100_000])
def test_whoever_wants_it_more_patient_or_off_keeps_it_so(first: int) -> None:
    gc.set_threshold(first)
    before = gc.get_threshold()
    with pytest.raises(RuntimeError), patient_collector():
        assert gc.get_threshold() == before
        raise RuntimeError
    assert gc.get_threshold() == before
