"""The example notebook, executed as a reader would, against a sandbox that counts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

if TYPE_CHECKING:
    from aio_provider.sandbox import Sandbox

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "enrich_catalog.ipynb"


def html_of(notebook: Any) -> list[str]:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]


def test_it_runs_pays_once_and_shows_its_pictures(
    aio_sandbox_env: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIO_EXAMPLE_OUTPUT", str(tmp_path / "output"))
    notebook = nbformat.read(NOTEBOOK, 4)
    for cell in notebook.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs = []
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=100, kernel_name="python3", resources=where).execute()

    kinds = [sent.kind for sent in aio_sandbox_env.submissions]
    assert {kind: kinds.count(kind) for kind in kinds} == {"image": 8, "remove_background": 8, "video": 1}
    catalog = pd.read_parquet(tmp_path / "output" / "enriched_catalog.parquet")
    assert catalog["aio_status"].tolist() == ["succeeded"] * 8
    assert catalog["video_status"].count() == 1
    spent = catalog[["aio_credits", "cutout_credits", "video_credits"]].to_numpy()
    assert pd.DataFrame(spent).sum().sum() == aio_sandbox_env.charged
    assert len(list((tmp_path / "output" / "pictures").glob("*.png"))) == 8
    shown = html_of(notebook)
    assert sum(html.count("<img") for html in shown) == 16
    assert sum(html.count("<video") for html in shown) == 1
    assert any("8 reused (saved 40 credits), 0 credits spent" in html for html in shown)


def test_the_saved_copy_has_its_outputs_and_nothing_of_the_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 300_000
    assert "/tmp/" not in text
    assert "Error" not in text
    saved = nbformat.reads(text, 4)
    assert sum(html.count("<img") for html in html_of(saved)) == 16
    assert sum(html.count("<video") for html in html_of(saved)) == 1
    assert all("data:" in html for html in html_of(saved) if "<img" in html)
