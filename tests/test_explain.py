"""Equations: the post's to the letter, and for any layer true when what is printed is evaluated."""

import operator
import re
import subprocess
import sys
from collections import defaultdict
from itertools import combinations
from math import prod
from typing import get_args

import numpy as np
import pytest
import torch
from cases import EDGES, integers
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import axes, cases
from torch import nn

import torch_fullconv as tfc
from torch_fullconv import ops, reference
from torch_fullconv.__main__ import main
from torch_fullconv.explanation import Shape, explain
from torch_fullconv.explanation.equations import Form
from torch_fullconv.explanation.palette import COLOURS
from torch_fullconv.ops import PADDING_MODES

POST = {
    ("output", "short"): r"""
        O_{11} = F_{11}X_{11} + F_{12}X_{12} + F_{21}X_{21} + F_{22}X_{22}
        O_{12} = F_{11}X_{12} + F_{12}X_{13} + F_{21}X_{22} + F_{22}X_{23}
        O_{21} = F_{11}X_{21} + F_{12}X_{22} + F_{21}X_{31} + F_{22}X_{32}
        O_{22} = F_{11}X_{22} + F_{12}X_{23} + F_{21}X_{32} + F_{22}X_{33}""",
    ("filter_gradient", "chain"): "".join(
        rf"""
        @F_{{{f}}} = @O_{{11}} *O_{{11}}/*F_{{{f}}} + @O_{{12}} *O_{{12}}/*F_{{{f}}}
            + @O_{{21}} *O_{{21}}/*F_{{{f}}} + @O_{{22}} *O_{{22}}/*F_{{{f}}}"""
        for f in (11, 12, 21, 22)
    ),
    ("filter_gradient", "short"): r"""
        @F_{11} = @O_{11} X_{11} + @O_{12} X_{12} + @O_{21} X_{21} + @O_{22} X_{22}
        @F_{12} = @O_{11} X_{12} + @O_{12} X_{13} + @O_{21} X_{22} + @O_{22} X_{23}
        @F_{21} = @O_{11} X_{21} + @O_{12} X_{22} + @O_{21} X_{31} + @O_{22} X_{32}
        @F_{22} = @O_{11} X_{22} + @O_{12} X_{23} + @O_{21} X_{32} + @O_{22} X_{33}""",
    # But for two slips of the post: F_{11} for F_{12} in the last term of X_{23}, and a small f.
    ("input_gradient", "long"): r"""
        @X_{11} = @O_{11} F_{11} + @O_{12} 0 + @O_{21} 0 + @O_{22} 0
        @X_{12} = @O_{11} F_{12} + @O_{12} F_{11} + @O_{21} 0 + @O_{22} 0
        @X_{13} = @O_{11} 0 + @O_{12} F_{12} + @O_{21} 0 + @O_{22} 0
        @X_{21} = @O_{11} F_{21} + @O_{12} 0 + @O_{21} F_{11} + @O_{22} 0
        @X_{22} = @O_{11} F_{22} + @O_{12} F_{21} + @O_{21} F_{12} + @O_{22} F_{11}
        @X_{23} = @O_{11} 0 + @O_{12} F_{22} + @O_{21} 0 + @O_{22} F_{12}
        @X_{31} = @O_{11} 0 + @O_{12} 0 + @O_{21} F_{21} + @O_{22} 0
        @X_{32} = @O_{11} 0 + @O_{12} 0 + @O_{21} F_{22} + @O_{22} F_{21}
        @X_{33} = @O_{11} 0 + @O_{12} 0 + @O_{21} 0 + @O_{22} F_{22}""",
    ("input_gradient", "delta"): r"""
        \delta X_{11} = F_{11} \delta O_{11}
        \delta X_{12} = F_{12} \delta O_{11} + F_{11} \delta O_{12}
        \delta X_{13} = F_{12} \delta O_{12}
        \delta X_{21} = F_{21} \delta O_{11} + F_{11} \delta O_{21}
        \delta X_{22} = F_{22} \delta O_{11} + F_{21} \delta O_{12}
            + F_{12} \delta O_{21} + F_{11} \delta O_{22}
        \delta X_{23} = F_{22} \delta O_{12} + F_{12} \delta O_{22}
        \delta X_{31} = F_{21} \delta O_{21}
        \delta X_{32} = F_{22} \delta O_{21} + F_{21} \delta O_{22}
        \delta X_{33} = F_{22} \delta O_{22}""",
}
ELEMENT = r"[A-Z]_\{\d\d\}"


