"""Graphs of layers: torch.compile, torch.export, AOTInductor and torch.jit.trace.

`tests/test_transforms.py` has torch.func's transforms inside graphs.
"""

import io
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim
from torch.func import grad, vmap

import torch_fullconv as tfc
from torch_fullconv import ops


def net(of=tfc) -> nn.Module:
    """All that differs between graphs: padding modes, groups, strides, every kind of layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        of.Conv2d(4, 6, 3, padding=1),
        of.ReLU(inplace=True),
        of.MaxPool2d(3, stride=1, padding=1),
        of.Conv2d(6, 6, 3, stride=2, padding=1, groups=2, padding_mode="reflect"),
        of.ReLU(),
        of.AvgPool2d(3, stride=1, padding=1),
        nn.Tanh(),
        of.ConvTranspose2d(6, 4, 3, stride=2, padding=1),
    ).double()


def image(batch: int, height: int = 8, width: int = 7) -> Tensor:
    return torch.randn(batch, 4, height, width, dtype=torch.float64)


def train(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Output and all gradients."""
    x = x.detach().requires_grad_()
    y = module(x)
    parameters = list(module.parameters())
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *parameters])]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected)
    assert [t.stride() for t in found] == [t.stride() for t in expected]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


FORMATS = pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"]
)


@pytest.mark.parametrize("dynamic", [None, True], ids=["automatic", "dynamic"])
@FORMATS
def test_one_graph_trains_batches_of_any_size(memory_format, dynamic):
    """No graph break; a second graph only where shapes are taken for constant at first."""
    module = net().to(memory_format=memory_format)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, fullgraph=True, backend=counter, dynamic=dynamic)
    for batch in (2, 3, 7, 19):
        x = image(batch).contiguous(memory_format=memory_format)
        assert_same(train(compiled, x), train(module, x))
    assert counter.frame_count == (1 if dynamic else 2)


def test_batches_on_both_sides_of_16_are_one_graph():
    """Of a 1x1 layer on the CPU, stock's fake kernel asks if there are 16; ours asks nothing."""
    counts = []
    for of in (nn, tfc):
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(of.Conv2d(4, 6, 1), fullgraph=True, backend=counter, dynamic=True)
        for batch in (2, 16):
            compiled(image(batch).float())
        counts.append(counter.frame_count)
    assert counts == [2 if torch.get_default_device().type == "cpu" else 1, 1]


def test_images_of_any_size():
    module = net()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, fullgraph=True, backend=counter, dynamic=True)
    for size in ((8, 7), (9, 12), (30, 5)):
        x = image(2, *size)
        assert_same(train(compiled, x), train(module, x))
    assert counter.frame_count == 1


def test_groups_strides_and_dilations_of_any_number():
    """A graph for each number would end at the limit of eight."""

    def call(x: Tensor, f: Tensor, stride: int, dilation: int) -> Tensor:
        joined = x.reshape(1, -1, *x.shape[2:])
        return tfc.functional.conv2d(joined, f.flatten(0, 1), None, stride, 1, dilation, x.shape[0])

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(call, fullgraph=True, backend=counter, dynamic=True)
    for batch, stride, dilation in ((2, 5, 7), (5, 2, 4), (7, 8, 2)):  # equal ones would be one
        x, f = image(batch, 30, 25), torch.randn(batch, 6, 4, 3, 3).double()
        assert_same(
            [compiled(x.requires_grad_(), f, stride, dilation)], [call(x, f, stride, dilation)]
        )
    assert counter.frame_count == 1


@FORMATS
def test_inductor(memory_format):
    module = net().to(memory_format=memory_format)
    compiled = torch.compile(module, fullgraph=True, dynamic=True)
    for batch in (2, 5):
        x = image(batch).contiguous(memory_format=memory_format)
        assert_same(train(compiled, x), train(module, x))


def test_a_bad_call_leaves_a_compiled_layer_as_it_was():
    layer = tfc.Conv2d(4, 6, 3).double()
    compiled = torch.compile(layer, backend="eager")
    compiled(image(2))
    with pytest.raises(RuntimeError, match="padded input size"):
        compiled(image(2, 2))
    x = image(2)
    assert_same(train(compiled, x), train(layer, x))


def test_settings_are_constants_of_a_graph():
    compiled = torch.compile(lambda x: x + ops.allow_tf32(), fullgraph=True, backend="eager")
    assert compiled(torch.zeros(())) == ops.allow_tf32()


def test_only_those_who_compile_import_the_compiler():
    code = "import sys, torch_fullconv; sys.exit('torch._dynamo' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def exported(module: nn.Module, strict: bool = False) -> torch.export.ExportedProgram:
    shapes = ({0: Dim("batch", min=1, max=64), 2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    return torch.export.export(module, (image(2),), dynamic_shapes=shapes, strict=strict)


@pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
def test_an_exported_program_trains_after_a_reload(strict):
    """Its ops have derivatives of their own."""
    module = net()
    file = io.BytesIO()
    torch.export.save(exported(module, strict), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for x in (image(2), image(5, 9, 12)):
        assert_same(train(loaded, x), train(module, x))


def test_an_exported_program_transforms():
    module = net()
    loaded, x = exported(module).module(), image(3)
    for transform in (
        lambda f: grad(lambda x: f(x).square().sum())(x),
        lambda f: vmap(grad(lambda x: f(x[None]).square().sum()))(x),
    ):
        torch.testing.assert_close(transform(loaded), transform(module))


def test_an_exported_program_has_only_native_ops_for_inference():
    graph = exported(net()).run_decompositions().graph
    ours = {node.target for node in graph.nodes if "torch_fullconv" in str(node.target)}
    raw = torch.ops.torch_fullconv
    names = "correlate", "full_convolve", "relu", "max_pool2d_indices", "avg_pool2d"
    assert ours == {getattr(raw, name).default for name in names}


@pytest.mark.slow
@pytest.mark.compiler
def test_aotinductor_package_reloads(tmp_path):
    module = net()
    package = torch._inductor.aoti_compile_and_package(
        exported(module), package_path=str(tmp_path / "net.pt2")
    )
    loaded = torch._inductor.aoti_load_package(package)
    for x in (image(2), image(5, 9, 12)):
        torch.testing.assert_close(loaded(x), module(x))


@pytest.mark.parametrize("of", [nn, tfc], ids=["stock", "ours"])
def test_a_jit_trace_trains_after_a_reload(of):
    module = net(of)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, image(2)), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    x = image(5)
    assert_same(train(loaded, x), train(module, x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*deprecated")
def test_a_reverted_model_can_be_scripted():
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 4, 3)).double()
    with pytest.raises(AssertionError, match="Unsupported annotation"):
        torch.jit.script(tfc.convert(model))
    x = image(2)
    expected = model(x)
    torch.testing.assert_close(torch.jit.script(tfc.revert(model))(x), expected)


def test_a_jit_trace_takes_other_images_but_for_transposed_layers():
    module = net()
    x, larger = image(2), image(3, 9, 12)
    traced = torch.jit.trace(module[:-1], x)
    torch.testing.assert_close(traced(larger), module[:-1](larger))
    with pytest.raises(RuntimeError, match="the output's size"):
        torch.jit.trace(module, x)(larger)
