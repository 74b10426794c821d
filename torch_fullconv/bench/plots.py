"""Two pictures: the ratio of every layer, and every layer under the machine's roofline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .measure import PASSES, Machine, Measurement

COLOURS = dict(zip(PASSES, ("#4477aa", "#cc6677", "#228833"), strict=True))


def plot_ratios(path: Path, measured: Sequence[Measurement]) -> None:
    """Stock's best layout over ours, a bar a pass; right of 1 ours is faster."""
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(m.name for m in measured))
    figure, axes = plt.subplots(figsize=(8, 1.5 + 0.3 * len(names)), layout="constrained")
    for index, what in enumerate(PASSES):
        some = [m for m in measured if m.what == what]
        places = [names.index(m.name) + (index - 1) * 0.27 for m in some]
        lengths = [m.ratio - 1 for m in some]
        axes.barh(places, lengths, 0.25, left=1, color=COLOURS[what], label=what)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    first = measured[0]
    axes.set_xlabel("time of nn.Conv2d in its best layout / ours")
    axes.set_title(f"{first.dtype}, {first.place}")
    figure.legend(loc="outside lower center", ncols=len(PASSES))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_roofline(path: Path, measured: Sequence[Measurement], machine: Machine) -> None:
    """Rate against arithmetic intensity. Minimal filtering can be above the roof: it multiplies
    less than the definition, whose operations are counted."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    intensities = [m.flops / m.bytes for m in measured]
    ends = [min(intensities) / 2, max(intensities) * 2]
    ridge = machine.flops / machine.bandwidth
    roof = sorted({*ends, min(max(ridge, ends[0]), ends[1])})
    axes.plot(
        roof,
        [min(i * machine.bandwidth, machine.flops) / 1e9 for i in roof],
        color="black",
        label="matrix product and copy, measured",
    )
    for what in PASSES:
        some = [m for m in measured if m.what == what]
        for times, marker, fill in (("stock", "o", "none"), ("ours", "o", COLOURS[what])):
            axes.scatter(
                [m.flops / m.bytes for m in some],
                [m.flops / min(getattr(m, times).values()) / 1e9 for m in some],
                marker=marker,
                facecolors=fill,
                edgecolors=COLOURS[what],
                s=22,
                label=f"{what}, {times}",
            )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("operations a byte of input, filter and output")
    axes.set_ylabel("GFLOP/s of the definition")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)
