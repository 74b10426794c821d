"""Forward passes of other libraries, where they are installed: onnxruntime, OpenVINO, JAX."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import functional
from .._checks import pair
from .layers import Layer
from .measure import Call, medians


class _Convolution(nn.Module):
    def __init__(self, layer: Layer, filter: Tensor) -> None:
        super().__init__()
        self.filter = nn.Parameter(filter)
        self.geometry = layer.stride, layer.padding, layer.dilation, layer.groups

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.filter, None, *self.geometry)


def _onnx(layer: Layer, x: Tensor, f: Tensor) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.onnx"
        torch.onnx.export(_Convolution(layer, f), (x,), path, dynamo=False)
        return path.read_bytes()


def _onnxruntime(layer: Layer, x: Tensor, f: Tensor) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(_onnx(layer, x, f), options)
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feed)


def _openvino(layer: Layer, x: Tensor, f: Tensor) -> Call:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(_onnx(layer, x, f)), "CPU", settings)
    return lambda: compiled([x.numpy()])


def _jax(layer: Layer, x: Tensor, f: Tensor) -> Call:
    import jax

    @jax.jit
    def convolve(x: Any, f: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x,
            f,
            (layer.stride, layer.stride),
            [(pad, pad) for pad in pair("padding", layer.padding)],
            rhs_dilation=(layer.dilation, layer.dilation),
            feature_group_count=layer.groups,
        )

    a, b = jax.numpy.asarray(x.numpy()), jax.numpy.asarray(f.numpy())
    return lambda: convolve(a, b).block_until_ready()


PEERS: dict[str, tuple[tuple[str, ...], Callable[[Layer, Tensor, Tensor], Call]]] = {
    "onnxruntime": (("onnxruntime", "onnx"), _onnxruntime),
    "OpenVINO": (("openvino", "onnx"), _openvino),
    "JAX": (("jax",), _jax),
}


def measure_peers(layer: Layer, budget: float) -> dict[str, float]:
    """Seconds of a float32 forward pass, NCHW: ours, stock's and each library's that is here."""
    x, f = torch.randn(layer.input_shape), torch.randn(layer.filter_shape)
    geometry = layer.stride, layer.padding, layer.dilation, layer.groups
    calls: dict[str, Call] = {
        "ours": lambda: functional.conv2d(x, f, None, *geometry),
        "stock": lambda: F.conv2d(x, f, None, *geometry),
    }
    for name, (modules, build) in PEERS.items():
        if all(importlib.util.find_spec(module) for module in modules):
            calls[name] = build(layer, x, f)
    return dict(zip(calls, medians(list(calls.values()), budget), strict=True))
