"""Two processes hold parts of a layer's tensors, and together compute what one process does.

They are started once and run every check in turn. "Bit for bit" is against one process that does
the ranks' parts one by one: that is the whole computation itself, except where it cuts a sum.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import torch_fullconv as tfc

if not dist.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)

from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import (
    DeviceMesh,
    DTensor,
    Partial,
    Replicate,
    Shard,
    distribute_tensor,
    init_device_mesh,
)
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.experimental import implicit_replication
from torch.distributed.tensor.placement_types import Placement

RANKS = 2
TIME_LIMIT = timedelta(seconds=300)
LOOPBACK = "lo" if sys.platform.startswith("linux") else "lo0"
WHOLE, TERM = Replicate(), Partial()

# Where each cut leaves x, weight and bias, then y and the gradients of x, weight and bias.
CUTS = {
    "conv2d": {
        "batch": (Shard(0), WHOLE, WHOLE, Shard(0), Shard(0), TERM, TERM),
        "output channels": (WHOLE, Shard(0), Shard(0), Shard(1), TERM, Shard(0), Shard(0)),
        "input channels": (Shard(1), Shard(1), WHOLE, TERM, Shard(1), Shard(1), WHOLE),
    },
    "conv_transpose2d": {
        "batch": (Shard(0), WHOLE, WHOLE, Shard(0), Shard(0), TERM, TERM),
        "output channels": (WHOLE, Shard(1), Shard(0), Shard(1), TERM, Shard(1), Shard(0)),
        "input channels": (Shard(1), Shard(0), WHOLE, TERM, Shard(1), Shard(0), WHOLE),
    },
}


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(name: str, **options: object) -> tuple[Callable[..., Tensor], list[Tensor], Tensor]:
    """A function of x, weight and bias, these, and a gradient of its output."""
    function = partial(getattr(tfc.functional, name), **options)
    weight = random(4, 6, 3, 3, seed=0)
    operands = [
        random(4, 6, 9, 8, seed=1),
        weight if name == "conv2d" else weight.transpose(0, 1).contiguous(),
        random(4, seed=2),
    ]
    return function, operands, random(*function(*operands).shape, seed=3)


def run(function: Callable[..., Tensor], operands: list[Tensor], grad: Tensor) -> list[Tensor]:
    """The output, and the gradient of every operand."""
    operands = [tensor.detach().requires_grad_() for tensor in operands]
    output = function(*operands)
    return [output.detach(), *torch.autograd.grad(output, operands, grad)]


def split(tensor: Tensor, placement: Placement) -> list[Tensor]:
    if isinstance(placement, Shard):
        return [part.contiguous() for part in tensor.chunk(RANKS, placement.dim)]
    return [tensor] * RANKS


def join(parts: tuple[Tensor, ...], placement: Placement) -> Tensor:
    if isinstance(placement, Shard):
        return torch.cat(parts, placement.dim)
    return parts[0] + parts[1] if placement == TERM else parts[0]


def compare_cut(mesh: DeviceMesh, name: str, cut: str, **options: object) -> None:
    function, operands, grad = layer(name, **options)
    given, found = CUTS[name][cut][:3], CUTS[name][cut][3:]
    given_grad = WHOLE if found[0] == TERM else found[0]

    parts = [split(t, p) for t, p in zip((*operands, grad), (*given, given_grad), strict=True)]
    if found[0] == TERM:
        parts[2] = [operands[2] / RANKS] * RANKS
    by_rank = [run(function, rank[:3], rank[3]) for rank in zip(*parts, strict=True)]
    expected = [join(*pair) for pair in zip(zip(*by_rank, strict=True), found, strict=True)]
    whole = run(function, operands, grad)

    cut_operands = [distribute_tensor(t, mesh, [p]) for t, p in zip(operands, given, strict=True)]
    cut_grad = distribute_tensor(grad, mesh, [given_grad])
    with CommDebugMode() as communication:
        results = run(function, cut_operands, cut_grad)
        assert communication.get_total_counts() == 0
    assert [result.placements for result in results] == [(p,) for p in found]
    for result, of_parts, of_one in zip(results, expected, whole, strict=True):
        assert torch.equal(result.full_tensor(), of_parts)
        torch.testing.assert_close(of_parts, of_one, rtol=1e-5, atol=1e-4)
    if cut == "batch":
        assert torch.equal(results[0].full_tensor(), whole[0])
        assert torch.equal(results[1].full_tensor(), whole[1])


def compare_with_one(
    mesh: DeviceMesh, function: Callable[..., Tensor], *operands: tuple[Tensor, Placement]
) -> Tensor:
    """The whole result of a function of DTensors is that of the tensors."""
    result = function(*(distribute_tensor(t, mesh, [p]) for t, p in operands))
    assert isinstance(result, DTensor)
    whole = function(*(tensor for tensor, _ in operands))
    torch.testing.assert_close(result.full_tensor(), whole, rtol=1e-5, atol=1e-4)
    return result


def a_weight_alone_in_parts(mesh: DeviceMesh) -> None:
    """The first call with a DTensor: it loads the rules.

    In float64, for a part may go another way than the whole, and round otherwise.
    """
    x, weight = random(2, 4, 9, 9, seed=0).double(), random(6, 4, 3, 3, seed=1).double()
    with implicit_replication():
        result = tfc.functional.conv2d(x, distribute_tensor(weight, mesh, [Shard(0)]))
    assert result.placements == (Shard(1),)
    torch.testing.assert_close(result.full_tensor(), tfc.functional.conv2d(x, weight))


def layers_that_differ_in_one_number(mesh: DeviceMesh) -> None:
    """Rules are cached by an op's numbers; on a square image only they tell the layers apart."""
    x, weight = random(2, 4, 9, 9, seed=0), random(4, 4, 3, 3, seed=1)
    results = [
        compare_with_one(
            mesh, partial(tfc.functional.conv2d, **options), (x, Shard(0)), (weight, WHOLE)
        )
        for options in (
            {},
            *({name: value} for name in ("stride", "padding", "dilation") for value in (2, (1, 2))),
            *({"padding": (2, 1, 1, 1), "padding_mode": mode} for mode in ("zeros", "reflect")),
        )
    ]
    grouped = partial(tfc.functional.conv2d, groups=2)
    compare_with_one(mesh, grouped, (x, Shard(0)), (weight[:, :2].contiguous(), WHOLE))
    assert len({tuple(result.shape) for result in results}) > 4


