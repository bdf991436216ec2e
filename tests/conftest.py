"""Settings of every test: eight virtual CPU devices, no implicit rank promotion, strict dtypes where asked for."""

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def strict_dtypes():
    """No implicit dtype promotion, as in `pytestmark = pytest.mark.usefixtures("strict_dtypes")`."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def x64():
    """Double precision."""
    with jax.enable_x64(True):
        yield
