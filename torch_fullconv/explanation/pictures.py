"""Draws scenes by matplotlib: stills, and moving pictures of one scene for each element."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .palette import COLOURS
from .scenes import Grid, Line, Place, Scene

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
CELL = 0.5  # inches
GAP, MARGIN, TITLES, LINE = 1.3, 0.7, 2.7, 0.75  # cells
LETTER = 0.17  # cells, of a line's text
CENTRED: dict[str, Any] = {"ha": "center", "va": "center"}
INK, GREY, FAINT, PAPER = "#24292f", "#8b949e", "#d0d7de", "#ffffff"


def draw(scenes: Sequence[Scene], least_width: float = 0) -> Figure:
    """A figure of the scenes, one below the other; at least so many inches wide."""
    from matplotlib.figure import Figure

    width = max(least_width / CELL, *(_width(scene) for scene in scenes))
    heights = [_height(scene) for scene in scenes]
    size = width * CELL, sum(heights) * CELL
    figure = Figure(figsize=size, facecolor=PAPER)
    top = sum(heights)
    for scene, height in zip(scenes, heights, strict=True):
        top -= height
        axes = figure.add_axes((0, top / sum(heights), 1, height / sum(heights)))
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
        _draw_scene(axes, scene, width)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes an SVG or PNG that is the same every time."""
    from matplotlib import rc_context

    svg = path.suffix == ".svg"
    with rc_context({"svg.hashsalt": "torch_fullconv"}):
        figure.savefig(path, dpi=160, metadata={"Date": None} if svg else None)


def save_moving(path: Path, scenes: Sequence[Scene], seconds: float = 1.2) -> None:
    """Writes a GIF that shows one scene after the other, again and again."""
    from PIL import Image

    least, frames = max(CELL * _width(scene) for scene in scenes), []
    for scene in scenes:
        buffer = BytesIO()
        draw([scene], least).savefig(buffer, format="png", dpi=110)
        frames.append(np.asarray(Image.open(buffer).convert("RGB"), np.int32))
    palette, pixels = _indexed(np.stack(frames))
    images = [Image.fromarray(frame, "P") for frame in pixels]
    for image in images:
        image.putpalette(palette.flatten().tolist())
    first, *rest = images
    milliseconds = [int(1000 * seconds)] * len(rest) + [int(2000 * seconds)]
    first.save(path, save_all=True, append_images=rest, duration=milliseconds, loop=0)


def _indexed(frames: Array, most: int = 128) -> tuple[Array, Array]:
    """The commonest colours (most, 3), and the nearest one's index for each pixel.

    Those are all that cells have, and some that the edges of letters fade through.
    """
    packed = frames @ [1 << 16, 1 << 8, 1]
    found, where, count = np.unique(packed, return_inverse=True, return_counts=True)
    colours = found[:, None] >> [16, 8, 0] & 255
    palette = colours[np.argsort(-count, kind="stable")[:most]]
    nearest = ((colours[:, None] - palette) ** 2).sum(-1).argmin(-1).astype(np.uint8)
    return palette, nearest[where].reshape(packed.shape)


def _extent(grid: Grid) -> tuple[Place, Place]:
    """The first place, and how many rows and columns there are."""
    rows, columns = zip(*grid.numbers, strict=True)
    first = min(rows), min(columns)
    return first, (max(rows) - first[0] + 1, max(columns) - first[1] + 1)


def _width(scene: Scene) -> float:
    grids = sum(_extent(grid)[1][1] for grid in scene.grids) + GAP * (len(scene.grids) - 1)
    lines = [LETTER * sum(len(_spoken(text)) for text, _ in line) for line in scene.lines]
    return max(grids, *lines, 11) + 2 * MARGIN


def _spoken(latex: str) -> str:
    return re.sub(r"\\delta ?|[_{}]", lambda found: "δ" if "delta" in found[0] else "", latex)


