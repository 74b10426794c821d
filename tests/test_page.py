"""The interactive page, driven in headless Chromium and compared with the kernels.

Every test opens the page from a file; no error may be logged and no other request made. Without
Chromium and its driver the tests are skipped with a warning, and where REQUIRE_BROWSER is set, as
in `.ci/run`, they fail.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import pytest
import torch
from cases import F64
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.support.wait import WebDriverWait
from torch import Tensor

import torch_fullconv as tfc
from torch_fullconv import explanation
from torch_fullconv import functional as fc
from torch_fullconv.__main__ import main
from torch_fullconv.explanation import Explanation, Shape

FIELDS = ("size", "kernel", "stride", "padding", "dilation")
LAYERS = {  # rows and columns of each field
    "the post's": ((3, 3), (2, 2), (1, 1), (0, 0), (1, 1)),
    "strided": ((5, 5), (3, 3), (2, 2), (1, 1), (1, 1)),
    "rows left over": ((6, 7), (3, 2), (2, 3), (0, 0), (1, 1)),
    "dilated": ((6, 5), (3, 2), (1, 2), (2, 0), (2, 3)),
    "stride beyond the filter": ((5, 4), (1, 2), (3, 3), (0, 1), (1, 1)),
    "padding beyond the filter": ((2, 3), (2, 1), (1, 2), (4, 2), (1, 1)),
    "more than nine rows": ((11, 2), (4, 1), (1, 1), (0, 0), (2, 1)),
}
HELPERS = """
const id = (name) => document.getElementById(name);
const set = (field, value) => {
  field.value = value;
  field.dispatchEvent(new Event("input", {bubbles: true}));
};
const show = (view) => {
  id(`pass-${view.at(-1) === "r" ? "dX" : view}`).click();
  document.querySelector(`[value=${view}]`)?.click();
};
"""
# Goes through the steps of each view: the sum as it is written, which element of the piece lies on
# which of the board, and at the end all numbers.
WALK = """
const walk = (view) => {
  show(view);
  const step = id("step"), sums = [], laid = [];
  for (let k = 1; k <= step.max; k++) {
    set(step, k);
    const terms = [...document.querySelectorAll("#terms .symbols")].map((s) => s.textContent);
    sums.push(`${id("sum").querySelector("var").textContent} = ${terms.join(" + ") || 0}`);
    for (const tile of document.querySelectorAll(".tile:not(.idle)")) {
      const {x, y, width, height} = tile.getBoundingClientRect();
      const under = [...tile.parentElement.querySelectorAll(".cell")].find((cell) => {
        const box = cell.getBoundingClientRect();
        return Math.hypot(box.x + box.width / 2 - x - width / 2,
          box.y + box.height / 2 - y - height / 2) < 1;
      });
      laid.push([document.querySelector(".chosen").index, tile.index, under.index]);
    }
  }
  const numbers = {};
  for (const {name, index, dataset} of document.querySelectorAll("#boards .cell"))
    if (index) (numbers[name] ??= []).push([index, Number(dataset.value)]);
  return {sums, laid, numbers};
};
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    try:
        browser = chromium.start(tmp_path_factory.mktemp("chromium"))
    except FileNotFoundError as error:
        if os.environ.get("REQUIRE_BROWSER"):
            raise
        warnings.warn(f"the interactive page is not tested: {error}", stacklevel=1)
        pytest.skip(str(error))
    yield browser
    browser.quit()


class Page:
    def __init__(self, browser: Any, path: Path) -> None:
        self.browser, self.path = browser, path

    def open(self, layer: Explanation, *, width: int = 1100, dark: bool = False) -> None:
        self.path.write_text(layer.html(), "utf-8")
        chromium.visit(self.browser, self.path, width, dark)

    def cdp(self, command: str, **parameters: Any) -> Any:
        return self.browser.execute_cdp_cmd(command, parameters)

    def run(self, script: str, *arguments: object) -> Any:
        return self.browser.execute_script(HELPERS + WALK + script, *arguments)

    def text(self, id: str) -> str:
        text: str = self.run("return id(arguments[0]).textContent", id)
        return text

    def focus(self, selector: str) -> None:
        self.run("document.querySelector(arguments[0]).focus()", selector)

    def press(self, *keys: str) -> str:
        """Presses keys where the focus is; the id of what has it then, of a cell for its input."""
        ActionChains(self.browser, duration=0).send_keys(*keys).perform()
        focused: str = self.run("return (document.activeElement.closest('.cell, [id]')).id")
        return focused

    def numbers(self, view: str) -> dict[str, Tensor]:
        return matrices(self.run("return walk(arguments[0])", view)["numbers"])