def of_post(equations: str) -> list[str]:
    """The post's LaTeX, which writes @ here for ∂E/∂ and */* for ∂/∂, without spaces."""
    text = re.sub(rf"\*({ELEMENT})/\*({ELEMENT})", r"\\frac{\\partial \1}{\\partial \2}", equations)
    text = re.sub(rf"@({ELEMENT})", r"\\frac{\\partial E}{\\partial \1}", text)
    lines = re.sub(r"\n\s*\+", " +", text.strip()).splitlines()
    return [line.replace(" ", "") for line in lines]


@pytest.mark.parametrize(("part", "form"), POST)
def test_the_posts_equations(part, form):
    equations = getattr(explain(Shape((3, 3), (2, 2))), part)
    found = [e.latex(form).replace(" ", "") for e in equations.values()]
    assert found == of_post(POST[part, form])


@st.composite
def layers(draw):
    """A layer with its operands, in small integers: every sum is exact."""
    mode = draw(st.sampled_from(PADDING_MODES))
    h, w = draw(axes(mode, st.integers(1, 5))), draw(axes(mode, st.integers(1, 5) | st.just(11)))
    groups, depth = draw(st.sampled_from([(1, 1), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1)]))
    filters = groups * draw(st.integers(1, 2))
    left_right, top_bottom = w[3:5], h[3:5]
    options = {
        "stride": (h[2], w[2]),
        "padding": (*left_right, *top_bottom),
        "dilation": (h[5], w[5]),
        "groups": groups,
        "padding_mode": mode,
    }
    x = integers((groups * depth, h[0], w[0]), torch.float32, draw(st.integers(0, 9)))
    layer = nn.Conv2d(1, 1, 1, bias=draw(st.booleans()))
    vars(layer).update(options)
    layer.weight = nn.Parameter(integers((filters, depth, h[1], w[1]), torch.float32, 1))
    if layer.bias is not None:
        layer.bias = nn.Parameter(integers((filters,), torch.float32, 2))
    grad = integers(tfc.functional.conv2d(x, layer.weight, **options).shape, torch.float32, 3)
    return layer, x, grad, options


Tensors = dict[str, torch.Tensor]
NAME = re.compile(r"(∂E/∂|δ)?([XFOb])(?:\(([\d,]+)\))?(\d+,\d+|\d\d)?")


def lookup(tensors: Tensors, name: str) -> float:
    """A printed name's number: what a reader would take it for."""
    if name == "0":
        return 0.0
    sign, letter, channels, place = NAME.fullmatch(name).groups()
    tensor = tensors[("d" if sign else "") + letter]
    index = [int(i) - 1 for i in (channels or "").split(",") if i]
    index += [int(i) - 1 for i in (place.split(",") if "," in place else place)] if place else []
    while tensor.ndim > len(index):
        assert tensor.shape[0] == 1  # only then the name may leave it out
        tensor = tensor[0]
    return tensor[tuple(index)].item()


def evaluate(tensors: Tensors, text: str) -> tuple[float, float]:
    left, right = text.split(" = ")
    terms = right.split(" + ")
    return lookup(tensors, left), sum(prod(lookup(tensors, f) for f in t.split()) for t in terms)


