"""Pictures of the interactive page for the documentation: `make screenshots`."""

from __future__ import annotations

import io
import sys
from base64 import b64decode
from pathlib import Path
from tempfile import TemporaryDirectory

import chromium
from PIL import Image

import torch_fullconv as tfc
from torch_fullconv.explanation import Shape

# (name, view, width, dark)
PICTURES = (
    ("gather", "gather", 1100, False),
    ("scatter", "scatter", 1100, True),
    ("filter", "dF", 1100, False),
    ("phone", "gather", 360, True),
)


def main(folder: Path) -> None:
    layer = tfc.explain(Shape((5, 5), (3, 3), stride=2, padding=1))
    with TemporaryDirectory() as scratch:
        browser = chromium.start(Path(scratch, "profile"))
        path = Path(scratch, "layer.html")
        path.write_text(layer.html(), "utf-8")
        for name, view, width, dark in PICTURES:
            chromium.visit(browser, path, width, dark)
            browser.execute_script(
                """const [view] = arguments;
                document.getElementById(`pass-${view.at(-1) === "r" ? "dX" : view}`).click();
                document.querySelector(`[value=${view}]`)?.click();
                if (view === "scatter")
                  for (let k = 1; k < 5; k++) document.getElementById("next").click();
                """,
                view,
            )
            clip = browser.find_element("id", "stage").rect | {"scale": 1}
            shot = browser.execute_cdp_cmd(
                "Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True}
            )
            picture = Image.open(io.BytesIO(b64decode(shot["data"]))).convert("RGB")
            picture.quantize(96, dither=Image.Dither.NONE).save(
                folder / f"{name}.png", optimize=True
            )
        browser.quit()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
