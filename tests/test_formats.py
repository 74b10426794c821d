"""Memory formats: stock's, and those that the fake kernels tell; and PyTorch's checks of an op."""

import pytest
import torch
import torch.nn.functional as F
from cases import C64, EDGES, F16, F32, Case, Operands, case, ident, operands
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import LAYOUTS, cases, channels_last, dtypes, layouts, sliced
from torch import Tensor

from torch_fullconv import ops

raw = torch.ops.torch_fullconv
SHAPES = [
    case((2, 3, 5, 4), (4, 3, 3, 2)),
    case((1, 3, 5, 4), (4, 3, 3, 2)),
    case((2, 1, 5, 4), (4, 1, 3, 2)),
    case((2, 3, 5, 4), (1, 3, 3, 2)),
    case((2, 3, 1, 1), (4, 3, 1, 1)),
    case((2, 3, 5, 1), (4, 3, 1, 1)),
    case((2, 4, 5, 4), (4, 1, 3, 2)),
    case((3, 3, 5, 4), (4, 3, 5, 4)),
]


def strides(*tensors: Tensor) -> list[tuple[int, ...]]:
    return [t.stride() for t in tensors]


@pytest.mark.parametrize("layout", LAYOUTS, ids=ident)
def test_memory_format_is_stocks(layout):
    for c in SHAPES:
        for formats in ((layout, torch.Tensor.contiguous), (torch.Tensor.contiguous, layout)):
            t = operands(c, F32)
            x, f, o = formats[0](t.input), formats[1](t.filter), formats[0](t.grad)
            groups = c.geometry.groups
            y = ops.correlate(x, f, None, c.geometry)
            assert strides(y) == strides(F.conv2d(x, f, groups=groups)), (c, strides(x, f))
            y = ops.full_convolve(o, f, None, c.geometry, c.input[2:])
            stock = F.conv_transpose2d(o, f, groups=groups)
            assert strides(y) == strides(stock), (c, strides(o, f))


def op_calls(c: Case, t: Operands) -> list[tuple]:
    g, size, kernel = c.geometry, c.input[2:], c.filter[-2:]
    return [
        (raw.correlate.default, (t.input, t.filter, t.bias, *g)),
        (raw.correlate.default, (t.input, t.filter, None, *g)),
        (raw.full_convolve.default, (t.grad, t.filter, t.input_bias, *g, *size)),
        (raw.correlate_weight.default, (t.input, t.grad, *g, *kernel, c.segments)),
        (raw.gradients.default, (t.input, t.filter, t.grad, *g)),
        (raw.channel_sum.default, (t.grad,)),
    ]


@settings(max_examples=300)
@given(cases() | st.sampled_from(SHAPES), st.tuples(layouts, layouts, layouts), dtypes)
def test_fake_kernels_tell_the_truth(case, layout, dtype):
    t = operands(case, dtype)
    t = Operands(*(place(v) for place, v in zip(layout, t[:3], strict=True)), *t[3:])
    for op, arguments in op_calls(case, t):
        with torch._subclasses.FakeTensorMode() as mode:
            fake = op(*(mode.from_tensor(a) if isinstance(a, Tensor) else a for a in arguments))
        real = op(*arguments)
        results = (v if isinstance(v, tuple) else (v,) for v in (real, fake))
        for a, b in zip(*results, strict=True):
            assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride()), op


@given(st.sampled_from(LAYOUTS), dtypes, st.tuples(*(st.integers(1, n) for n in (3, 70, 9, 11))))
def test_the_sum_of_a_channel_is_the_same_in_any_format(layout, dtype, size):
    x = layout(torch.randn(size, dtype=torch.float64).to(dtype))
    found = ops.channel_sum(x)
    assert torch.equal(found, ops.channel_sum(x.contiguous()))
    wide = torch.complex128 if dtype.is_complex else torch.float64
    torch.testing.assert_close(found, x.to(wide).sum((0, 2, 3)).to(dtype))


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last, sliced], ids=ident)
@pytest.mark.parametrize("name", ["four_sided", "depthwise", "segments", "reflect"])
def test_opcheck(name, layout):
    """Schemas, fake kernels and tracing with dynamic shapes, by PyTorch's own utilities."""
    for dtype in (F32, C64) if layout is sliced else (F16,):
        t = operands(EDGES[name], dtype)
        t = Operands(*map(layout, t[:3]), *t[3:])
        for op, arguments in op_calls(EDGES[name], t):
            found = torch.library.opcheck(op, arguments)
            assert len(found) == 4
            assert set(found.values()) == {"SUCCESS"}
