"""What the sandbox can draw: products made of a few shapes each, and the words that call for them."""

from __future__ import annotations

import hashlib
import re

#: One shape of a product: what it is, its coordinates in a unit square, and how bright it is.
Part = tuple[str, tuple[float, ...], float]

#: subject → its words (SKU-like abbreviations among them), and its parts from back to front.
SUBJECTS: dict[str, tuple[str, tuple[Part, ...]]] = {
    "mug": (
        "mug cup coffee tea",
        (
            ("ring", (0.60, 0.38, 0.86, 0.70), 0.85),
            ("round", (0.24, 0.28, 0.70, 0.86), 1.0),
            ("ellipse", (0.24, 0.22, 0.70, 0.36), 1.25),
            ("ellipse", (0.28, 0.24, 0.66, 0.34), 0.45),
        ),
    ),
    "bottle": (
        "bottle btl flask wine oil soap shampoo perfume water",
        (
            ("round", (0.34, 0.38, 0.66, 0.92), 1.0),
            ("round", (0.44, 0.14, 0.56, 0.46), 1.0),
            ("round", (0.42, 0.08, 0.58, 0.18), 0.6),
            ("round", (0.34, 0.56, 0.66, 0.76), 1.5),
        ),
    ),
    "vase": (
        "vase vas plant flower planter succulent cherry blossom",
        (
            ("leaf", (0.50, 0.50, 0.30, 0.10), 0.75),
            ("leaf", (0.50, 0.50, 0.70, 0.14), 0.9),
            ("leaf", (0.50, 0.52, 0.50, 0.04), 1.1),
            ("polygon", (0.30, 0.50, 0.70, 0.50, 0.62, 0.92, 0.38, 0.92), 1.0),
            ("round", (0.27, 0.46, 0.73, 0.56), 1.2),
        ),
    ),
    "lamp": (
        "lamp lmp lantern",
        (
            ("round", (0.485, 0.36, 0.515, 0.86), 0.6),
            ("ellipse", (0.34, 0.82, 0.66, 0.92), 0.7),
            ("polygon", (0.36, 0.12, 0.64, 0.12, 0.78, 0.48, 0.22, 0.48), 1.25),
            ("ellipse", (0.22, 0.45, 0.78, 0.51), 1.5),
        ),
    ),
    "candle": (
        "candle can",
        (
            ("round", (0.30, 0.46, 0.70, 0.92), 1.0),
            ("ellipse", (0.30, 0.42, 0.70, 0.52), 1.35),
            ("line", (0.50, 0.48, 0.50, 0.36), 0.35),
            ("ellipse", (0.455, 0.20, 0.545, 0.39), 1.9),
            ("round", (0.38, 0.62, 0.62, 0.80), 1.5),
        ),
    ),
    "bag": (
        "bag backpack bck tote pack",
        (
            ("ring", (0.34, 0.14, 0.66, 0.52), 0.7),
            ("polygon", (0.24, 0.34, 0.76, 0.34, 0.82, 0.90, 0.18, 0.90), 1.0),
            ("round", (0.36, 0.52, 0.64, 0.74), 1.2),
        ),
    ),
    "wallet": (
        "wallet wal purse book notebook",
        (
            ("round", (0.26, 0.34, 0.84, 0.78), 0.75),
            ("round", (0.16, 0.42, 0.76, 0.90), 1.0),
            ("line", (0.20, 0.52, 0.72, 0.52), 0.7),
            ("round", (0.58, 0.60, 0.76, 0.72), 1.35),
        ),
    ),
    "clock": (
        "clock clk timer plate",
        (
            ("ellipse", (0.18, 0.24, 0.82, 0.88), 0.7),
            ("ellipse", (0.23, 0.29, 0.77, 0.83), 1.55),
            ("line", (0.50, 0.56, 0.50, 0.37), 0.4),
            ("line", (0.50, 0.56, 0.63, 0.62), 0.4),
            ("ellipse", (0.475, 0.535, 0.525, 0.585), 0.4),
        ),
    ),
    "watch": (
        "watch wat",
        (
            ("round", (0.38, 0.06, 0.62, 0.94), 0.7),
            ("ellipse", (0.27, 0.27, 0.73, 0.73), 1.0),
            ("ellipse", (0.32, 0.32, 0.68, 0.68), 1.7),
            ("line", (0.50, 0.50, 0.50, 0.37), 0.4),
            ("line", (0.50, 0.50, 0.59, 0.55), 0.4),
        ),
    ),
    "headphones": (
        "headphone headset earphone hdp music",
        (
            ("ring", (0.22, 0.14, 0.78, 0.86), 0.75),
            ("round", (0.15, 0.46, 0.33, 0.82), 1.0),
            ("round", (0.67, 0.46, 0.85, 0.82), 1.0),
        ),
    ),
    "speaker": (
        "speaker spk radio audio",
        (
            ("round", (0.28, 0.12, 0.72, 0.92), 1.0),
            ("ellipse", (0.38, 0.19, 0.62, 0.43), 0.6),
            ("ellipse", (0.34, 0.48, 0.66, 0.80), 0.6),
            ("ellipse", (0.44, 0.58, 0.56, 0.70), 1.3),
        ),
    ),
    "chair": (
        "chair chr armchair stool sofa",
        (
            ("round", (0.26, 0.10, 0.74, 0.62), 0.85),
            ("line", (0.28, 0.66, 0.20, 0.92), 0.5),
            ("line", (0.72, 0.66, 0.80, 0.92), 0.5),
            ("round", (0.18, 0.52, 0.82, 0.70), 1.15),
        ),
    ),
    "table": (
        "table tbl desk",
        (
            ("line", (0.28, 0.42, 0.22, 0.92), 0.6),
            ("line", (0.72, 0.42, 0.78, 0.92), 0.6),
            ("line", (0.50, 0.42, 0.50, 0.84), 0.5),
            ("ellipse", (0.10, 0.34, 0.90, 0.50), 0.8),
            ("ellipse", (0.10, 0.31, 0.90, 0.47), 1.25),
        ),
    ),
    "shelf": (
        "shelf shl bookcase cabinet",
        (
            ("line", (0.22, 0.92, 0.30, 0.08), 0.6),
            ("line", (0.78, 0.92, 0.70, 0.08), 0.6),
            ("round", (0.16, 0.80, 0.84, 0.85), 1.1),
            ("round", (0.19, 0.58, 0.81, 0.63), 1.15),
            ("round", (0.22, 0.36, 0.78, 0.41), 1.2),
            ("round", (0.25, 0.15, 0.75, 0.20), 1.25),
        ),
    ),
    "cloth": (
        "rug throw scarf blanket towel shirt thr scf",
        (
            ("round", (0.12, 0.68, 0.88, 0.92), 0.7),
            ("round", (0.14, 0.54, 0.86, 0.76), 0.9),
            ("round", (0.16, 0.40, 0.84, 0.60), 1.1),
            ("line", (0.20, 0.50, 0.80, 0.50), 1.5),
            ("line", (0.18, 0.65, 0.82, 0.65), 1.3),
        ),
    ),
    "cushion": (
        "cushion cus pillow",
        (
            (
                "polygon",
                (
                    0.12,
                    0.22,
                    0.50,
                    0.28,
                    0.88,
                    0.22,
                    0.82,
                    0.56,
                    0.88,
                    0.92,
                    0.50,
                    0.86,
                    0.12,
                    0.92,
                    0.18,
                    0.56,
                ),
                1.0,
            ),
            ("round", (0.26, 0.34, 0.74, 0.80), 1.15),
        ),
    ),
    "kettle": (
        "kettle ktl teapot",
        (
            ("ring", (0.34, 0.08, 0.72, 0.58), 0.5),
            ("polygon", (0.10, 0.34, 0.17, 0.32, 0.36, 0.70, 0.32, 0.80), 0.85),
            ("polygon", (0.36, 0.42, 0.70, 0.42, 0.80, 0.92, 0.26, 0.92), 1.0),
            ("ellipse", (0.36, 0.37, 0.70, 0.47), 1.3),
            ("ellipse", (0.50, 0.32, 0.56, 0.39), 0.5),
        ),
    ),
    "bowl": (
        "bowl bwl salad dish",
        (
            ("pie", (0.12, 0.16, 0.88, 0.90), 1.0),
            ("round", (0.38, 0.86, 0.62, 0.92), 0.7),
            ("ellipse", (0.12, 0.45, 0.88, 0.61), 1.3),
            ("ellipse", (0.17, 0.48, 0.83, 0.59), 0.6),
        ),
    ),
    "knife": (
        "knife knf",
        (
            ("polygon", (0.42, 0.06, 0.58, 0.16, 0.58, 0.60, 0.42, 0.60), 1.7),
            ("round", (0.43, 0.58, 0.57, 0.92), 0.6),
            ("ellipse", (0.485, 0.66, 0.515, 0.69), 1.5),
            ("ellipse", (0.485, 0.79, 0.515, 0.82), 1.5),
        ),
    ),
    "glasses": (
        "sunglasses sunglass glasses sun",
        (
            ("line", (0.44, 0.56, 0.56, 0.56), 0.7),
            ("line", (0.08, 0.52, 0.16, 0.56), 0.7),
            ("line", (0.84, 0.56, 0.92, 0.52), 0.7),
            ("ellipse", (0.12, 0.42, 0.46, 0.78), 0.5),
            ("ellipse", (0.54, 0.42, 0.88, 0.78), 0.5),
            ("ring", (0.12, 0.42, 0.46, 0.78), 1.0),
            ("ring", (0.54, 0.42, 0.88, 0.78), 1.0),
        ),
    ),
    "shoe": (
        "sneaker shoe boot snk trainer",
        (
            ("polygon", (0.12, 0.44, 0.40, 0.40, 0.58, 0.62, 0.86, 0.70, 0.90, 0.84, 0.12, 0.84), 1.1),
            ("round", (0.10, 0.82, 0.92, 0.92), 0.6),
            ("line", (0.42, 0.52, 0.52, 0.46), 1.7),
            ("line", (0.47, 0.59, 0.58, 0.53), 1.7),
            ("line", (0.53, 0.66, 0.64, 0.59), 1.7),
        ),
    ),
    "tent": (
        "tent tnt camp hut temple house",
        (
            ("polygon", (0.50, 0.18, 0.94, 0.90, 0.50, 0.90), 0.75),
            ("polygon", (0.50, 0.18, 0.72, 0.90, 0.06, 0.90), 1.1),
            ("polygon", (0.46, 0.36, 0.54, 0.90, 0.32, 0.90), 0.4),
        ),
    ),
    "box": (
        "box case crate parcel",
        (
            ("polygon", (0.50, 0.20, 0.84, 0.36, 0.50, 0.52, 0.16, 0.36), 1.35),
            ("polygon", (0.16, 0.36, 0.50, 0.52, 0.50, 0.90, 0.16, 0.74), 1.0),
            ("polygon", (0.84, 0.36, 0.50, 0.52, 0.50, 0.90, 0.84, 0.74), 0.7),
        ),
    ),
}

_BY_WORD = {word: name for name, (words, _) in SUBJECTS.items() for word in (name, *words.split())}


def subject_of(text: str) -> str:
    """Which of :data:`SUBJECTS` the words name.

    The first noun we know, or of several in a row the last one: a *desk lamp* is a lamp. Words that name
    nothing always get the same subject.
    """
    found = [
        _BY_WORD.get(word) or _BY_WORD.get(word.removesuffix("s"))
        for word in re.findall("[a-z]+", text.lower())
    ]
    for at, name in enumerate(found):
        if name is not None and not any(found[at + 1 : at + 2]):
            return name
    names = sorted(SUBJECTS)
    return names[hashlib.sha256(text.encode()).digest()[0] % len(names)]
