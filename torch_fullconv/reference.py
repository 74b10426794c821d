"""The three contractions, and pooling, once more in loops a reader can follow: for the tests.

One trilinear form of filter F, input X and output (or output gradient) O,

    T(X, F, O) = Σ O[n,k,i,j] · F[k,c,r,s] · X[n, c, shown(i·stride + r·dilation - pad), ...],

is all there is. Each function leaves one of the three out, by letting the loop over every pairing
of an output position with a filter tap add to it. Plain NumPy, in float64 or complex128 whatever
the arguments' dtype, and nothing of the compiled library.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def shown_index(q: int, size: int, padding_mode: str) -> int | None:
    """The index of the input that coordinate q shows; None for a zero beyond the edges.

    >>> [shown_index(q, 4, "reflect") for q in range(-2, 6)]
    [2, 1, 0, 1, 2, 3, 2, 1]
    >>> [shown_index(q, 4, "circular") for q in (-1, 4)], shown_index(9, 4, "replicate")
    ([3, 0], 3)
    """
    if 0 <= q < size:
        return q
    if padding_mode == "zeros":
        return None
    if padding_mode == "reflect":
        return -q if q < 0 else 2 * (size - 1) - q
    if padding_mode == "replicate":
        return 0 if q < 0 else size - 1
    if padding_mode == "circular":
        return q % size
    raise ValueError(f"unknown padding mode {padding_mode!r}")


def meetings(
    size: int, kernel: int, outputs: int, stride: int, pad: int, dilation: int, padding_mode: str
) -> Iterator[tuple[int, int, int]]:
    """Every (i, r, x) along one axis: output i meets input x through filter tap r."""
    for i in range(outputs):
        for r in range(kernel):
            x = shown_index(i * stride + r * dilation - pad, size, padding_mode)
            if x is not None:
                yield i, r, x


class Layer:
    """A convolution layer without its tensors: sizes, and which of their elements meet."""

    def __init__(
        self,
        input_size: tuple[int, int],
        kernel: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),  # left, right, top, bottom
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        padding_mode: str = "zeros",
    ) -> None:
        self.input_size, self.kernel, self.groups = input_size, kernel, groups
        left, right, top, bottom = padding
        rows = input_size[0] + top + bottom - dilation[0] * (kernel[0] - 1) - 1
        columns = input_size[1] + left + right - dilation[1] * (kernel[1] - 1) - 1
        self.output_size = rows // stride[0] + 1, columns // stride[1] + 1
        axes = zip(kernel, self.output_size, stride, (top, left), dilation, strict=True)
        self.rows, self.columns = (
            list(meetings(size, *axis, padding_mode))
            for size, axis in zip(input_size, axes, strict=True)
        )

    def meetings(self) -> Iterator[tuple[int, int, int, int, int, int]]:
        """Every (i, j, r, s, y, x): output (i, j) meets input (y, x) through tap (r, s)."""
        for i, r, y in self.rows:
            for j, s, x in self.columns:
                yield i, j, r, s, y, x

    def group_slices(self, channels: int, filters: int) -> Iterator[tuple[slice, slice]]:
        """(channels, filters) of each group."""
        c, k = channels // self.groups, filters // self.groups
        for g in range(self.groups):
            yield slice(g * c, (g + 1) * c), slice(g * k, (g + 1) * k)


def _wide(array: ArrayLike) -> Array:
    array = np.asarray(array)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def correlate(layer: Layer, input: ArrayLike, filter: ArrayLike) -> Array:
    """O: the correlation of X (N, C, H, W) and F (K, C/groups, R, S).

    >>> layer = Layer((3, 3), (2, 2))
    >>> correlate(layer, np.arange(9).reshape(1, 1, 3, 3), np.ones((1, 1, 2, 2)))[0, 0]
    array([[ 8., 12.],
           [20., 24.]])
    """
    X, F = _wide(input), _wide(filter)
    O = np.zeros((X.shape[0], F.shape[0], *layer.output_size), np.result_type(X, F))  # noqa: E741
    for c, k in layer.group_slices(X.shape[1], F.shape[0]):
        for i, j, r, s, y, x in layer.meetings():
            O[:, k, i, j] += X[:, c, y, x] @ F[k, :, r, s].T
    return O


def correlate_weight(layer: Layer, input: ArrayLike, grad: ArrayLike) -> Array:
    """∂E/∂F: the correlation of X (N, C, H, W) and ∂E/∂O (N, K, P, Q)."""
    X, G = _wide(input), _wide(grad)
    shape = (G.shape[1], X.shape[1] // layer.groups, *layer.kernel)
    F = np.zeros(shape, np.result_type(X, G))
    for c, k in layer.group_slices(X.shape[1], G.shape[1]):
        for i, j, r, s, y, x in layer.meetings():
            F[k, :, r, s] += G[:, k, i, j].T @ X[:, c, y, x]
    return F


def full_convolve(layer: Layer, grad: ArrayLike, filter: ArrayLike) -> Array:
    """∂E/∂X: the full convolution of ∂E/∂O (N, K, P, Q) with F, in its scatter form.

    Each output's gradient adds F, not rotated, into the window of X that it came from. Seen from an
    element of X, the outputs that add to it run against the taps: that is the rotation by 180°.
    """
    G, F = _wide(grad), _wide(filter)
    channels = F.shape[1] * layer.groups
    X = np.zeros((G.shape[0], channels, *layer.input_size), np.result_type(G, F))
    for c, k in layer.group_slices(channels, F.shape[0]):
        for i, j, r, s, y, x in layer.meetings():
            X[:, c, y, x] += G[:, k, i, j] @ F[k, :, r, s]
    return X


def _pool_meetings(
    size: int, kernel: int, stride: int, pad: int, dilation: int, ceil_mode: bool
) -> tuple[int, list[tuple[int, int, int]]]:
    """The outputs along one axis, and every (i, r, x) of them."""
    span = size + 2 * pad - dilation * (kernel - 1) - 1
    outputs = span // stride + 1
    if ceil_mode and span % stride and outputs * stride < size + pad:
        outputs += 1  # ends behind the padding, but starts before it
    return outputs, list(meetings(size, kernel, outputs, stride, pad, dilation, "zeros"))


def max_pool2d(
    input: ArrayLike,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
    ceil_mode: bool = False,
) -> tuple[Array, NDArray[np.int64]]:
    """The largest element of each window of (N, C, H, W), and its index in its plane.

    >>> Y, indices = max_pool2d([[[[1, 3], [3, 2]]]], (2, 2), (2, 2), (0, 0))
    >>> Y.item(), indices.item()
    (3.0, 1)
    """
    X = _wide(input)
    n, c, h, w = X.shape
    (p, rows), (q, columns) = (
        _pool_meetings(size, *axis, ceil_mode)
        for size, axis in zip((h, w), zip(kernel, stride, pad, dilation, strict=True), strict=True)
    )
    Y, indices = np.full((n, c, p, q), -np.inf), np.zeros((n, c, p, q), np.int64)
    for i, _, y in rows:
        for j, _, x in columns:
            larger = X[:, :, y, x] > Y[:, :, i, j]
            Y[:, :, i, j] = np.where(larger, X[:, :, y, x], Y[:, :, i, j])
            indices[:, :, i, j] = np.where(larger, y * w + x, indices[:, :, i, j])
    return Y, indices


def avg_pool2d(
    input: ArrayLike,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Array:
    """The mean of each window of (N, C, H, W), or its sum by a divisor; padding counts as zeros.

    In `ceil_mode` what lies behind the padding counts as nothing.
    """
    X = _wide(input)
    (p, rows), (q, columns) = (
        _pool_meetings(size, *axis, 1, ceil_mode)
        for size, axis in zip(X.shape[2:], zip(kernel, stride, pad, strict=True), strict=True)
    )
    Y = np.zeros((*X.shape[:2], p, q))
    for i, _, y in rows:
        for j, _, x in columns:
            Y[:, :, i, j] += X[:, :, y, x]
    if divisor is not None:
        return Y / divisor
    rows_counted, columns_counted = (
        np.array(
            [
                sum(-margin <= i * step + r - before < size + margin for r in range(k))
                for i in range(outputs)
            ]
        )
        for size, outputs, k, step, before in zip(
            X.shape[2:], (p, q), kernel, stride, pad, strict=True
        )
        for margin in [before if count_include_pad else 0]
    )
    return Y / np.outer(rows_counted, columns_counted)