def matrices(numbers: dict[str, list]) -> dict[str, Tensor]:
    found = {}
    for name, cells in numbers.items():
        rows, columns = (max(index[k] for index, _ in cells) + 1 for k in (0, 1))
        found[name] = torch.full((rows, columns), torch.nan, dtype=F64)
        for index, value in cells:
            found[name][tuple(index)] = value
    return found


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Page]:
    page = Page(browser, tmp_path / "layer.html")
    browser.get_log("performance")
    yield page
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    uri = page.path.as_uri()
    urls = {r["request"]["url"] for r in requests if r["documentURL"] == uri}
    assert urls - {"data:,"} == {uri}


def explain(name: str) -> Explanation:
    size, kernel, *options = LAYERS[name]
    return tfc.explain(Shape(size, kernel, *options))


def by_the_kernels(given: dict[str, Tensor], options: dict[str, Any]) -> dict[str, Tensor]:
    x, f, g = (given[name][None, None] for name in ("X", "F", "dO"))
    return {
        "O": fc.conv2d(x, f, **options)[0, 0],
        "dF": fc.conv2d_weight_grad(x, f.shape, g, **options)[0, 0],
        "dX": fc.conv2d_input_grad(x.shape, f, g, **options)[0, 0],
    }


@pytest.mark.parametrize("name", LAYERS)
def test_every_cell_term_and_place_is_the_kernels(page: Page, name: str) -> None:
    """Of a layer that was chosen on the page, so that all is the page's own arithmetic."""
    page.open(explain("strided" if name == "the post's" else "the post's"))
    layer = LAYERS[name]
    fields = {f"{field}-{k}": layer[n][k] for n, field in enumerate(FIELDS) for k in (0, 1)}
    room = {"size-0": 12, "size-1": 12}  # so that no step on the way is refused
    views = page.run(
        """for (const [field, value] of arguments[0]) set(id(field), value);
        return Object.fromEntries(["O", "dF", "gather", "scatter"].map((v) => [v, walk(v)]));""",
        [*room.items(), *fields.items()],
    )
    numbers = {view: matrices(found["numbers"]) for view, found in views.items()}
    given = numbers["O"] | {"dO": numbers["dF"]["dO"]}
    options = dict(zip(FIELDS[2:], layer[2:], strict=True))
    expected = by_the_kernels(given, options)
    for view, found in numbers.items():
        shown = {"gather": "dX", "scatter": "dX"}.get(view, view)
        assert torch.equal(found[shown], expected[shown]), view

    equations = explain(name)
    for view, part in (("O", "O"), ("dF", "∂E/∂F"), ("gather", "∂E/∂X")):
        assert views[view]["sums"] == [e.text("delta") for e in equations.parts()[part].values()]
    products = {
        (*equation.left.index[1:], *f.index[2:], *x.index[1:])
        for equation in equations.output.values()
        for f, x in equation.terms
    }
    orders = {"O": "OFX", "dF": "FOX", "gather": "XFO", "scatter": "OFX"}
    for view, order in orders.items():  # of what is chosen, what is laid, and what it lies on
        laid = [dict(zip(order, places, strict=True)) for places in views[view]["laid"]]
        assert {(*p["O"], *p["F"], *p["X"]) for p in laid} == products, view
        assert len(laid) == len(products)


