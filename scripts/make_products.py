"""Writes the example product table, ``dags_examples/data/products.parquet``.

Run ``python scripts/make_products.py`` after a change here, and commit both.

``photo`` is a path on the sandbox (``/photos/<sku>.png``): its port differs from start to start, so a DAG or
a notebook puts the sandbox's address in front of it.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

TARGET = Path(__file__).parents[1] / "dags_examples" / "data" / "products.parquet"

PRODUCTS = [
    (
        "LMP-014",
        "Alder desk lamp",
        "a slim oak and brass desk lamp with a linen shade",
        "a walnut desk by a window",
    ),
    (
        "CHR-101",
        "Fjord lounge chair",
        "a low lounge chair in forest green wool with ash legs",
        "a pale wooden floor",
    ),
    ("TBL-007", "Terrazzo side table", "a round side table with a white terrazzo top", "a woven jute rug"),
    (
        "VAS-033",
        "Ripple vase",
        "a hand-thrown stoneware vase with a sand-coloured ripple glaze",
        "a plaster plinth",
    ),
    ("RUG-210", "Dune rug", "a hand-tufted wool rug in warm ochre waves", "a polished concrete floor"),
    ("CLK-002", "Meridian wall clock", "a minimal wall clock in brushed copper", "a limewashed wall"),
    ("MUG-118", "Harbour mug", "a heavy ceramic mug with a speckled navy glaze", "a marble kitchen counter"),
    ("KTL-009", "Gooseneck kettle", "a matte black pour-over kettle with a birch handle", "a slate worktop"),
    ("BWL-045", "Acacia salad bowl", "a wide turned bowl of oiled acacia wood", "a linen tablecloth"),
    (
        "KNF-021",
        "Santoku knife",
        "a santoku knife with a hammered blade and a cherry handle",
        "an end-grain board",
    ),
    ("CAN-060", "Cedar candle", "a scented candle in an amber glass jar", "a stack of old books"),
    ("THR-017", "Heather throw", "a brushed mohair throw in heather grey", "the arm of a leather sofa"),
    (
        "CUS-088",
        "Velvet cushion",
        "a square cushion in rust velvet with piped edges",
        "a bench in a bay window",
    ),
    ("SHL-005", "Ladder shelf", "a leaning five-step shelf of white oak", "a terracotta tile floor"),
    (
        "BCK-012",
        "Commuter backpack",
        "a roll-top backpack in waxed canvas with leather straps",
        "a station bench",
    ),
    ("WAL-030", "Card wallet", "a slim card wallet in vegetable-tanned leather", "a weathered workbench"),
    ("WAT-077", "Field watch", "a steel field watch with a cream dial and a canvas strap", "a folded map"),
    ("SUN-019", "Tortoise sunglasses", "round acetate sunglasses in dark tortoise", "warm beach sand"),
    ("SNK-140", "Court sneakers", "white leather court sneakers with a gum sole", "a red clay court"),
    ("SCF-052", "Indigo scarf", "a fine cotton scarf, shibori-dyed in indigo", "a bleached driftwood rail"),
    (
        "BTL-026",
        "Insulated bottle",
        "a brushed steel water bottle with a cork-lined lid",
        "a mossy rock by a stream",
    ),
    ("TNT-003", "Two-person tent", "a lightweight orange tunnel tent", "a meadow at first light"),
    (
        "SPK-041",
        "Shelf speaker",
        "a compact walnut bookshelf speaker with a woven grille",
        "a low media cabinet",
    ),
    (
        "HDP-066",
        "Studio headphones",
        "over-ear headphones in matte graphite with tan pads",
        "a felt desk mat",
    ),
]


def table() -> pa.Table:
    """The product table: one row a product."""
    rows = [
        {
            "sku": sku,
            "name": name,
            "description": description,
            "surface": surface,
            "photo": f"/photos/{sku}.png",
        }
        for sku, name, description, surface in PRODUCTS
    ]
    text = pa.string()
    schema = pa.schema([(column, text) for column in ("sku", "name", "description", "surface", "photo")])
    return pa.Table.from_pylist(rows, schema=schema)


if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(), TARGET)
    print(f"{TARGET}: {len(PRODUCTS)} products")