def channels_in_groups_are_made_whole(mesh: DeviceMesh) -> None:
    x, weight = random(2, 4, 9, 9, seed=0), random(8, 1, 3, 3, seed=1)
    depthwise = partial(tfc.functional.conv2d, groups=4)
    for placements in ((Shard(1), Shard(0)), (Shard(1), WHOLE), (WHOLE, Shard(0))):
        compare_with_one(mesh, depthwise, *zip((x, weight), placements, strict=True))


def gradients_of_groups(mesh: DeviceMesh) -> None:
    x = random(2, 4, 9, 9, seed=0)
    for name, shape in (("conv2d", (8, 1, 3, 3)), ("conv_transpose2d", (4, 2, 3, 3))):
        function = partial(getattr(tfc.functional, name), groups=4)

        def slopes(x: Tensor, weight: Tensor, function: Callable[..., Tensor] = function) -> Tensor:
            x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
            both = torch.autograd.grad(function(x, weight).square().sum(), (x, weight))
            return both[0].sum() + both[1].square().sum()

        for placements in (
            (Shard(0), WHOLE),
            (Shard(1), Shard(0)),
            (Shard(1), WHOLE),
            (WHOLE, Shard(0)),
        ):
            operands = zip((x, random(*shape, seed=1)), placements, strict=True)
            compare_with_one(mesh, slopes, *operands)


def relu_and_pooling(mesh: DeviceMesh) -> None:
    """Values, gradients and second gradients, by placements; rows in parts are gathered."""
    x = random(4, 6, 9, 8, seed=0)
    for function in (
        tfc.functional.relu,
        partial(tfc.functional.max_pool2d, kernel_size=3, stride=2, padding=1),
        partial(tfc.functional.avg_pool2d, kernel_size=2),
    ):

        def slope(x: Tensor, function: Callable[..., Tensor] = function) -> Tensor:
            x = x.detach().requires_grad_()
            (first,) = torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
            return first + torch.autograd.grad(first.square().sum(), x)[0]

        for placement, each in product((WHOLE, Shard(0), Shard(1), Shard(2)), (function, slope)):
            result = compare_with_one(mesh, each, (x, placement))
            assert result.placements == (placement,) or placement == Shard(2)

    for placement in (Shard(0), Shard(2)):
        compare_with_one(
            mesh, lambda x: tfc.functional.relu(x.clone(), inplace=True), (x, placement)
        )


