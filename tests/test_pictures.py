"""Pictures: they show what the equations say, are the same every time, and are the docs' own."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import axes
from torch import nn

from torch_fullconv.explanation import Shape, explain
from torch_fullconv.explanation.scenes import Scene, Stage
from torch_fullconv.ops import PADDING_MODES

DOCS = Path(__file__).parent.parent / "docs"
SIZES = st.integers(1, 6)


@st.composite
def stages(draw, modes=PADDING_MODES):
    mode = draw(st.sampled_from(modes))
    h, w = draw(axes(mode, SIZES)), draw(axes(mode, SIZES))
    padding = *w[3:5], *h[3:5]
    sizes, rest = ((h[0], w[0]), (h[1], w[1])), ((h[2], w[2]), padding, (h[5], w[5]))
    return Stage(explain(Shape(*sizes, *rest, padding_mode=mode)))


def shown(scene: Scene) -> list[tuple[str, ...]]:
    """What lies on each other in the first grid, as pairs of names, but for zeros."""
    grid = scene.grids[0]
    assert grid.lit == set(grid.badges)
    assert grid.lit <= set(grid.numbers)
    return sorted((grid.badges[p][0], grid.names[p]) for p in grid.lit if p in grid.names)


def said(stage: Stage, name: str, order: int = 1) -> list[tuple[str, ...]]:
    """An equation's terms as pairs of names."""
    latex = stage.explanation.names.latex
    terms = stage.explanation[name].terms
    return sorted(tuple(latex(f, delta=True) for f in term[::order]) for term in terms)


def numbers(grid) -> dict:
    return {p: text for p, text in grid.numbers.items() if p not in grid.ghosts}


def name_of(stage: Stage, letter: str, place: tuple[int, int]) -> str:
    size = stage.explanation.names.sizes[letter[-1]][-2:]
    comma = "," if max(size) > 9 else ""
    return f"{letter}{place[0] + 1}{comma}{place[1] + 1}"


@settings(max_examples=25)
@given(stages())
def test_a_window_shows_the_equations_terms(stage):
    for output in stage.outputs[:9]:
        scene = stage.correlation(output)
        assert shown(scene) == said(stage, name_of(stage, "O", output))
        assert scene.grids[2].lit == {output}
    for tap in stage.taps:
        assert shown(stage.filter_gradient(tap)) == said(stage, name_of(stage, "∂E/∂F", tap))


@settings(max_examples=25)
@given(stages(modes=["zeros"]))
def test_the_two_forms_of_the_input_gradient(stage):
    """The rotated filter lies on what the equation says; scattered sums end in the same numbers."""
    for x in stage.inputs[::3]:
        scene = stage.gather(x)
        assert shown(scene) == said(stage, name_of(stage, "∂E/∂X", x), -1)
        taps = [scene.grids[0].badges[p][0] for p in sorted(scene.grids[0].badges)]
        assert taps == list(scene.grids[1].names.values())  # in the order of the rotated filter
    last = stage.scatter(stage.outputs[-1]).grids[2]
    assert numbers(last) == numbers(scene.grids[2])


def test_numbers_appear_as_they_are_computed():
    stage = Stage(explain(Shape((3, 3), (2, 2))))
    grid = stage.correlation((0, 1), reveal=True).grids[2]
    assert list(grid.numbers.values()) == ["37", "47", "", ""]
    assert list(stage.scatter((0, 0)).grids[2].numbers.values()) == list("120340000")


def test_what_has_no_picture():
    with pytest.raises(ValueError, match="one channel and one filter"):
        Stage(explain(Shape((2, 3, 3), (1, 2, 2, 2))))
    mirrored = Stage(explain(Shape((3, 3), (3, 3), padding=1, padding_mode="circular")))
    for form in (mirrored.gather, mirrored.scatter):
        with pytest.raises(ValueError, match="no picture of δX for padding_mode='circular'"):
            form((0, 0))


def test_pictures_are_the_same_every_time(tmp_path):
    pytest.importorskip("matplotlib")
    pictures = pytest.importorskip("torch_fullconv.explanation.pictures")
    stage = Stage(explain(Shape((2, 2), (1, 2))))
    scenes = [stage.correlation(output, True) for output in stage.outputs]
    for name in ("a", "b"):
        pictures.save(pictures.draw(scenes), tmp_path / f"{name}.svg")
        pictures.save_moving(tmp_path / f"{name}.gif", scenes)
    for suffix in ("svg", "gif"):
        first, second = (tmp_path.joinpath(f"{name}.{suffix}").read_bytes() for name in "ab")
        assert first == second
    assert "<dc:date>" not in (tmp_path / "a.svg").read_text()


def test_the_docs_have_all_pictures_that_are_drawn_and_no_others():
    from torch_fullconv.explanation import figures

    drawn = {f"{n}.svg" for n in figures.stills()} | {f"{n}.gif" for n in figures.moving()}
    found = [p for p in (DOCS / "figures").iterdir() if p.suffix in (".svg", ".gif")]
    assert {p.name for p in found} == drawn
    assert sum(p.stat().st_size for p in found) < 3e6
    text = (DOCS / "derivation.md").read_text() + (DOCS.parent / "README.md").read_text()
    used = set(re.findall(r"figures/(\w+\.\w+)", text))
    assert used <= drawn
    assert {name for name in drawn - used if "post" in name} == set()


def test_the_derivations_formulas_are_the_equations():
    """Each line of LaTeX with a numbered element in it, or ∂E/∂b, is one that `explain` writes."""
    explanations = explain(Shape((3, 3), (2, 2))), explain(nn.Conv2d(1, 1, 2), (3, 3))
    written = {
        equation.latex(form).replace(" ", "")
        for explanation in explanations
        for part in explanation.parts().values()
        for equation in part.values()
        for form in ("short", "long", "chain", "delta")
    }
    blocks = re.findall(r"\$\$\n(.*?)\$\$", (DOCS / "derivation.md").read_text(), re.DOTALL)
    lines = [re.sub(r"[ &]|\\\\$", "", line) for block in blocks for line in block.splitlines()]
    equations = [line for line in lines if "=" in line and re.search(r"_\{\d\d\}", line)]
    assert len(equations) == 4 + 1 + 4 + 9 + 9 + 2
    assert set(equations) <= written
