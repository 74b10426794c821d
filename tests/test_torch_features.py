"""What PyTorch does with any layer, done with ours and with the stock twin side by side."""

import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from torch.utils.flop_counter import FlopCounterMode

import torch_fullconv as tfc

LAYERS = {
    "Conv2d": ((4, 6, 3), {"stride": 2, "padding": 1, "padding_mode": "reflect"}),
    "ConvTranspose2d": ((4, 6, 3), {"stride": 2, "output_padding": 1}),
}


@pytest.fixture(params=LAYERS)
def twins(request) -> tuple[nn.Module, nn.Module]:
    """Ours and stock's, with the same weights."""
    arguments, keywords = LAYERS[request.param]
    ours = getattr(tfc, request.param)(*arguments, **keywords)
    stock = getattr(nn, request.param)(*arguments, **keywords)
    stock.load_state_dict(ours.state_dict())
    return ours, stock


def image() -> Tensor:
    return torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(0))


def train(function: Callable[[Tensor], Tensor], layer: nn.Module) -> list[Tensor]:
    """The output, and the gradients of input and parameters."""
    x = image().requires_grad_()
    output = function(x)
    grads = torch.autograd.grad(output.float().square().sum(), [x, *layer.parameters()])
    return [output.detach(), *grads]


def assert_close(ours: list[Tensor], stock: list[Tensor]) -> None:
    for a, b in zip(ours, stock, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(twins, dtype):
    """Output in the low type; gradients in the parameters' own, as near as the type allows."""
    results = []
    for layer in twins:
        with torch.autocast("cpu", dtype=dtype):
            results.append(train(layer, layer))
    for ours, stock in zip(*results, strict=True):
        assert ours.dtype == stock.dtype
        assert (ours - stock).norm() <= 0.02 * stock.norm()
    with torch.autocast("cpu", dtype=dtype), torch.autocast("cpu", enabled=False):
        assert [layer(image()).dtype for layer in twins] == [torch.float32] * 2


def test_deterministic_algorithms(twins):
    """Nothing here is forbidden, and it also fills what `torch.empty` returns with NaN."""
    ours, stock = twins
    expected = train(ours, ours)
    torch.use_deterministic_algorithms(True)
    try:
        found = train(ours, ours)
        train(stock, stock)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_equal(found, expected)


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "float32"])
def test_activation_checkpointing(twins, reentrant, autocast):
    for layer in twins:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            expected = train(layer, layer)
            x = image().requires_grad_()
            output = checkpoint(layer, x, use_reentrant=reentrant)
            output.float().square().sum().backward()
        grads = [parameter.grad for parameter in layer.parameters()]
        assert_equal([output.detach(), x.grad, *grads], expected)


def test_checkpointed_sequence():
    model = nn.Sequential(*(tfc.Conv2d(4, 4, 3, padding=1) for _ in range(4)))
    again = train(lambda x: checkpoint_sequential(model, 2, x, use_reentrant=False), model)
    assert_equal(again, train(model, model))


def test_saved_tensors_go_through_hooks(twins):
    """To another place and back; where hooks are forbidden, the error is stock's."""
    ours, stock = twins
    expected, packed = train(ours, ours), []

    def pack(tensor: Tensor) -> np.ndarray:
        packed.append(tensor.shape)
        return tensor.detach().numpy().copy()

    with torch.autograd.graph.saved_tensors_hooks(pack, torch.from_numpy):
        found = train(ours, ours)
    assert_equal(found, expected)
    assert image().shape in packed
    assert ours.weight.shape in packed
    with torch.autograd.graph.save_on_cpu():
        assert_equal(train(ours, ours), expected)
    for layer in (ours, stock):
        with (
            torch.autograd.graph.disable_saved_tensors_hooks("not here"),
            pytest.raises(RuntimeError, match="not here"),
            torch.autograd.graph.save_on_cpu(),
        ):
            layer(image())


WEIGHTS = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "old weight norm": nn.utils.weight_norm,
    "old spectral norm": nn.utils.spectral_norm,
    "pruning of elements": lambda layer: prune.l1_unstructured(layer, "weight", 0.4),
    "pruning of filters": lambda layer: prune.ln_structured(layer, "weight", 0.5, 2, 0),
    "no gradient of the weight": lambda layer: layer.weight.requires_grad_(False),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize("name", WEIGHTS)
