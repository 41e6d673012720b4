"""The example DAG, from the product table to pictures, a video, one Parquet file and the credits."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from tests.e2e.conftest import ExampleRun, Services


@pytest.fixture
def table(example: ExampleRun) -> pd.DataFrame:
    assert example.state == "success"
    return pd.read_parquet(example.table)


def test_each_product_has_a_picture_and_a_cut_out_and_the_hero_a_video(
    example: ExampleRun, table: pd.DataFrame
) -> None:
    assert len(table) == 4
    assert (table[["picture_status", "cutout_status"]] == "succeeded").all(axis=None)
    assert list(table["video_status"].dropna()) == ["succeeded"]
    kinds = sorted(submission.kind for submission in example.submissions)
    assert kinds == ["image"] * 4 + ["remove_background"] * 4 + ["video"]


def test_the_credits_are_those_that_were_charged(
    services: Services, example: ExampleRun, table: pd.DataFrame
) -> None:
    charged = sum(submission.credits for submission in example.submissions)
    assert charged > 0
    assert table["credits"].sum() == charged
    by_model = services.airflow.xcom("enrich_catalog", example.run_id, "credits_by_model")
    assert by_model["total"] == charged
    assert by_model["kling-3"] == table["video_credits"].sum()


def test_the_files_are_downloaded_and_open(table: pd.DataFrame) -> None:
    for column in ("picture_file", "cutout_file"):
        for path in table[column]:
            with Image.open(path) as picture:
                picture.load()
    (video,) = table["video_file"].dropna()
    assert Path(video).read_bytes()[4:8] == b"ftyp"


def test_the_asset_says_what_was_made(services: Services, table: pd.DataFrame) -> None:
    events = services.airflow.request("GET", "/assets/events", params={"source_dag_id": "enrich_catalog"})
    (event,) = events["asset_events"]
    assert event["extra"]["rows"] == len(table)
    assert event["extra"]["credits"] == table["credits"].sum()
