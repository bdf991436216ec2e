import jax
import pytest


@pytest.fixture
def float32_products():
    """Products of float32 matrices in float32: accelerators take TF32 or bfloat16 unless told otherwise."""
    with jax.default_matmul_precision("highest"):
        yield
