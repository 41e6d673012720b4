"""Enrich a catalogue: a picture and a cut-out for each product, a video for the hero, one Parquet file.

The products are ``data/products.parquet``. Against the sandbox it is free: ``aio sandbox`` prints the
connection. Parameters: ``limit`` (how many products) and ``output`` (a folder, or any URL that fsspec can
write).
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from airflow.providers.common.compat.sdk import Asset, Param, dag, task

from aio_provider.operators.aio import (
    AioDownloadOperator,
    AioGenerateImageOperator,
    AioGenerateVideoOperator,
    AioRemoveBackgroundOperator,
)

PRODUCTS = Path(__file__).parent / "data" / "products.parquet"
CATALOG = Asset("x-aio://examples/enriched_catalog")


@dag(
    schedule=None,
    params={
        "limit": Param(8, type="integer", minimum=1, description="How many products"),
        "output": Param(os.environ.get("AIO_EXAMPLE_OUTPUT", "aio-output"), type="string"),
    },
    # A retry picks up what an attempt has paid for: it costs nothing.
    default_args={"retries": 2, "retry_delay": timedelta(seconds=5)},
    tags=["aio", "example"],
    doc_md=__doc__,
)
def enrich_catalog() -> None:
    """Products in, enriched products out."""

    @task
    def products(params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """The first products of the table; their photos are at the service's own host."""
        import pandas as pd

        from aio_provider.hooks.aio import AioHook

        assert params is not None
        rows = pd.read_parquet(PRODUCTS).head(params["limit"]).to_dict("records")
        service = AioHook().settings.base_url
        return [{**row, "photo": urljoin(service, row["photo"])} for row in rows]

    @task
    def picture_prompts(rows: list[dict[str, Any]]) -> list[str]:
        return [f"Product photo of {row['description']}, on {row['surface']}, soft daylight" for row in rows]

    @task
    def photos(rows: list[dict[str, Any]]) -> list[str]:
        return [row["photo"] for row in rows]

    @task
    def hero(rows: list[dict[str, Any]], pictures: list[dict[str, Any]]) -> dict[str, str]:
        """The first product moves, from its picture on."""
        return {"prompt": f"{rows[0]['name']}: the camera circles it slowly", "image": pictures[0]["urls"][0]}

    @task(outlets=[CATALOG])
    def join(
        rows: list[dict[str, Any]],
        pictures: list[dict[str, Any]],
        cutouts: list[dict[str, Any]],
        video: dict[str, Any],
        files: list[dict[str, Any]],
        params: dict[str, Any] | None = None,
        outlet_events: Any = None,
    ) -> str:
        """One row a product: where its results are, and what they cost."""
        import pandas as pd

        assert params is not None
        made = {"picture": list(pictures), "cutout": list(cutouts), "video": [video]}
        path_of = {file["url"]: file["path"] for file in files}
        table = pd.DataFrame(rows)
        for kind, results in made.items():
            of = pd.DataFrame(
                {
                    f"{kind}_status": [result["status"] for result in results],
                    f"{kind}_model": [result["model"] for result in results],
                    f"{kind}_url": [result["urls"][0] for result in results],
                    f"{kind}_file": [path_of[result["urls"][0]] for result in results],
                    f"{kind}_credits": [result["credits"] for result in results],
                }
            )
            table = table.join(of)
        table["credits"] = table[[f"{kind}_credits" for kind in made]].sum(axis="columns")
        path = f"{params['output'].rstrip('/')}/enriched_catalog.parquet"
        table.to_parquet(path, index=False)
        total = float(table["credits"].sum())
        outlet_events[CATALOG].extra = {"rows": len(table), "credits": total, "failures": 0}
        return path

    @task
    def credits_by_model(
        pictures: list[dict[str, Any]], cutouts: list[dict[str, Any]], video: dict[str, Any]
    ) -> dict[str, float]:
        """What the run cost."""
        credits: dict[str, float] = {}
        for result in [*pictures, *cutouts, video]:
            model = result["model"] or result["kind"]
            credits[model] = credits.get(model, 0) + (result["credits"] or 0)
        return {**credits, "total": sum(credits.values())}

    rows = products()
    pictures = AioGenerateImageOperator.partial(task_id="picture", model="flux-2").expand(
        prompt=picture_prompts(rows)
    )
    cutouts = AioRemoveBackgroundOperator.partial(task_id="cutout").expand(image=photos(rows))
    scene = hero(rows, pictures.output)
    video = AioGenerateVideoOperator(
        task_id="hero_video", model="kling-3", prompt=scene["prompt"], image=scene["image"]
    )
    files = AioDownloadOperator(
        task_id="download",
        source=[pictures.output, cutouts.output, video.output],
        output_path="{{ params.output }}/files/",
    )
    join(rows, pictures.output, cutouts.output, video.output, files.output)
    credits_by_model(pictures.output, cutouts.output, video.output)


enrich_catalog()