def uneven_parts(mesh: DeviceMesh) -> None:
    sizes = (3, 4, 4), (1, 4, 4), (0, 4, 4), (2, 5, 4), (2, 4, 3), (2, 1, 1)
    for batch, inputs, outputs in sizes:
        x, weight = random(batch, inputs, 6, 6, seed=0), random(outputs, inputs, 3, 3, seed=1)
        for cut in CUTS["conv2d"].values():
            compare_with_one(mesh, tfc.functional.conv2d, (x, cut[0]), (weight, cut[1]))


def other_placements_are_made_to_fit(mesh: DeviceMesh) -> None:
    """Rows of an image in parts, one image without a batch, a weight in parts that x is not in."""
    x, weight = random(2, 4, 8, 8, seed=0), random(6, 4, 3, 3, seed=1)
    conv2d = partial(tfc.functional.conv2d, padding=1)
    compare_with_one(mesh, conv2d, (x, Shard(2)), (weight, Shard(0)))
    compare_with_one(mesh, conv2d, (x, Shard(0)), (weight, Shard(1)))
    compare_with_one(mesh, conv2d, (x, Shard(1)), (weight, Shard(3)))
    compare_with_one(mesh, conv2d, (x[0], Shard(0)), (weight, Shard(1)))


def per_sample_gradients(mesh: DeviceMesh) -> None:
    x, grad = random(4, 3, 6, 6, seed=0), random(4, 5, 4, 4, seed=1)
    per_sample = lambda x, grad: tfc.functional.conv2d_weight_grad(  # noqa: E731
        x, (5, 3, 3, 3), grad, per_sample=True
    )
    compare_with_one(mesh, per_sample, (x, Shard(0)), (grad, Shard(0)))
    by_channels = compare_with_one(mesh, per_sample, (x, WHOLE), (grad, Shard(1)))
    assert by_channels.placements == (Shard(1),)


def second_derivatives(mesh: DeviceMesh) -> None:
    x, weight = random(4, 3, 6, 6, seed=0), random(5, 3, 3, 3, seed=1)

    def penalty(x: Tensor, weight: Tensor) -> Tensor:
        x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
        output = tfc.functional.conv2d(x, weight, padding=1)
        (slope,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), weight)[0]

    for cut in CUTS["conv2d"].values():
        compare_with_one(mesh, penalty, (x, cut[0]), (weight, cut[1]))


def two_layers_share_one_sum(mesh: DeviceMesh) -> None:
    """docs/distributed.md: output channels, then input channels, meet in one all-reduce."""
    model = net()[:3]
    x = random(2, 3, 9, 9, seed=4)
    expected = model(x)
    for module, dim in ((model[0], 0), (model[2], 1)):
        for name, parameter in list(module.named_parameters()):
            placement = Shard(dim) if parameter.dim() > dim else WHOLE
            distributed = distribute_tensor(parameter.detach(), mesh, [placement])
            module.register_parameter(name, nn.Parameter(distributed))
    x = distribute_tensor(x, mesh, [WHOLE])
    with CommDebugMode() as communication:
        output = model(x)
        assert communication.get_total_counts() == 0
        assert output.placements == (TERM,)
        torch.testing.assert_close(output.full_tensor(), expected)
        assert communication.get_total_counts() == 1


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        tfc.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        tfc.Conv2d(8, 8, 3, stride=2, padding=1, padding_mode="reflect"),
        nn.ReLU(),
        tfc.ConvTranspose2d(8, 5, 3),
    )


