"""The pictures of README and docs: `python -m torch_fullconv.explanation.figures docs/figures`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from .layer import Shape, explain
from .pictures import draw, save, save_moving
from .scenes import Scene, Stage

POST = Shape((3, 3), (2, 2))
LAYERS = {  # what the moving pictures show
    "post": POST,
    "stride": Shape((5, 5), (3, 3), stride=2),
    "padding": Shape((3, 3), (3, 3), padding=1),
    "dilation": Shape((5, 5), (2, 2), dilation=2),
}


def stills() -> dict[str, Sequence[Scene]]:
    """Scenes by the name of the picture that has them below each other."""
    post = Stage(explain(POST))
    mirrored = Stage(explain(Shape((3, 3), (3, 3), padding=1, padding_mode="reflect")))
    return {
        "three_operations": [
            post.correlation((0, 1)),
            post.filter_gradient((0, 1)),
            post.gather((1, 2)),
        ],
        "convolution": post.convolution(),
        "why_rotate": [post.windows_around((1, 1)), post.gather((1, 1))],
        "two_forms": [post.scatter((1, 1)), post.gather((1, 1))],
        "mirrored_padding": [mirrored.correlation((0, 0))],
    }


def moving() -> dict[str, Sequence[Scene]]:
    """Scenes by the name of the picture that shows them one after the other."""
    pictures: dict[str, Sequence[Scene]] = {}
    for name, shape in LAYERS.items():
        stage = Stage(explain(shape))
        pictures |= {
            f"correlation_{name}": [stage.correlation(o, True) for o in stage.outputs],
            f"filter_gradient_{name}": [stage.filter_gradient(t, True) for t in stage.taps],
            f"gather_{name}": [stage.gather(x, True) for x in stage.inputs],
            f"scatter_{name}": [stage.scatter(o) for o in stage.outputs],
        }
    return pictures


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, scenes in stills().items():
        save(draw(scenes), folder / f"{name}.svg")
    for name, scenes in moving().items():
        save_moving(folder / f"{name}.gif", scenes)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