def test_padding_may_have_more_at_the_end(page: Page) -> None:
    """As 'same' has it for an even filter; then the page has a field for it."""
    page.open(explain("the post's"))
    assert not page.run("return id('surplus-0').checkVisibility()")
    page.open(tfc.explain(Shape((4, 5), (2, 4), padding="same", dilation=(1, 3))))
    assert "48 of 48 numbers are the same" in page.text("agreement")
    for padding in ((4, 5, 0, 1), (4, 6, 0, 3)):
        page.run(
            "set(id('surplus-0'), arguments[0]); set(id('surplus-1'), arguments[1])",
            padding[3] - padding[2],
            padding[1] - padding[0],
        )
        numbers = {view: page.numbers(view) for view in ("O", "dF", "gather", "scatter")}
        options = {"padding": padding, "dilation": (1, 3)}
        expected = by_the_kernels(numbers["O"] | {"dO": numbers["dF"]["dO"]}, options)
        for view, found in numbers.items():
            name = {"gather": "dX", "scatter": "dX"}.get(view, view)
            assert torch.equal(found[name], expected[name]), view
        computed: dict[str, Any] = {}
        exec(page.text("code"), computed)
        assert all(torch.equal(computed[name], expected[name]) for name in expected)


def test_given_numbers_are_compared_with_the_kernels(page: Page, monkeypatch) -> None:
    page.open(explain("strided"))
    assert "43 of 43 numbers are the same" in page.text("agreement")
    given = explanation.page.given(explain("strided"))
    given["dX"][2][3] += 1
    monkeypatch.setattr(explanation.page, "given", lambda pair: given)
    page.open(explain("strided"))
    assert "42 of 43 numbers are the same" in page.text("agreement")


def test_a_layer_of_ones_own_shows_one_filter_on_one_channel(page: Page) -> None:
    torch.manual_seed(3)
    layer = tfc.Conv2d(4, 6, (3, 2), stride=2, padding=1, groups=2, dtype=F64)
    x, grad = torch.randn(4, 5, 6, dtype=F64), torch.randn(6, 3, 4, dtype=F64)
    page.open(tfc.explain(layer, x, grad).pair(5, 1))
    assert page.text("title") == ""
    found = page.numbers("gather")
    assert torch.equal(found["dO"], grad[5])
    assert torch.equal(found["F"], layer.weight[5, 1].detach())
    expected = by_the_kernels(found | {"X": x[3]}, {"stride": 2, "padding": 1})
    torch.testing.assert_close(found["dX"], expected["dX"])
    page.open(tfc.explain(layer, x))
    assert page.text("title") == "Filter 1 of 6 on channel 1 of 2."
    page.run("set(id('stride-0'), 1)")
    assert page.text("title") == ""  # no layer of 6 filters any more
    page.run("set(id('stride-0'), 2)")
    assert page.text("title") == "Filter 1 of 6 on channel 1 of 2."
    assert "Filter 6 of 6 on channel 2 of 2." in tfc.explain(layer, x).html(-1, -1)
    for pair in ((6, 0), (0, 2)):
        with pytest.raises(IndexError):
            tfc.explain(layer, x).html(*pair)


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16])
def test_rounding_is_no_disagreement(page: Page, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = tfc.Conv2d(1, 1, 3, padding=1, dtype=dtype)
    page.open(tfc.explain(layer, torch.randn(1, 9, 9, dtype=dtype)))
    assert "171 of 171 numbers are the same" in page.text("agreement")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"input": (13, 5)}, "shows a size of 1 to 12, not 13"),
        ({"dilation": (1, 4)}, "shows a dilation of 1 to 3, not 4"),
        ({"padding": (1, 0, 0, 0)}, "shows a surplus of 0 to 4, not -1"),
        ({"padding": 1, "padding_mode": "reflect"}, "pads with zeros"),
    ],
)
def test_what_the_page_cannot_show(options: dict, error: str) -> None:
    layer = {"input": (9, 9), "filter": (2, 2)} | options
    with pytest.raises(ValueError, match=error):
        tfc.explain(Shape(**layer)).html()