def results(layer, x, grad, options):
    """What the layer's own ops compute, with names as in `lookup`."""
    f, b = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    of = tfc.functional
    with tfc.algorithm("direct"):
        tensors = {
            "X": x,
            "F": f,
            "dO": grad,
            "O": of.conv2d(x, f, b, **options),
            "dF": of.conv2d_weight_grad(x[None], f.shape, grad[None], **options),
            "dX": of.conv2d_input_grad((1, *x.shape), f, grad[None], **options)[0],
        }
    return tensors if b is None else tensors | {"b": b, "db": grad.sum((1, 2))}


@settings(max_examples=40)
@given(layers())
def test_what_is_printed_is_what_the_ops_compute(case):
    tensors = {name: tensor.numpy() for name, tensor in results(*case).items()}
    with tfc.algorithm("direct"):
        explanation = explain(*case[:3])
    assert len(explanation.parts()) == 3 + (case[0].bias is not None)
    for part in explanation.parts().values():
        assert len(part) == part.tensor.numel()
        for equation in part.values():
            for form in ("short", "long"):
                left, right = evaluate(tensors, equation.text(form))
                assert left == right == equation.value
            terms, result = equation.numbers().split(" = ")
            assert eval(terms.replace("·", "*")) == float(result) == equation.value


def test_the_chain_rule_is_true():
    """∂O/∂X and ∂O/∂F, read from the printed outputs, make the chain rule's form true."""
    layer = nn.Conv2d(2, 4, (2, 3), stride=(1, 2), padding=1, groups=2, padding_mode="circular")
    options = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
    options["padding_mode"] = "circular"
    layer.weight = nn.Parameter(integers(tuple(layer.weight.shape), torch.float32, 0))
    x, grad = integers((2, 3, 4), torch.float32, 1), integers((4, 4, 2), torch.float32, 2)
    tensors = results(layer, x, grad, options)
    explanation = explain(layer, x, grad)
    slope = defaultdict(float)
    for equation in explanation.output.values():
        left, right = equation.text().split(" = ")
        for f, x in (t.split() for t in right.split(" + ") if " " in t):
            slope[f"∂{left}/∂{f}"] += lookup(tensors, x)
            slope[f"∂{left}/∂{x}"] += lookup(tensors, f)
    for part in (explanation.filter_gradient, explanation.input_gradient):
        for equation in part.values():
            left, right = equation.text("chain").split(" = ")
            pairs = [t.split() for t in right.split(" + ")]
            assert len(pairs) == 4 * 2 * (1 if "∂F" in left else 2)
            assert sum(lookup(tensors, o) * slope[s] for o, s in pairs) == equation.value


@given(layers())
@settings(max_examples=30)
def test_names_tell_elements_apart_and_can_be_read(case):
    explanation = explain(*case[:3])
    names = [e.text().split(" = ")[0] for p in explanation.parts().values() for e in p.values()]
    assert len(set(names)) == len(names)
    for name in names:
        assert explanation[name].text().startswith(f"{name} = ")
        assert explanation[name.replace("∂E/∂", "dE/d")].left == explanation[name].left


@pytest.mark.parametrize(
    "name", ["X11", "O33", "O1,1", "O(1)11", "F11", "∂E/∂O11", "b", "", "dX11"]
)
def test_a_name_of_nothing_is_a_key_error(name):
    with pytest.raises(KeyError):
        explain(Shape((3, 3), (2, 2)))[name]


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        (Shape((3, 3), (2, 2)), "O11, ∂E/∂F11 or δX11"),
        (Shape((2, 3, 12), (5, 2, 2, 2)), "O(1)1,1, ∂E/∂F(1,1)11 or δX(1)1,1"),
    ],
)
def test_a_name_of_nothing_is_answered_with_names(shape, names):
    for name in ("dX11", "O77"):
        with pytest.raises(
            KeyError, match=re.escape(f"no element '{name}'; names are like {names}")
        ):
            explain(shape)[name]