def _height(scene: Scene) -> float:
    rows = max(_extent(grid)[1][0] for grid in scene.grids)
    return TITLES + rows + 0.4 + LINE * len(scene.lines)


def _draw_scene(axes: Axes, scene: Scene, width: float) -> None:
    axes.text(MARGIN, 0.5, scene.title, fontsize=12, weight="bold", color=INK, va="center")
    axes.text(MARGIN, 1.1, scene.note, fontsize=8, color=GREY, va="center")
    rows = max(_extent(grid)[1][0] for grid in scene.grids)
    used = sum(_extent(grid)[1][1] for grid in scene.grids)
    gap = min((width - 2 * MARGIN - used) / max(len(scene.grids) - 1, 1), 2.5)
    left = MARGIN
    for grid in scene.grids:
        _, (grid_rows, columns) = _extent(grid)
        _draw_grid(axes, grid, left, TITLES + (rows - grid_rows) / 2)
        left += columns + gap
    for i, line in enumerate(scene.lines):
        _draw_line(axes, line, MARGIN, TITLES + rows + 0.6 + LINE * i)


def _draw_grid(axes: Axes, grid: Grid, left: float, top: float) -> None:
    (row, column), _ = _extent(grid)
    axes.text(left, top - 0.75, grid.title, fontsize=9, color=COLOURS[grid.role], va="center")
    behind = {place: (place in grid.badges, place not in grid.ghosts) for place in grid.numbers}
    for place in sorted(grid.numbers, key=behind.__getitem__):
        _draw_cell(axes, grid, place, left + place[1] - column, top + place[0] - row)
    elements = [place for place in grid.numbers if place not in grid.ghosts]
    style: dict[str, Any] = {**CENTRED, "fontsize": 6.5, "color": GREY}
    for i, r in enumerate(sorted({r for r, _ in elements})):
        axes.text(left - 0.2, top + r - row + 0.5, str(i + 1), **style)
    for j, c in enumerate(sorted({c for _, c in elements})):
        axes.text(left + c - column + 0.5, top - 0.2, str(j + 1), **style)


def _draw_cell(axes: Axes, grid: Grid, place: Place, x: float, y: float) -> None:
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle

    ghost = place in grid.ghosts
    colour = GREY if ghost else COLOURS[grid.role]
    fill = to_rgba(colour, (0.4 if place in grid.lit else 0.1) / (2 if ghost else 1))
    edge = FAINT if ghost else colour
    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=fill, edgecolor=edge, linewidth=0.8))
    text, ink = grid.numbers[place], GREY if ghost else INK
    size = min(10, 42 / max(len(text), 1))
    axes.text(x + 0.5, y + 0.56, text, **CENTRED, fontsize=size, color=ink)
    if place in grid.names:
        name = f"${grid.names[place]}$"
        axes.text(x + 0.1, y + 0.1, name, fontsize=5.5, color=colour, va="top")
    if place in grid.badges:
        name, role = grid.badges[place]
        laid: dict[str, Any] = {"edgecolor": COLOURS[role], "linewidth": 1.8, "fill": False}
        axes.add_patch(Rectangle((x + 0.05, y + 0.05), 0.9, 0.9, **laid))
        corner: dict[str, Any] = {"ha": "right", "va": "bottom", "fontsize": 6.5}
        axes.text(x + 0.9, y + 0.92, f"${name}$", color=COLOURS[role], **corner)


def _draw_line(axes: Axes, line: Line, left: float, top: float) -> None:
    """Symbols in their roles' colours, one behind the other."""
    from matplotlib.offsetbox import AnnotationBbox, HPacker, TextArea

    areas: list[Artist] = [
        TextArea(
            text if role is None else f"${text}$",
            textprops={"color": COLOURS.get(role or "", INK), "fontsize": 10},
        )
        for text, role in line
    ]
    packed = HPacker(children=areas, align="baseline", pad=0, sep=1)
    axes.add_artist(AnnotationBbox(packed, (left, top), frameon=False, box_alignment=(0, 1), pad=0))