def compare_data_parallel(mesh: DeviceMesh, wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Each rank's outputs and input gradients are one process's, filter gradients its parts'."""

    def train(model: nn.Module, x: Tensor) -> list[Tensor]:
        x = x.clone().requires_grad_()
        output = model(x)
        output.square().sum().backward()
        return [output.detach(), x.grad, *(parameter.grad for parameter in model.parameters())]

    x, rank = random(6, 3, 9, 9, seed=5), dist.get_rank()
    one = train(net(), x)
    parts = [train(net(), part) for part in x.chunk(RANKS)]
    mine = train(wrap(net()), x.chunk(RANKS)[rank])
    assert torch.equal(mine[0], one[0].chunk(RANKS)[rank])
    assert torch.equal(mine[1], one[1].chunk(RANKS)[rank])
    for gradient, first, second in zip(mine[2:], parts[0][2:], parts[1][2:], strict=True):
        whole = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
        assert torch.equal(whole, (first + second) / RANKS)


def fully_sharded(model: nn.Module) -> nn.Module:
    for module in [*model, model]:
        fully_shard(module)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    return model


def converted_after_it_was_sharded(mesh: DeviceMesh) -> None:
    """Layers in a module that FSDP wraps are converted; a layer that it wraps is left and named."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    x = random(2, 3, 9, 9, seed=6)
    expected = model(x)
    fully_shard(model[1])
    fully_shard(model)
    with pytest.warns(UserWarning, match=r"FSDPConv2d \(1\)"):
        tfc.convert(model)
    assert type(model[0]) is tfc.Conv2d
    assert not isinstance(model[1], tfc.Conv2d)
    torch.testing.assert_close(model(x), expected)


def compiled(wrap: Callable[[nn.Module], nn.Module], model: nn.Module) -> nn.Module:
    return torch.compile(wrap(model), backend="aot_eager")


def two_cuts_at_once(mesh: DeviceMesh) -> None:
    """Each dimension of a mesh may cut an index; one of the two has a single process here."""
    x, weight = random(4, 6, 9, 8, seed=0), random(4, 6, 3, 3, seed=1)
    expected = tfc.functional.conv2d(x, weight)
    for shape in ((1, RANKS), (RANKS, 1)):
        plane = init_device_mesh("cpu", shape)
        for one, other in product(CUTS["conv2d"].values(), repeat=2):
            cut_x = distribute_tensor(x, plane, [one[0], other[0]])
            cut_weight = distribute_tensor(weight, plane, [one[1], other[1]])
            with CommDebugMode() as communication:
                result = tfc.functional.conv2d(cut_x, cut_weight)
                assert communication.get_total_counts() == 0
            assert result.placements == (one[3], other[3])
            torch.testing.assert_close(result.full_tensor(), expected, rtol=1e-5, atol=1e-4)


CHECKS: dict[str, Callable[[DeviceMesh], None]] = {
    "a weight alone in parts": a_weight_alone_in_parts,  # before any other
}
CHECKS |= {
    f"{name}, {cut}, {options}": partial(compare_cut, name=name, cut=cut, **options)
    for name, cuts in CUTS.items()
    for cut in cuts
    for options in ({}, {"stride": 2, "padding": 1})
}
CHECKS |= {
    "DistributedDataParallel": partial(compare_data_parallel, wrap=DistributedDataParallel),
    "DistributedDataParallel, compiled": partial(
        compare_data_parallel, wrap=partial(compiled, DistributedDataParallel)
    ),
    "fully_shard": partial(compare_data_parallel, wrap=fully_sharded),
    "fully_shard, compiled": partial(compare_data_parallel, wrap=partial(compiled, fully_sharded)),
}
CHECKS |= {
    function.__name__: function
    for function in (
        layers_that_differ_in_one_number,
        channels_in_groups_are_made_whole,
        gradients_of_groups,
        relu_and_pooling,
        uneven_parts,
        other_placements_are_made_to_fit,
        per_sample_gradients,
        second_derivatives,
        two_layers_share_one_sum,
        converted_after_it_was_sharded,
        two_cuts_at_once,
    )
}


def run_checks(rank: int, port: int, folder: Path) -> None:
    """A process: runs every check, and writes what went wrong in each."""
    os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, timeout=TIME_LIMIT)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=TIME_LIMIT)
    mesh = init_device_mesh("cpu", (RANKS,))
    failures = {}
    for name, check in CHECKS.items():
        try:
            check(mesh)
        except Exception:
            failures[name] = traceback.format_exc()
    (folder / f"{rank}.json").write_text(json.dumps(failures))
    dist.destroy_process_group()
    time.sleep(0.5)  # see the end of examples/train_distributed.py's main


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """What went wrong in each process, by check."""
    folder = tmp_path_factory.mktemp("outcomes")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes = mp.spawn(run_checks, (store.port, folder), nprocs=RANKS, join=False, daemon=True)
    end = time.monotonic() + TIME_LIMIT.seconds
    while not processes.join(timeout=1):  # raises what a process raised
        assert time.monotonic() < end
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.parametrize("name", CHECKS)
def test_two_processes_are_as_one(name, failures):
    if trace := "\n".join(failed[name] for failed in failures if name in failed):
        pytest.fail(trace, pytrace=False)