@pytest.mark.parametrize("index", [(0, -1, 0), (0, 0, -1), (0, 2, 0), (0, 0), (-1, 0, 0)])
def test_an_index_of_nothing_is_a_key_error(index):
    with pytest.raises(KeyError):
        explain(Shape((3, 3), (2, 2))).output[index]


def test_forms_that_a_result_does_not_have_are_the_short_one():
    """F stands before δO in δX alone; an output has no chain and no zeros."""
    equations = explain(Shape((3, 3), (2, 2)))
    assert equations["∂E/∂F11"].text("delta") == "δF11 = δO11 X11 + δO12 X12 + δO21 X21 + δO22 X22"
    short = "O11 = F11 X11 + F12 X12 + F21 X21 + F22 X22"
    assert {equations["O11"].text(form) for form in get_args(Form)} == {short}


def test_numbers_have_no_sign_of_zero_and_brackets_around_what_is_negative():
    x = torch.tensor([[-0.0, 0.0, -1.0], [2.0, -0.0, 3.0], [0.0, 0.0, 0.0]])
    equations = explain(Shape((3, 3), (2, 2)), x)
    assert equations["O11"].numbers() == "1·0 + 2·0 + 3·2 + 4·0 = 6"
    assert equations["O12"].numbers() == "1·0 + 2·(-1) + 3·0 + 4·3 = 10"


def test_latex_says_what_the_text_says():
    pytest.importorskip("matplotlib")
    from matplotlib.mathtext import MathTextParser

    explanation = explain(Shape((4, 12, 3), (2, 2, 2, 2), padding=1))
    parse = MathTextParser("path").parse
    for part in explanation.parts().values():
        for index, equation in list(part.items())[:4]:
            parse(f"${equation.latex(most=3)}$")
            for form in ("short", "long", "chain", "delta"):
                latex = equation.latex(form)
                text = re.sub(r"\\frac\{\\partial (.+?)\}\{\\partial (.+?\})\}", r"∂\1/∂\2", latex)
                text = re.sub(r"\^\{(.+?)\}", r"\1", text.replace(r"\delta ", "δ"))
                assert re.sub(r"_\{(.+?)\}", r"\1", text) == equation.text(form), index
    assert equation.latex(colour=True).count(r"{\color{#") == 1 + 2 * len(equation.terms)


@given(cases())
@settings(max_examples=200)
def test_kernels_walk_the_same_meetings_forward_and_back(case):
    """The two kinds of index maps that kernels have agree with each other and the reference."""
    g, mode = case.geometry, PADDING_MODES[case.geometry.padding_mode]
    forward = ops.meetings(g, case.input[2:], case.filter[-2:])
    gather = ops.meetings(g, case.input[2:], case.filter[-2:], gather=True)
    rest = zip(
        case.input[2:],
        case.filter[-2:],
        case.output[2:],
        (g.stride_h, g.stride_w),
        (g.pad_top, g.pad_left),
        (g.dilation_h, g.dilation_w),
        strict=True,
    )
    for there, back, axis in zip(forward, gather, rest, strict=True):
        assert there.dtype == torch.int64
        assert list(map(tuple, there.tolist())) == list(reference.meetings(*axis, mode))
        assert sorted(back.tolist()) == there.tolist()