def test_the_command_writes_the_page_or_says_why_not(monkeypatch, tmp_path, capsys) -> None:
    def run(*arguments: str) -> None:
        monkeypatch.setattr("sys.argv", ["torch_fullconv", "explain", "--html", *arguments])
        main()

    path = tmp_path / "layer.html"
    run(str(path), "--input", "5x5", "--filter", "3x3", "--stride", "2", "--padding", "1")
    assert path.read_text("utf-8") == explain("strided").html()
    assert capsys.readouterr().out == f"open {path} in a browser\n"
    run(str(path), "--input", "4x5x5", "--filter", "6x2x3x3")
    assert "filter 1 of 6 on channel 1 of 2" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="shows a size of 1 to 12, not 50"):
        run(str(path), "--input", "50x5")
    with pytest.raises(SystemExit, match="No such file or directory"):
        run(str(tmp_path / "missing" / "layer.html"))
    with pytest.raises(ValueError, match="float"):
        tfc.explain(Shape((3, 3), (2, 2)), torch.full((1, 3, 3), torch.nan)).html()


def test_numbers_can_be_edited_and_the_code_computes_the_same(page: Page) -> None:
    page.open(explain("strided"))
    page.run("show('O')")
    page.focus("#X-2-3 input")
    page.press("-1.5")
    page.press(Keys.ARROW_DOWN, "4,25")  # the matrix's next row, a comma as in many countries
    page.focus("#F-1-2 input")
    page.press("x")
    assert page.run("return document.activeElement.ariaInvalid") == "true"
    page.press(Keys.BACKSPACE, "7", Keys.TAB)
    found = page.numbers("O")
    assert found["X"][1, 2] == -1.5
    assert found["X"][2, 2] == 4.25
    assert found["F"][0, 1] == 7
    assert "yours now" in page.text("agreement")
    names: dict[str, Any] = {}
    exec(page.text("code"), names)
    shown = found | page.numbers("dF") | page.numbers("gather")
    for name, matrix in shown.items():
        assert torch.equal(names[name], matrix), name


def test_the_keyboard_reaches_everything(page: Page) -> None:
    layer = explain("the post's")
    page.open(layer)
    page.focus("#pass-dX")
    assert page.press(Keys.ARROW_LEFT) == "pass-dF"
    assert page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT) == "pass-dX"
    stops = [page.press(Keys.TAB) for _ in range(8)]
    assert stops[1:] == ["dO-1-1", "F-2-2", "dX-2-2", "back", "play", "next", "step"]
    page.focus("#dX-1-1")
    assert page.text("sum") == f"δX11 = {layer['δX11'].value:g} ="
    assert page.press(Keys.ARROW_DOWN, Keys.ARROW_RIGHT) == "dX-2-2"
    value, tap, grad = layer["δX22"].value, layer.filter[0, 0, 1, 1], layer.grad[0, 0, 0]
    assert page.text("sum") == f"δX22 = {value:g} ="
    assert page.text("live").startswith(
        f"gradient of X row 2 column 2 is {value:g}, the sum of 4 products: "
        f"F row 2 column 2, {tap:g}, times gradient of O row 1 column 1, {grad:g}; "
    )
    assert page.press(Keys.END, Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.HOME) == "dX-3-1"
    page.focus("#F-2-2 input")  # rotated: the cell to the right is the one before
    assert page.press(Keys.ARROW_RIGHT, Keys.ARROW_DOWN) == "F-1-1"


def test_pointer_steps_and_play(page: Page) -> None:
    page.open(explain("the post's"))
    target = page.browser.find_element("id", "dX-2-3")
    ActionChains(page.browser).move_to_element(target).perform()
    assert page.text("sum").startswith("δX23")
    page.run("id('next').click()")
    assert page.text("count") == "7 of 9"
    page.run("id('back').click(); id('back').click()")
    assert page.text("count") == "5 of 9"
    page.run("set(id('step'), 8); id('play').click()")
    assert page.text("play") == "Pause"
    WebDriverWait(page.browser, 10).until(lambda _: page.text("play") == "Play")
    assert page.text("count") == "9 of 9"


def test_copy_and_examples(page: Page) -> None:
    page.open(explain("strided"))
    page.browser.find_element("id", "copy").click()
    WebDriverWait(page.browser, 10).until(lambda _: page.text("copy") != "Copy")
    assert page.run("return getSelection().toString()") == page.text("code")
    page.run("[...document.querySelectorAll('#examples button')].at(-1).click()")
    assert page.run("return [id('size-0').value, id('stride-1').value]") == ["6", "2"]
    assert page.numbers("gather")["dX"][5].eq(0).all()  # the row that is left over
    page.run("id('size-0').value = ''; set(id('kernel-0'), 2)")  # waits for the other field
    assert page.text("count").endswith("of 36")


