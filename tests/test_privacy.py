"""Per-sample gradients at work: Opacus' grad sampler, and the example's DP-SGD."""

import subprocess
import sys

import data
import dp_sgd
import pytest
import torch
from functions import Calls
from models import lenet
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torch_fullconv as tfc


def net(conv: type[nn.Conv2d]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        conv(2, 8, 3, padding=1, padding_mode="reflect"),
        nn.Tanh(),
        conv(8, 12, 3, stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=4, bias=False),
        nn.Tanh(),
        conv(12, 3, (2, 1), padding="valid"),
    ).double()


@pytest.fixture
def opacus():
    """Opacus with the grad sampler; other tests see none."""
    found = pytest.importorskip("opacus")
    import torch_fullconv.opacus  # noqa: F401

    return found


def by_loop(module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The gradients of each sample's loss, one sample at a time."""
    each = []
    for sample in x:
        loss = module(sample[None]).square().sum()
        each.append(torch.autograd.grad(loss, list(module.parameters())))
    return [torch.stack(parts) for parts in zip(*each, strict=True)]


def test_opacus_gradients_are_each_samples(opacus):
    module, x = net(tfc.Conv2d), torch.randn(5, 2, 8, 7).double()
    expected = by_loop(net(nn.Conv2d), x)
    wrapped = opacus.GradSampleModule(module, loss_reduction="sum")
    with Calls() as calls:  # which would see a convolution of stock's
        wrapped(x).square().sum().backward()
    torch.testing.assert_close([p.grad_sample for p in module.parameters()], expected)
    segments = [
        a[-1]
        for name, a in zip(calls.names, calls.arguments, strict=True)
        if a[-1] is not None and name == "correlate_weight"
    ]
    assert segments == [5, 5, 5]


def test_opacus_skips_frozen_parameters(opacus):
    module = net(tfc.Conv2d)
    module[0].weight.requires_grad_(False)
    wrapped = opacus.GradSampleModule(module, loss_reduction="sum")
    wrapped(torch.randn(3, 2, 8, 7).double()).square().sum().backward()
    assert not hasattr(module[0].weight, "grad_sample")
    assert module[0].bias.grad_sample.shape == (3, 8)


def test_opacus_trains_privately(opacus):
    module = nn.Sequential(tfc.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    loader = DataLoader(TensorDataset(torch.randn(32, 1, 8, 8), torch.arange(32) % 2), 8)
    module, optimizer, loader = opacus.PrivacyEngine().make_private(
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), 0.1),
        data_loader=loader,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
    )
    before = [p.clone() for p in module.parameters()]
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    assert not any(map(torch.equal, before, module.parameters()))


def test_opacus_is_not_imported_unasked():
    code = "import sys, torch_fullconv; assert 'opacus' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_step_without_noise_is_a_step_of_clipped_gradients():
    torch.manual_seed(0)
    twin, module = lenet(nn, 1), lenet(tfc, 1)
    module.load_state_dict(twin.state_dict())
    batch = data.Pictures(torch.randn(6, 1, 28, 28), torch.arange(6))
    loss = nn.functional.cross_entropy
    expected = [torch.zeros_like(p) for p in twin.parameters()]
    norms = []
    for x, y in zip(*batch, strict=True):
        each = torch.autograd.grad(loss(twin(x[None]), y[None]), list(twin.parameters()))
        norms.append(torch.cat([g.flatten() for g in each]).norm().item())
        for total, g in zip(expected, each, strict=True):
            total += g * min(1.0, 0.5 / norms[-1])
    assert max(norms) > 0.5, "something is clipped"
    before = [p.clone() for p in module.parameters()]
    dp_sgd.step(module, batch, lr=1.0, clip=0.5, noise=0.0, batch_size=6)
    steps = [old - new for old, new in zip(before, module.parameters(), strict=True)]
    torch.testing.assert_close(steps, [t / 6 for t in expected], rtol=1e-4, atol=1e-6)


def test_noise_is_as_large_as_said():
    module = lenet(tfc, 1)
    before = torch.cat([p.flatten() for p in module.parameters()]).detach().clone()
    nothing = data.Pictures(torch.empty(0, 1, 28, 28), torch.empty(0, dtype=torch.long))
    torch.manual_seed(0)
    dp_sgd.step(module, nothing, lr=1.0, clip=0.5, noise=3.0, batch_size=10)
    noise = torch.cat([p.flatten() for p in module.parameters()]).detach() - before
    assert noise.mean().abs() < 0.01
    assert noise.std() == pytest.approx(0.15, rel=0.02)


def test_the_example_learns(monkeypatch, capsys):
    digits = data.load("mnist5k", seed=0)
    few = data.Data(*(data.Pictures(x[:1000], y[:1000]) for x, y in digits))
    monkeypatch.setattr(data, "load", lambda name, seed: few)
    accuracy = dp_sgd.main(["--epochs", "6", "--batch-size", "64", "--noise", "0.5"])
    assert accuracy > 0.5
    assert f"{accuracy:.1%} of the digits held out are read right" in capsys.readouterr().out