def test_raw_meetings_refuse_what_is_no_layer():
    g = ops.Geometry()
    for geometry, size, kernel, message in (
        (g, (-1, 3), (2, 2), "sizes must not be negative"),
        (g, (3, 3), (0, 2), "kernel must not be empty"),
        (g._replace(stride_h=0), (3, 3), (2, 2), "stride and dilation"),
        (g._replace(padding_mode=4), (3, 3), (2, 2), "padding mode"),
    ):
        with pytest.raises(RuntimeError, match=message):
            ops.meetings(geometry, size, kernel)
    rows, columns = ops.meetings(EDGES["no_rows"].geometry, (0, 4), (2, 3))
    assert rows.shape == (0, 3)
    assert columns.shape == (6, 3)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3, padding=1),
        tfc.Conv2d(2, 2, (3, 2), stride=(3, 1), dilation=(1, 2), groups=2, bias=False),
        tfc.Conv2d(1, 1, 5, padding=4, padding_mode="reflect"),
        tfc.Conv2d(1, 2, 3, padding="same", dilation=2).double(),
        tfc.Conv2d(1, 2, 3).bfloat16(),
    ],
    ids=str,
)
def test_a_layer_alone_is_shown_with_its_weights_and_a_small_input(layer):
    explanation = explain(layer)
    assert explanation.filter.equal(layer.weight)
    assert min(explanation.output.tensor.shape[1:]) >= 2
    assert not explanation.output.tensor.requires_grad
    if layer.padding_mode == "zeros" and layer.padding != "same":
        smaller = [explanation.input[:, 1:], explanation.input[:, :, 1:]]
        assert all(1 in (*s.shape[1:], *layer(s).shape[1:]) for s in smaller if s.numel())
    torch.testing.assert_close(explanation.output.tensor, layer(explanation.input))


