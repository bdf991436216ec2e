"""Published networks compute on the device what the original implementations do with the same files.

In float32 to the tolerance of the CPU's tests, of the largest difference. Where products of float32 are rounded as the
device does by default, and in bfloat16, to that of √n factors rounded in a row, of the relative error. Emulated on a
CPU, with every factor of a product or convolution rounded: TF32's 2⁻¹¹ came to 2.0e-3 at most (NCSNv2; the U-Nets
1.1e-3), bfloat16's 2⁻⁸ to 1.8e-2 (8.6e-3).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.device.compare import (
    BFLOAT16,
    FLOAT32,
    MARKS,
    TF32,
    assert_close,
    compiled,
    largest_error,
    relative_error,
    rounding,
)
from tests.interop import test_published, test_unets

pytestmark = MARKS

SOURCES = {
    "ncsn": "NCSN",
    "ncsnv2": "NCSNv2",
    "ncsnpp": "NCSN++ of score_sde_pytorch",
    "diffusers": "DDPM of diffusers",
    "edm": "DDPM++ of EDM",
}
DEPTH = 128  # convolutions and products, some 60 in a row in the U-Nets, 148 in NCSN but in parallel branches
# How float32 factors are rounded by default, by backend.
DEFAULT = {"cpu": FLOAT32, "gpu": TF32, "tpu": BFLOAT16}


@functools.cache
def fixture(name):
    """Returns the module, what it is applied to, and the output of the original, NHWC."""
    if name in test_published.FILES:
        module, variables = test_published.loaded(name)
        x, cond, out = test_published.reference(name)
        return module, (variables, x, np.float32(cond)), out
    found = test_unets.opened(name)
    x, cond, label, out = test_unets.reference(name)
    return found.module, (found.variables, x, cond, *label), out


def halved(module):
    """The module computing in bfloat16."""
    return module.copy(dtype=jnp.bfloat16) if hasattr(module, "dtype") else module.copy(network=halved(module.network))


def in_bfloat16(name):
    """All on accelerators; a CPU takes longest to compile these, and one shows that it works."""
    return jax.default_backend() != "cpu" or name == "ncsnv2"


@functools.cache
def outputs(name):
    """Returns the outputs in float32, at the default precision, and in bfloat16 where that is tried."""
    module, args, _ = fixture(name)
    args = jax.device_put(args, jax.devices()[0])
    lowered = {"default": jax.jit(module.apply).lower(*args)}
    if in_bfloat16(name):
        lowered["bfloat16"] = jax.jit(halved(module).apply).lower(*args)
    # A CPU's default is float32: the two are one program there.
    if jax.default_backend() != "cpu":
        with jax.default_matmul_precision("highest"):
            lowered["float32"] = jax.jit(module.apply).lower(*args)
    programs = dict(zip(lowered, compiled(list(lowered.values())), strict=True))
    found = {kind: np.asarray(program(*args)) for kind, program in programs.items()}
    return {"float32": found["default"]} | found


@pytest.mark.parametrize("kind", ["float32", "default", "bfloat16"])
@pytest.mark.parametrize("name", SOURCES)
def test_outputs_are_the_original_implementations(name, kind, record_property):
    if kind == "bfloat16" and not in_bfloat16(name):
        pytest.skip("bfloat16 of this network is for accelerators: a CPU compiles it for long")
    found, expected = outputs(name)[kind], fixture(name)[2]
    unit = {"default": DEFAULT[jax.default_backend()], "bfloat16": BFLOAT16}.get(kind, FLOAT32)
    assert found.dtype == np.float32
    if unit == FLOAT32:
        # As in tests/interop: 1.7e-5 of the standard deviation of an example's output on a CPU.
        bound, error = 1e-4, largest_error
    else:
        bound, error = rounding(DEPTH, unit=unit), relative_error
    assert_close(record_property, f"{SOURCES[name]}, {kind}", found, expected, bound, error=error)
    if kind == "bfloat16":
        assert relative_error(found, expected) > 1e-4  # it did compute in bfloat16
