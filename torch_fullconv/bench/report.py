"""What the measurements say: tables, and the goals beside what was reached."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .. import ops
from .measure import LAYOUTS, PASSES, Machine, Measurement

Machines = dict[tuple[str, int], Machine]  # by dtype and threads
Peers = dict[str, dict[str, float]]  # seconds, by layer and library


class Goal(NamedTuple):
    """Ratios to reach: the geometric mean over the suite and its passes, and the lowest."""

    mean: float
    lowest: float | None = None


LAYER_GOALS = {"float32": Goal(2.0, 1.0), "float64": Goal(4.0, 1.2), "bfloat16": Goal(1.5, 1.0)}
MODEL_GOALS = {
    ("ResNet-18", "training step"): Goal(1.5),
    ("MobileNetV2", "training step"): Goal(2.0),
    ("post 3x3 by 2x2", "forward and backward"): Goal(0.7),
}
HALF_GOAL = 1.3  # at most, with AVX2, which cannot multiply these

Table = list[list[str]]


def layer_table(measured: Sequence[Measurement], machine: Machine) -> Table:
    """A row a layer and pass: times, ratios by layout, part of the peak and of the roofline."""
    head = ["layer", "pass", "ours ms", "stock ms", "ratio", *LAYOUTS, "% peak", "% roofline"]
    rows = [
        [
            m.name,
            m.what,
            f"{min(m.ours.values()) * 1e3:.3f}",
            f"{min(m.stock.values()) * 1e3:.3f}",
            f"{m.ratio:.2f}",
            *(f"{m.same_layout(layout):.2f}" for layout in LAYOUTS),
            f"{100 * m.of_peak(machine):.0f}",
            f"{100 * m.of_roofline(machine):.0f}",
        ]
        for m in measured
    ]
    return [head, *rows]


def model_table(measured: Sequence[Measurement]) -> Table:
    head = ["model", "what", "threads", "ours ms", "stock ms", "ratio", "goal"]
    rows = []
    for m in measured:
        goal = MODEL_GOALS.get((m.name, m.what))
        times = (f"{min(t.values()) * 1e3:.3f}" for t in (m.ours, m.stock))
        reached = "" if goal is None else f"{goal.mean:.1f}"
        rows.append([m.name, m.what, str(m.threads), *times, f"{m.ratio:.2f}", reached])
    return [head, *rows]


def summary_table(measured: Sequence[Measurement]) -> Table:
    """Geometric mean and lowest ratio, for each dtype and number of threads and each pass."""
    head = ["dtype", "threads", "passes", "mean", "goal", "lowest", "goal", "at"]
    rows = []
    for (dtype, threads), group in by_run(measured):
        for passes in (*([what] for what in PASSES), PASSES):
            some = [m for m in group if m.what in passes]
            if not some or (len(passes) > 1 and len({m.what for m in some}) == 1):
                continue
            lowest = min(some, key=lambda m: m.ratio)
            mean = statistics.geometric_mean(m.ratio for m in some)
            goal = LAYER_GOALS.get(dtype) if len(passes) > 1 else None
            goals = ["", ""] if goal is None else [f"{goal.mean:.1f}", f"{goal.lowest:.1f}"]
            name = passes[0] if len(passes) == 1 else "all"
            at = f"{lowest.name}, {lowest.what}"
            figures = f"{mean:.2f}", goals[0], f"{lowest.ratio:.2f}", goals[1]
            rows.append([dtype, str(threads), name, *figures, at])
    return [head, *rows]


def half_table(measured: Sequence[Measurement]) -> Table:
    """Our time in bfloat16 and float16 over our own in float32; the goal is AVX2's."""
    ours = {(m.dtype, m.threads, m.name, m.what): min(m.ours.values()) for m in measured}
    goal = f"{HALF_GOAL:.1f}" if ops.instruction_set() == "avx2" else ""
    rows = []
    for (dtype, threads), group in by_run(measured):
        slower = {
            f"{m.name}, {m.what}": min(m.ours.values()) / ours["float32", threads, m.name, m.what]
            for m in group
            if dtype in ("bfloat16", "float16") and ("float32", threads, m.name, m.what) in ours
        }
        if slower:
            at = max(slower, key=slower.__getitem__)
            mean = statistics.geometric_mean(slower.values())
            rows.append([dtype, str(threads), f"{mean:.2f}", goal, f"{slower[at]:.2f}", at])
    return [["dtype", "threads", "mean", "goal", "highest", "at"], *rows]


def peer_table(peers: Peers) -> Table:
    libraries = list(dict.fromkeys(name for times in peers.values() for name in times))
    rows = [
        [layer, *(f"{times[name] * 1e3:.3f}" for name in libraries)]
        for layer, times in peers.items()
    ]
    return [["layer", *libraries], *rows]


def machine_table(machines: Machines) -> Table:
    head = ["dtype", "threads", "multiply-add peak GFLOP/s", "copy GB/s"]
    rows = [
        [dtype, str(threads), f"{m.flops / 1e9:.0f}", f"{m.bandwidth / 1e9:.1f}"]
        for (dtype, threads), m in machines.items()
    ]
    return [head, *rows]


def by_run(
    measured: Sequence[Measurement],
) -> Iterator[tuple[tuple[str, int], list[Measurement]]]:
    """The layers' measurements, for each dtype and number of threads."""
    for key in dict.fromkeys((m.dtype, m.threads) for m in measured):
        yield key, [m for m in measured if (m.dtype, m.threads) == key]


def tables(
    layers: Sequence[Measurement],
    models: Sequence[Measurement],
    machines: Machines,
    peers: Peers,
) -> dict[str, Table]:
    """All tables by their titles."""
    found: dict[str, Table] = {}
    for (dtype, threads), group in by_run(layers):
        title = f"Layers, {dtype}, {group[0].place}"
        found[title] = layer_table(group, machines[dtype, threads])
    if models:
        found["Models"] = model_table(models)
    if peers:
        found["Forward passes beside other libraries, float32, NCHW, ms"] = peer_table(peers)
    if layers:
        found["Summary"] = summary_table(layers)
    if len(half := half_table(layers)) > 1:
        found[f"Time over our float32, {ops.instruction_set()}"] = half
    return found | {"Machine": machine_table(machines)}


def markdown(tables: dict[str, Table]) -> str:
    parts = []
    for title, (head, *rows) in tables.items():
        lines = [head, ["---"] * len(head), *rows]
        parts.append(f"### {title}\n\n" + "\n".join(f"| {' | '.join(r)} |" for r in lines) + "\n")
    return "\n".join(parts)


def show(tables: dict[str, Table]) -> None:
    """To the terminal."""
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console(width=None if sys.stdout.isatty() else 120)
    for title, (head, *rows) in tables.items():
        table = RichTable(title=title)
        for column in head:
            text = column in ("layer", "pass", "model", "what", "at", "dtype", "passes")
            table.add_column(column, justify="left" if text else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def save_json(
    path: Path,
    layers: Sequence[Measurement],
    models: Sequence[Measurement],
    machines: Machines,
    peers: Peers,
) -> None:
    content = {
        "machine": [
            {"dtype": dtype, "threads": threads, **m._asdict()}
            for (dtype, threads), m in machines.items()
        ],
        "layers": [m._asdict() | {"ratio": m.ratio} for m in layers],
        "models": [m._asdict() | {"ratio": m.ratio} for m in models],
        "peers": peers,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