def test_an_image_and_a_gradient_of_ones_own():
    layer = nn.Conv2d(2, 3, 3, stride=2)
    x = torch.randn(1, 2, 9, 7, requires_grad=True)
    grad = torch.randn(1, 3, 4, 3)
    explanation = explain(layer, x, grad)
    layer(x).backward(grad)
    assert explanation.input.shape == (2, 9, 7)
    torch.testing.assert_close(explanation.input_gradient.tensor, x.grad[0])
    torch.testing.assert_close(explanation.filter_gradient.tensor, layer.weight.grad)
    torch.testing.assert_close(explanation.bias_gradient.tensor, layer.bias.grad)
    assert explain(layer, (9, 7)).input.shape == (2, 9, 7)
    assert explain(Shape((3, 3), (2, 2)), torch.eye(3)).input[0].equal(torch.eye(3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: explain(nn.Linear(3, 3)), TypeError, "takes a Conv2d .* got Linear"),
        (lambda: explain(nn.ConvTranspose2d(3, 3, 3)), TypeError, "input gradient of the Conv2d"),
        (lambda: explain(nn.LazyConv2d(3, 3)), TypeError, "has its weights"),
        (lambda: explain(nn.Conv2d(1, 1, 2), torch.zeros(2, 1, 3, 3)), ValueError, "one image"),
        (lambda: explain(nn.Conv2d(1, 1, 2), torch.zeros(3)), ValueError, "one image"),
        (lambda: explain(nn.Conv2d(3, 1, 2), torch.zeros(1, 3, 3)), RuntimeError, "3 channels"),
        (lambda: explain(nn.Conv2d(1, 1, 5), (3, 3)), RuntimeError, "Kernel size"),
        (lambda: explain(nn.Conv2d(1, 1, 2), (3, 3), torch.ones(3, 3)), RuntimeError, "grad_out"),
        (
            lambda: explain(nn.Conv2d(1, 1, 2, dtype=torch.cfloat)),
            NotImplementedError,
            "real numbers",
        ),
        (lambda: Shape((3,), (2, 2)), ValueError, "input must be"),
        (lambda: Shape((3, 3), (2, 2, 2)), ValueError, "filter must be"),
        (lambda: Shape((3, 5, 5), (4, 2, 3, 3)), ValueError, "3 channels"),
        (lambda: Shape((2, 3, 3), (2, 2)), ValueError, "2-channel input needs a filter KxCxRxS"),
        (
            lambda: explain(Shape((3, 3), (2, 2))).html(filter=3),
            IndexError,
            "filter 3 of 1: count from 0",
        ),
    ],
)
def test_what_cannot_be_explained(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_large_layer_is_told_in_short():
    explanation = explain(nn.Conv2d(64, 64, 3, padding=1), (56, 56))
    text, markdown = str(explanation), explanation._repr_markdown_()
    assert len(text) < 10_000
    assert len(markdown) < 20_000
    assert "more" in text
    assert len(explanation["O(64)56,56"].terms) == 64 * 4 + 1
    left_out = "not shown: X (64x56x56), F (64x64x3x3), ∂E/∂O (64x56x56)"
    assert left_out in text
    assert left_out in markdown


def test_what_is_left_out_is_named():
    explanation = explain(Shape((20, 13), (2, 2)))
    for shown in (str(explanation), explanation._repr_markdown_()):
        assert "not shown: X (20x13), ∂E/∂O (19x12)\n" in shown
    assert "not shown" not in str(explain(Shape((3, 3), (2, 2))))


def test_a_notebook_shows_formulas():
    explanation = explain(Shape((3, 3), (2, 2)))
    markdown = explanation._repr_markdown_()
    assert markdown.count("$$") == 2 * 6
    assert markdown.count("{") == markdown.count("}")
    assert explanation.output._repr_latex_() in markdown
    assert COLOURS["gradient"] in explanation["∂E/∂X11"]._repr_latex_()


def command(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["torch_fullconv", "explain", *arguments])
    main()


def test_the_command_prints_the_same(monkeypatch, capsys):
    command(monkeypatch, "--input", "5x5", "--filter", "3x3", "--stride", "2", "--padding", "1x0")
    shape = Shape((5, 5), (3, 3), stride=2, padding=(1, 0))
    assert capsys.readouterr().out.strip() == str(explain(shape)).strip()
    command(monkeypatch, "--input", "5x5", "--filter", "2x3", "--padding", "same")
    shape = Shape((5, 5), (2, 3), padding="same")
    assert capsys.readouterr().out.strip() == str(explain(shape)).strip()


def test_the_command_says_what_is_wrong(monkeypatch):
    for arguments, message in (
        (("--filter", "5x5"), "there is no such layer: .*Kernel size can't be greater"),
        (("--input", "2x5x5", "--filter", "4x3x3x3"), "does not fall into groups"),
        (("--input", "2x3x3"), "a 2-channel input needs a filter KxCxRxS.* but got 2x2"),
    ):
        with pytest.raises(SystemExit, match=message):
            command(monkeypatch, *arguments)


def test_the_command_needs_nothing_optional():
    code = """if True:
        import runpy, sys
        sys.modules.update(dict.fromkeys(("rich", "matplotlib", "PIL")))
        sys.argv[1:] = ["explain", "--input", "2x4x4", "--filter", "2x1x2x2"]
        runpy.run_module("torch_fullconv", run_name="__main__", alter_sys=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "O(2)11 = F(2,1)11 X(2)11 + " in done.stdout


def linear(colour: str) -> list[float]:
    """Red, green and blue of sRGB, as light."""
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]


@pytest.mark.parametrize("role", COLOURS)
def test_colours_can_be_read_on_light_and_dark(role):
    """WCAG's contrast for graphics and large text."""
    weights = 0.2126, 0.7152, 0.0722
    one = sum(map(operator.mul, weights, linear(COLOURS[role])))
    for page in ("#ffffff", "#0d1117"):
        other = sum(map(operator.mul, weights, linear(page)))
        assert (max(one, other) + 0.05) / (min(one, other) + 0.05) >= 3


# Machado, Oliveira, Fernandes 2009: what is seen of red, green and blue without one of them.
SIGHT = {
    "all": np.eye(3),
    "no red": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "no green": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "no blue": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
XYZ = [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_stay_apart(sight):
    """By CIE 1976 difference; 2 can just be told apart."""

    def lab(colour: str) -> np.ndarray:
        light = np.clip(np.array(SIGHT[sight]) @ linear(colour), 0, 1)
        f = np.cbrt(np.array(XYZ) @ light / np.sum(XYZ, 1))
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    for one, other in combinations(COLOURS.values(), 2):
        assert np.linalg.norm(lab(one) - lab(other)) > 25