def test_made_weights(name, twins):
    results = []
    for layer in twins:
        torch.manual_seed(4)
        WEIGHTS[name](layer)
        layer(image()).square().sum().backward()
        grads = [p.grad for p in layer.parameters() if p.grad is not None]
        results.append([layer(image()).detach(), *grads])
    assert_close(*results)
    assert [layer.state_dict().keys() for layer in twins] == [twins[0].state_dict().keys()] * 2


def test_functional_call_and_ensembles(twins):
    ours, _ = twins
    other = {name: 3 * value for name, value in ours.named_parameters()}
    found = [functional_call(layer, other, image()).detach() for layer in twins]
    assert_close(found[:1], found[1:])

    torch.manual_seed(1)
    models = [deepcopy(ours) for _ in range(3)]
    for model in models:
        model.reset_parameters()
    state = stack_module_state(models)
    base = deepcopy(ours).to("meta")
    x = image()
    together = vmap(lambda *state: functional_call(base, state, x))(*state)
    assert_close([together], [torch.stack([model(x) for model in models])])


def test_copies(twins, tmp_path):
    """A deep copy, a pickle, and a whole layer in a file, trusted or by the name of its class."""
    for layer in twins:
        torch.save(layer, tmp_path / "layer.pt")
        with pytest.raises(pickle.UnpicklingError, match="Weights only"):
            torch.load(tmp_path / "layer.pt", weights_only=True)
        with torch.serialization.safe_globals([type(layer)]):
            named = torch.load(tmp_path / "layer.pt", weights_only=True)
        trusted = torch.load(tmp_path / "layer.pt", weights_only=False)
        for copied in (deepcopy(layer), pickle.loads(pickle.dumps(layer)), named, trusted):
            assert type(copied) is type(layer)
            assert_equal([copied(image())], [layer(image())])


def test_state_dict_in_a_file_both_ways(twins, tmp_path: Path):
    ours, stock = twins
    for source, target in ((ours, stock), (stock, ours)):
        source.reset_parameters()
        torch.save(source.state_dict(), tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        assert target.load_state_dict(state).missing_keys == []
        assert_equal(list(target.parameters()), list(source.parameters()))


def test_from_meta_to_memory(twins):
    """No memory before it is needed: then initialised in place, or given the tensors of a state."""
    ours, stock = twins
    arguments, keywords = LAYERS[type(ours).__name__]
    with torch.device("meta"):
        layer = type(ours)(*arguments, **keywords)
    assert layer(image().to("meta")).shape == ours(image()).shape
    assigned = deepcopy(layer)
    assigned.load_state_dict(ours.state_dict(), assign=True)
    assert_equal([assigned(image())], [ours(image())])
    layer.to_empty(device="cpu")
    for made in (layer, nn.utils.skip_init(type(ours), *arguments, **keywords), stock):
        torch.manual_seed(2)
        made.reset_parameters()
        assert_equal(list(made.parameters()), list(layer.parameters()))


@pytest.mark.parametrize("name", LAYERS)
def test_lazy_layers(name):
    """Copied and pickled before their first input, or given a state, they become what that says."""
    (channels, *arguments), keywords = LAYERS[name]
    made = getattr(tfc, name)(channels, *arguments, **keywords)
    lazy = getattr(tfc, f"Lazy{name}")(*arguments, **keywords)
    loaded = deepcopy(lazy)
    loaded.load_state_dict(made.state_dict())
    for layer in (deepcopy(lazy), pickle.loads(pickle.dumps(lazy)), lazy, loaded):
        assert layer(image()).shape == made(image()).shape
        assert type(layer) is type(made)
    assert_equal([loaded(image())], [made(image())])
    with torch.device("meta"):
        assert getattr(tfc, f"Lazy{name}")(*arguments, **keywords)(image().to("meta")).is_meta


def test_operations_are_counted_as_stocks():
    """Forward, and with all gradients, the input's or the filter's alone."""
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(6, 8, (1, 3), groups=2, bias=False),
        nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2, output_padding=1),
        nn.ConvTranspose2d(6, 4, 2),
    )
    for frozen in (nn.Module(), model[1], model):
        frozen.requires_grad_(False)
        counts = []
        for change in (tfc.revert, tfc.convert):
            change(model)
            for needs_grad in (False, True):
                x = image().requires_grad_(needs_grad)
                with FlopCounterMode(display=False) as counter:
                    y = model(x)
                    if y.requires_grad:
                        y.sum().backward()
                counts.append(counter.get_total_flops())
        assert counts[0] > 0
        assert counts[:2] == counts[2:]
