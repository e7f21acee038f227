"""The kernel tests run on the GPU where there is one (and then bear the marker `gpu`), else in Triton's interpreter."""

import pytest
import torch

HAS_GPU = torch.cuda.is_available()


def pytest_collection_modifyitems(items):
    if HAS_GPU:
        for item in items:
            if "tests/ops/kernels" in item.path.as_posix():
                item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the kernels run."""
    return torch.device("cuda" if HAS_GPU else "cpu")
