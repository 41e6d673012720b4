"""A call on a frame under the ledger's budgets."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import aio_provider as aio
from aio_provider.jobs.ledger import BudgetEvent, Ledger
from aio_provider.jobs.runner import CreditLimitWarning
from aio_provider.sandbox import Sandbox

FRAME = pd.DataFrame({"caption": [f"a lamp, number {n}" for n in range(6)]})


def test_rows_past_a_budget_are_not_submitted(
    aio_sandbox_env: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = tmp_path / "ledger.sqlite"
    monkeypatch.setenv("AIO_TEAM", "ads")
    with Ledger.open(book) as ledger:
        ledger.set_budget("team", "ads", credits=20)
    told: list[BudgetEvent] = []
    with pytest.warns(CreditLimitWarning, match="2 of 6 rows were not submitted. Budget team ads, .* of 20;"):
        out = aio.generate(FRAME, "image", prompt="caption", ledger=book, on_budget_event=told.append)
    assert out["aio_status"].value_counts().to_dict() == {"succeeded": 4, "not_submitted": 2}
    assert "Budget team ads" in out["aio_error"].dropna().iloc[0]
    assert aio_sandbox_env.charged == 20
    assert [(event.value, event.percent) for event in told] == [("ads", 100)]
    with pytest.warns(CreditLimitWarning, match="past it"):  # another frame, its own limit
        aio.generate(FRAME.head(1) + "!", "image", prompt="caption", ledger=book, max_credits=0)
    out = aio.generate(FRAME, "image", prompt="caption", ledger=book, labels={"team": "art"})
    assert set(out["aio_status"]) == {"succeeded"}
    assert aio_sandbox_env.charged == 30


def test_the_callback_has_to_be_one() -> None:
    with pytest.raises(TypeError, match="on_budget_event must be callable with a BudgetEvent, not str"):
        aio.generate(FRAME, "image", prompt="caption", on_budget_event="mail")


def test_the_summary_says_when_prices_have_changed(
    aio_sandbox_env: Sandbox, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    book = tmp_path / "ledger.sqlite"
    frame = FRAME.assign(clip=FRAME["caption"])
    aio_sandbox_env.credits = 1e6
    aio.generate(frame, "video", model="kling-3", prompt="clip", params={"sound": False}, ledger=book)
    charged = aio_sandbox_env.charged
    with Ledger.open(book) as ledger:
        [drift] = ledger.estimate_drift()
    assert (drift.estimated, drift.charged, drift.jobs) == (6 * 200, charged, 6)
    if drift.is_notable:
        assert "Prices: kling-3 was charged" in capfd.readouterr().err
