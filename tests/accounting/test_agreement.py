"""Every place and format shows the same figures, and they are the sums over the rows of the ledger."""

from __future__ import annotations

import io
import json
import re
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aio_provider import accounting
from aio_provider.accounting.formats import encode, number
from aio_provider.cli import main
from aio_provider.jobs.ledger import Ledger

from .conftest import NOON, put, row

# Labels are whatever someone wrote: markup of HTML, of rich and of spreadsheets, other scripts, quotes.
NAMES = [None, "shop", "<script>alert(1)</script>", "[red]x[/red]", "çay & süt", '"a",b', "=1+1", "'"]
STATES = ["planned", "intended", "accepted", "unknown", "succeeded", "failed", "expired"]


@st.composite
def attempts(draw: st.DrawFn) -> tuple[dict[str, Any], bool]:
    credits = draw(st.none() | st.integers(0, 4000).map(lambda hundredths: hundredths / 100))
    made = row(
        draw(st.sampled_from(STATES)),
        credits,
        model=draw(st.sampled_from(["flux-2", "kling-3", None])),
        team=draw(st.sampled_from(NAMES)),
        dag_id=draw(st.sampled_from(NAMES)),
        estimate_likely=draw(st.none() | st.integers(1, 50).map(float)),
        sent=NOON - timedelta(hours=draw(st.integers(0, 24 * 70))),
        took=float(draw(st.integers(0, 300))),
    )
    return made, draw(st.booleans())


class Cells(HTMLParser):
    """The rows of a page's tables, as text."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.inside = True
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=st.lists(attempts(), max_size=25))
def test_figures_agree_everywhere(made: Sequence[tuple[dict[str, Any], bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), made)


def check(folder: Path, made: Sequence[tuple[dict[str, Any], bool]]) -> None:
    target = folder / "ledger.sqlite"
    with Ledger.open(target) as ledger:
        put(ledger, *(each for each, past in made if not past))
        put(ledger, *(each for each, past in made if past), past=True)
    frame = accounting.credits(target, ("team", "month"))

    # the sums over the rows
    sent = [(each, past) for each, past in made if each["state"] != "planned"]
    charged = sum(each["credits"] or 0 for each, _ in sent)
    wasted = sum(
        each["credits"] or 0 for each, past in sent if past or each["state"] in ("failed", "expired")
    )
    assert frame["credits"].sum() == pytest.approx(charged, abs=1e-6)
    assert frame["wasted"].sum() == pytest.approx(wasted, abs=1e-6)
    assert frame["tasks"].sum() == len(sent)
    assert (frame["succeeded"] + frame["failed"] + frame["in_flight"] + frame["unknown"]).sum() == len(sent)
    took = [
        (each["finished_at"] - each["accepted_at"]).total_seconds()
        for each, _ in sent
        if each["state"] == "succeeded"
    ]
    totals = frame.attrs["aio"]["totals"]
    if took:
        assert totals["latency_p95"] == pytest.approx(np.percentile(took, 95), abs=0.01)

    # the files
    written = pd.read_csv(io.BytesIO(encode(frame, "csv")), keep_default_na=False, na_values=[""])
    assert written["credits"].tolist() == frame["credits"].tolist()
    whole = json.loads(encode(frame, "json"))
    assert [r["credits"] for r in whole["rows"]] == frame["credits"].tolist()
    assert [r["team"] for r in whole["rows"]] == [None if pd.isna(t) else t for t in frame["team"]]
    assert whole["aio"]["totals"] == totals
    again = pd.read_parquet(io.BytesIO(encode(frame, "parquet")))
    pd.testing.assert_frame_equal(again, frame, check_dtype=False)

    # the terminal
    result = CliRunner(env={"COLUMNS": "400"}).invoke(
        main, ["credits", "--ledger", str(target), "--by", "team,month"], catch_exceptions=False
    )
    lines = [re.split(r"\s{2,}", line.strip()) for line in result.output.splitlines()]
    if len(frame) > 1:
        assert next(line for line in lines if line[0] == "total")[1] == number(totals["credits"])
    for team, month, credits in frame[["team", "month", "credits"]].itertuples(index=False):
        assert ["(none)" if pd.isna(team) else team, month, number(credits)] in [line[:3] for line in lines]

    # the page
    cells = Cells()
    page = accounting.render(accounting.report(target, by=("team", "month")))
    cells.feed(page)
    for team, month, credits in frame[["team", "month", "credits"]].itertuples(index=False):
        shown = ["(none)" if pd.isna(team) else team, month, number(credits)]
        assert shown in [found[:3] for found in cells.rows]
    assert "script" not in cells.tags and (not sent or f"<b>{number(totals['credits'])}</b>" in page)

    # the export, read by another program
    accounting.export_ledger(folder / "export", target)
    if not sent:
        return
    found = duckdb.sql(
        f"""SELECT team, month, count(*) AS tasks, coalesce(sum(credits), 0) AS credits
            FROM read_parquet('{folder}/export/*/*.parquet', hive_partitioning = true,
                hive_types_autocast = false)
            GROUP BY team, month"""
    ).fetchall()
    ours = frame[["team", "month", "tasks", "credits"]].itertuples(index=False)
    expected = {(None if pd.isna(r.team) else r.team, r.month): (r.tasks, r.credits) for r in ours}
    assert {
        (team, month): (tasks, pytest.approx(credits)) for team, month, tasks, credits in found
    } == expected
