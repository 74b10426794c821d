"""The interactive page: one HTML file that shows a layer's three sums cell by cell, offline.

Its source is `page.html`, `page.css` and four scripts, the index arithmetic in `layer.js`. They are
put into one file here, with what an `Explanation` knows of its layer: the numbers, the products,
and the kernels' results.
"""

from __future__ import annotations

import json
import re
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any

import torch

from ...functional import _geometry
from ..palette import COLOURS

if TYPE_CHECKING:
    from ..layer import Explanation

# What the page's fields accept, so that it can be read on a screen.
LIMITS = {
    "size": (1, 12),
    "kernel": (1, 6),
    "stride": (1, 4),
    "padding": (0, 4),
    "dilation": (1, 3),
    "surplus": (0, 4),  # padding at the end, more than at the start
}


def html(pair: Explanation, title: str = "") -> str:
    """The page that starts with the layer of one filter on one channel."""
    source = resources.files(__name__)
    colours = " ".join(f"--{role}-colour: {colour};" for role, colour in COLOURS.items())
    data = json.dumps(given(pair) | {"title": title}, allow_nan=False).replace("<", r"\u003c")
    page = (source / "page.html").read_text("utf-8")
    for name in re.findall(r'(?:src|href)="([\w.]+)"', page):
        text = (source / name).read_text("utf-8")
        page = page.replace(f'<script src="{name}"></script>', f"<script>\n{text}</script>")
        page = page.replace(f'<link rel="stylesheet" href="{name}">', f"<style>\n{text}</style>")
    page = page.replace(":root {", f":root {{ {colours}", 1)
    return page.replace('id="given">{}', f'id="given">{data}')


def given(pair: Explanation) -> dict[str, Any]:
    """What page.js starts from: the layer, its numbers and products, and the kernels' results."""
    matrices = {
        **{"X": pair.input, "F": pair.filter, "dO": pair.grad},
        **{"O": pair.output.tensor, "dF": pair.filter_gradient.tensor},
        "dX": pair.input_gradient.tensor,
    }
    return {
        "version": metadata.version("torch_fullconv"),
        "limits": LIMITS,
        "precision": torch.finfo(pair.filter.dtype).eps,
        "layer": _axes(pair),
        "products": [
            {"O": equation.left.index[-2:], "F": f.index[-2:], "X": x.index[-2:]}
            for equation in pair.output.values()
            for f, x in equation.terms
        ],
        **{name: matrix.reshape(matrix.shape[-2:]).tolist() for name, matrix in matrices.items()},
    }


def _axes(pair: Explanation) -> list[dict[str, int]]:
    """Rows and columns of the layer; a ValueError where the page has no room or no field for it."""
    sizes, kernel = pair.input.shape[-2:], pair.filter.shape[-2:]
    g = _geometry(pair.filter, kernel=kernel, **pair.options)
    if g.padding_mode != 0:
        raise ValueError(f"the page pads with zeros, not by {pair.options['padding_mode']!r}")
    surplus = g.pad_bottom - g.pad_top, g.pad_right - g.pad_left
    fields = (
        (sizes[0], kernel[0], g.stride_h, g.pad_top, g.dilation_h, surplus[0]),
        (sizes[1], kernel[1], g.stride_w, g.pad_left, g.dilation_w, surplus[1]),
    )
    axes = [dict(zip(LIMITS, values, strict=True)) for values in fields]
    for axis in axes:
        for field, value in axis.items():
            least, most = LIMITS[field]
            if not least <= value <= most:
                raise ValueError(f"the page shows a {field} of {least} to {most}, not {value}")
    return axes
