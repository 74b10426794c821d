"""PyTorch's own samples and error inputs of conv2d and conv_transpose2d, run through ours.

Values are held to stock's in float64 or complex128 by the error bound of the dtype's sums: stock's
own 16-bit results are less exact than that. Formats are held to stock's in the sample's dtype, and
on every device to those of the CPU: on CUDA they hang on whether cuDNN takes the layer.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from cases import (
    C128,
    DTYPES,
    F32,
    F64,
    assert_within,
    ident,
)
from functions import Calls
from layouts import (
    channels_last,
    on_cpu,
)
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo, SampleInput

from torch_fullconv import functional

NAMES = ("conv2d", "conv_transpose2d")
OPS: dict[str, OpInfo] = {
    name: next(op for op in op_db if op.name == f"nn.functional.{name}") for name in NAMES
}
DEVICE = torch.get_default_device().type
Tensors = tuple[Tensor, ...]  # input, weight and, where there is one, bias


@cache
def samples(name: str, dtype: torch.dtype) -> list[SampleInput]:
    torch.manual_seed(0)
    return list(OPS[name].sample_inputs(DEVICE, dtype, requires_grad=False))


def describe(sample: SampleInput) -> str:
    shapes = ["x".join(map(str, t.shape)) for t in (sample.input, *sample.args) if t is not None]
    return "-".join([*shapes, *(f"{k}={v}" for k, v in sample.kwargs.items())]).replace(" ", "")


SAMPLES = [
    pytest.param(name, index, id=f"{name}-{describe(sample)}")
    for name in NAMES
    for index, sample in enumerate(samples(name, F32))
]
each_sample = pytest.mark.parametrize(("name", "index"), SAMPLES)


def arguments(sample: SampleInput) -> tuple[Tensors, dict[str, Any]]:
    assert len(sample.args) <= 2
    return tuple(t for t in (sample.input, *sample.args) if t is not None), sample.kwargs


def layouts(sample: SampleInput) -> dict[str, SampleInput]:
    def last(t: Any) -> Any:
        return channels_last(t) if isinstance(t, Tensor) and t.dim() > 2 else t

    return {
        "contiguous": sample,
        "noncontiguous": sample.noncontiguous(),
        "channels_last": sample.transform(last),
    }


def strides(t: Tensor) -> list[int]:
    """Stock makes complex results of real ones, whose axes of one element have other strides."""
    return [s for n, s in zip(t.shape, t.stride(), strict=True) if n > 1 or not t.is_complex()]


def with_gradients(function: Callable, tensors: Tensors, cotangent: Tensor | None) -> Tensors:
    """The output, and the gradients by all tensors."""
    tensors = tuple(t.detach().requires_grad_() for t in tensors)
    output = function(*tensors)
    cotangent = torch.ones_like(output) if cotangent is None else cotangent
    return output.detach(), *torch.autograd.grad(output, tensors, cotangent)


@pytest.mark.parametrize("dtype", DTYPES, ids=ident)
@each_sample
def test_samples(name, index, dtype, record_property):
    sample = samples(name, dtype)[index]
    tensors, options = arguments(sample)
    ours = partial(getattr(functional, name), **options)
    stock = partial(getattr(torch.nn.functional, name), **options)
    output = ours(*tensors)
    generator = torch.Generator(torch.get_default_device()).manual_seed(1)
    kind = C128 if dtype.is_complex else F64
    cotangent = torch.randn(output.shape, generator=generator, dtype=kind).to(dtype)
    # Contiguous tensors: unbatched and with groups, stock 2.13 gives a channels_last weight a wrong
    # gradient.
    exact = with_gradients(stock, [t.to(kind) for t in tensors], cotangent.to(kind))
    magnitudes = [t.to(kind).abs() for t in tensors], cotangent.to(kind).abs()
    magnitude = with_gradients(stock, *magnitudes)
    pixels = output.numel() // output.shape[-3]
    terms = [tensors[1].numel(), tensors[1].numel(), pixels, pixels][: len(exact)]

    for layout, placed in layouts(sample).items():
        tensors, _ = arguments(placed)
        found = with_gradients(ours, tensors, cotangent)
        for result, *rest in zip(found, exact, magnitude, terms, strict=True):
            assert result.dtype == dtype
            assert_within(result, *rest)
        try:
            assert strides(found[0]) == strides(stock(*map(on_cpu, tensors))), layout
        except RuntimeError as error:
            record_property("stock fails", str(error))


@each_sample
def test_derivatives_of_samples(name, index):
    tensors, options = arguments(samples(name, F64)[index])
    function = partial(getattr(functional, name), **options)
    tensors = tuple(t.detach().requires_grad_() for t in tensors)
    checks = {"fast_mode": True, "check_batched_grad": True}
    assert gradcheck(function, tensors, check_forward_ad=True, **checks)
    assert gradgradcheck(function, tensors, check_fwd_over_rev=True, **checks)


@pytest.mark.slow
@pytest.mark.compiler
@each_sample
def test_opcheck_of_samples(name, index):
    """PyTorch's checks of an op, for each that a sample runs and for its twin with derivatives."""
    tensors, options = arguments(samples(name, F32)[index])
    with Calls() as calls:
        with_gradients(partial(getattr(functional, name), **options), tensors, None)
    assert calls.names
    for op, inputs in zip(calls.names, calls.arguments, strict=True):
        for each, grads in ((op, False), (f"{op}_autograd", True)):
            given = [
                t.detach().requires_grad_(grads) if isinstance(t, Tensor) else t for t in inputs
            ]
            found = opcheck(getattr(torch.ops.torch_fullconv, each).default, given)
            assert set(found.values()) == {"SUCCESS"}


ERRORS = list(OPS["conv2d"].error_inputs(DEVICE))


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: describe(e.sample_input))
def test_error_inputs(error):
    """Stock's exception type and the part of its message that PyTorch tests for."""
    sample = error.sample_input
    for function in (torch.nn.functional.conv2d, functional.conv2d):
        with pytest.raises(error.error_type, match=error.error_regex):
            function(sample.input, *sample.args, **sample.kwargs)


def test_what_ships():
    """More samples or errors in a later torch are taken up by themselves; these counts are a floor.

    No error inputs ship for conv_transpose2d.
    """
    assert len(samples("conv2d", F32)) >= 30
    assert len(samples("conv_transpose2d", F32)) >= 12
    assert len(ERRORS) >= 10
    assert OPS["conv_transpose2d"].error_inputs_func is None
    assert all(len(samples(name, d)) == len(samples(name, F32)) for name in NAMES for d in DTYPES)


@pytest.mark.parametrize("name", NAMES)
def test_dtypes_that_stock_has_and_we_have_not_say_so(name):
    assert OPS[name].dtypes - set(DTYPES) == {torch.int64}
    tensors, options = arguments(samples(name, torch.int64)[0])
    with pytest.raises(NotImplementedError, match=r"torch\.int64 is not supported; convert"):
        getattr(functional, name)(*tensors, **options)