def test_a_filter_beyond_the_input_is_refused_in_words(page: Page) -> None:
    page.open(explain("the post's"))
    page.run("set(id('kernel-0'), 4)")
    assert "larger than the padded input" in page.text("problem")
    assert page.run("return id('problem').checkVisibility()")
    page.run("set(id('kernel-0'), 3)")
    assert not page.run("return id('problem').checkVisibility()")
    assert page.text("count") == "2 of 9"  # X12 is the first with two products


def test_fields_that_the_page_has_no_room_for_are_answered_and_restored(page: Page) -> None:
    page.open(explain("strided"))
    page.run("id('size-0').focus(); id('size-0').select()")
    page.press("20")  # 2 is a layer, and then 20 is none
    assert page.run("return id('size-0').value") == "20"
    assert page.text("problem").startswith("Input rows: 1 to 12. The matrices below still show")
    assert page.run("return id('problem').checkVisibility()")
    assert page.run("return id('size-0').getAttribute('aria-describedby')") == "problem"
    assert page.press(Keys.TAB) == "size-1"
    assert page.run("return id('size-0').value") == "2"
    assert page.text("count").endswith("of 10")  # of 2x5
    assert "still show the last layer" in page.text("problem")
    page.run("set(id('kernel-0'), 6)")
    assert "larger than the padded input" in page.text("problem")
    page.run("set(id('size-0'), '')")
    assert page.text("problem").startswith("Input rows: 1 to 12.")
    page.run("set(id('size-0'), 6)")
    assert page.text("problem") == ""
    assert page.text("count").endswith("of 30")


def test_what_lies_on_zeros_is_named(page: Page) -> None:
    page.open(explain("strided"))
    assert page.text("note").startswith("5 of the 9 taps lie on zeros. The kernels put no zeros")
    page.run("show('dF'); set(id('step'), 1)")
    assert page.text("note") == "5 of the 9 elements of δO lie on zeros."
    page.open(tfc.explain(Shape((2, 2), (2, 1), padding=(1, 0))))
    page.run("show('O'); set(id('step'), 1)")
    assert page.text("note") == "1 of the 2 taps lies on zeros."


@pytest.mark.parametrize("dark", [False, True])
def test_phone_colours_and_names(page: Page, dark: bool) -> None:
    page.open(explain("strided"), width=360, dark=dark)
    for view in ("O", "dF", "gather", "scatter"):
        found = page.run(
            """show(arguments[0]);
            const paint = document.createElement("canvas").getContext("2d",
              {willReadFrequently: true});
            const light = (colour) => {
              paint.fillStyle = colour;
              paint.fillRect(0, 0, 1, 1);
              const [r, g, b] = [...paint.getImageData(0, 0, 1, 1).data].map((c) =>
                c < 10.31 ? c / 3294.6 : ((c / 255 + 0.055) / 1.055) ** 2.4);
              return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const paper = light(getComputedStyle(id("stage")).backgroundColor);
            const texts = document.querySelectorAll(
              ".symbols var, .numbers b, figcaption, p, legend");
            return {
              width: document.documentElement.scrollWidth,
              paper,
              contrast: Math.min(...[...texts].map((text) => {
                const ink = light(getComputedStyle(text).color);
                return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
              })),
            };""",
            view,
        )
        assert found["width"] <= 360
        assert (found["paper"] < 0.1) is dark
        assert found["contrast"] >= 4.5
        tree = page.cdp("Accessibility.getFullAXTree")["nodes"]
        for node in tree:
            if any(p["name"] == "focusable" for p in node.get("properties", ())):
                assert node["name"]["value"] or node["role"]["value"] == "tabpanel", node
    page.run("id('theme').click()")
    scheme = page.run("return getComputedStyle(document.documentElement).colorScheme")
    assert scheme == ("light" if dark else "dark")


def test_the_largest_page_is_small_and_asks_for_nothing() -> None:
    html = tfc.explain(Shape((12, 12), (6, 6), 1, 4)).html()
    assert len(html.encode()) < 1e6
    assert "http" not in html.replace("http-equiv", "")
