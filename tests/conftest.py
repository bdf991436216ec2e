"""Settings of every test: eight virtual CPU devices, fast compilation, no rank promotion, strict dtypes on request."""

import os
from importlib.metadata import version

# The suite's time is compilation: these make XLA compile three times faster, at the price of slower programs.
_FLAGS = [
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
]
if version("jax") < "0.11":  # the flag is gone since, and XLA aborts on one it doesn't know
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS])
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import pytest  # noqa: E402

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
