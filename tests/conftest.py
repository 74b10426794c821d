"""What all tests share: fixed Hypothesis examples, and fixtures that restore what they change."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

from torch_fullconv import ops

# `pytest --hypothesis-profile=explore` looks further, and elsewhere at every run.
_COMMON = {"deadline": None, "print_blob": True, "suppress_health_check": list(HealthCheck)}
settings.register_profile("fixed", derandomize=True, **_COMMON)
settings.register_profile("explore", max_examples=2000, **_COMMON)
settings.load_profile("fixed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="what runs the ops: cpu, cuda or emulator")


def pytest_configure(config: pytest.Config) -> None:
    """Before any test module is imported. Stock's float32 is to be float32 on CUDA too."""
    device = config.getoption("--device")
    if device == "emulator":
        import emulated_ops

        torch.ops.load_library(str(emulated_ops.build()))
    elif device != "cpu":
        torch.set_default_device(device)
        torch.backends.cudnn.allow_tf32 = False
        ops.load_cuda()


@pytest.fixture
def threads() -> Iterator[None]:
    """For a test that sets the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def poisoned_results() -> Iterator[None]:
    """New tensors are full of NaN: an element that a kernel leaves out cannot pass for right."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
