"""Trains LeNet with differential privacy, by DP-SGD written out (Abadi et al., 2016).

A step takes every digit with the same small probability, clips each one's own gradient to a norm,
adds Gaussian noise to their sum, and descends: no digit can move the net by more than the clipped
norm, and the noise hides whether it was there at all. The gradient of each sample comes from
`vmap(grad(...))`, which these layers compute in one native call each.

How private that is, an accountant says: with opacus installed this prints (epsilon, delta).
https://arxiv.org/abs/1607.00133
"""

import argparse
from collections.abc import Sequence

import data
import torch
from models import lenet
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import cross_entropy
from tqdm import tqdm

import torch_fullconv

DELTA = 1e-4  # below one over the number of digits
Tensors = dict[str, Tensor]


def main(argv: Sequence[str] | None = None) -> float:
    """Trains, and returns the accuracy on the digits held out."""
    options = parse(argv)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    digits = data.load("mnist5k", options.seed)
    net = lenet(torch_fullconv, channels=1)
    rate = options.batch_size / len(digits.train.labels)
    steps = max(1, round(options.epochs / rate))
    for _ in tqdm(range(steps), desc="steps"):
        chosen = torch.rand(len(digits.train.labels)) < rate
        batch = data.Pictures(*(tensor[chosen] for tensor in digits.train))
        step(net, batch, options.lr, options.clip, options.noise, options.batch_size)
    with torch.no_grad():
        found = net(digits.held_out.images).argmax(1)
    accuracy = (found == digits.held_out.labels).double().mean().item()
    print(f"{accuracy:.1%} of the digits held out are read right, {privacy(options, rate, steps)}")
    return accuracy


def step(
    net: nn.Module, batch: data.Pictures, lr: float, clip: float, noise: float, batch_size: int
) -> None:
    """One step of DP-SGD: a clipped gradient for each sample, their sum, noise, descent."""
    gradients, _ = per_sample_gradients(net, batch)
    scale = clipping(gradients, clip)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            total = torch.einsum("n,n...->...", scale, gradients[name])
            total += noise * clip * torch.randn_like(total)
            parameter.sub_(total, alpha=lr / batch_size)


def per_sample_gradients(net: nn.Module, batch: data.Pictures) -> tuple[Tensors, Tensor]:
    """Each sample's gradients, [N, *parameter], and losses, [N]."""

    def loss(parameters: Tensors, image: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(functional_call(net, parameters, (image[None],)), label[None])

    parameters = {name: parameter.detach() for name, parameter in net.named_parameters()}
    gradients, losses = vmap(grad_and_value(loss), (None, 0, 0))(parameters, *batch)
    return gradients, losses


def clipping(gradients: Tensors, clip: float) -> Tensor:
    """[N]: factors that bring the norm of each sample's gradients to `clip` at most."""
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients.values()]).norm(dim=0)
    return (clip / norms).clamp(max=1)


def privacy(options: argparse.Namespace, rate: float, steps: int) -> str:
    if options.noise == 0:
        return "without privacy: there is no noise"
    try:
        from opacus.accountants import RDPAccountant
    except ImportError:
        return "how privately is not known: pip install 'torch_fullconv[privacy]'"
    accountant = RDPAccountant()
    accountant.history = [(options.noise, rate, steps)]
    return f"({accountant.get_epsilon(DELTA):.1f}, {DELTA:g})-privately"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--epochs", type=float, default=10, help="default: %(default)s")
    add("--batch-size", type=int, default=256, help="expected; default: %(default)s")
    add("--lr", type=float, default=2.0, help="default: %(default)s")
    add("--clip", type=float, default=1.0, help="the norm to clip to; default: %(default)s")
    add("--noise", type=float, default=1.0, help="deviation over the norm; default: %(default)s")
    add("--seed", type=int, default=0, help="default: %(default)s")
    add("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
