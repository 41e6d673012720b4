from __future__ import annotations

import multiprocessing
import pickle
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pytest

import aio_provider as aio
from aio_provider.frames.schema import arrow_schema, column_names
from aio_provider.frames.udf import BatchFunction

if TYPE_CHECKING:
    from aio_provider.sandbox import Sandbox


def frame(first: int, count: int) -> pd.DataFrame:
    numbers = range(first, first + count)
    return pd.DataFrame({"sku": [f"S{n}" for n in numbers], "caption": [f"a red chair {n}" for n in numbers]})


def test_frames_and_arrow_tables_come_back_as_they_went_in(aio_sandbox_env: Sandbox) -> None:
    picture = BatchFunction("image", model="flux-2", prompt="caption", key="sku")
    out = picture(frame(0, 2))
    assert out["aio_status"].tolist() == ["succeeded"] * 2
    table = pa.table(
        {"sku": pa.array(["S0", "S1"], pa.large_string()), "caption": frame(0, 2)["caption"].tolist()}
    )
    arrow = picture(table)
    assert arrow.schema.field("sku").type == pa.large_string()
    assert [arrow.schema.field(name) for name in column_names()] == list(arrow_schema())
    assert arrow.column("aio_task_id").to_pylist() == out["aio_task_id"].tolist()
    assert len(aio_sandbox_env.submissions) == 2


def test_an_empty_batch_gives_the_types_without_a_key() -> None:
    picture = pickle.loads(pickle.dumps(BatchFunction("image", prompt=aio.template("a {caption}"))))
    empty = picture(frame(0, 0))
    assert list(empty.columns) == ["sku", "caption", *column_names()]
    assert picture(pa.table({"caption": pa.array([], pa.string())})).schema.names == [
        "caption",
        *column_names(),
    ]


def test_what_spark_asks_for(aio_sandbox_env: Sandbox) -> None:
    picture = BatchFunction("image", prompt="caption")
    outs = list(picture.batches([frame(0, 1), frame(1, 1)]))
    assert [out["aio_status"].tolist() for out in outs] == [["succeeded"]] * 2
    text = SimpleNamespace(simpleString=lambda: "string")
    schema = SimpleNamespace(fields=[SimpleNamespace(name="sku", dataType=text)])
    ddl = picture.spark_schema(schema)
    assert ddl.startswith("`sku` string, `aio_status` string, `aio_url` string, `aio_urls` array<string>")
    assert ddl.endswith("`aio_submitted_at` timestamp, `aio_finished_at` timestamp")


def work(payload: bytes) -> list[str]:
    function, first, count = pickle.loads(payload)
    return [str(one) for one in function(frame(first, count))["aio_task_id"]]


def test_workers_share_the_ledger_and_a_batch_run_twice_is_paid_once(aio_sandbox_env: Sandbox) -> None:
    """Four processes; the same batch goes to two of them, as a speculative task would."""
    picture = BatchFunction("image", prompt="caption", key="sku")
    batches = [pickle.dumps((picture, first, 5)) for first in (0, 5, 0, 5)]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        one, two, one_again, two_again = pool.map(work, batches, chunksize=1)
    assert one == one_again
    assert two == two_again
    assert len(aio_sandbox_env.submissions) == 10


@pytest.mark.parametrize("name", ["api_key", "output", "progress", "max_credits"])
def test_arguments_that_have_no_place_on_a_worker(name: str) -> None:
    with pytest.raises(aio.ConfigurationError, match=name):
        BatchFunction("image", prompt="caption", **{name: "x"})


def test_mistakes_are_found_on_the_driver() -> None:
    with pytest.raises(TypeError, match="promt"):
        BatchFunction("image", promt="caption")
    with pytest.raises(aio.InvalidRequestError, match="imgae"):
        BatchFunction("imgae", prompt="caption")
    batch: Any = {"caption": ["a"]}
    with pytest.raises(TypeError, match="batch_format"):
        BatchFunction("image", prompt="caption")(batch)


def test_its_repr_shows_no_values() -> None:
    assert "secret" not in repr(BatchFunction("image", prompt="caption", ledger="postgresql://u:secret@h/d"))
