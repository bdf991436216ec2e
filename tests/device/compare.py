"""How numbers of a device are compared with the CPU's: one measure of error, one record of it, one account of rounding.

The tested program is compiled as users' programs are, for the default device. The reference is compiled for the CPU and
without optimisation, so that it is another program also where the default device is the CPU: no fusion, no contraction
to fused multiply-adds, sums in another order.

Bounds are counted: n operations in a row, each wrong by one rounding of either sign, are wrong by √n roundings, and
what follows multiplies that (cancellation, a sampler's flow) is stated beside the test. Units of rounding, relative:

    float32     2⁻²⁴     tests of float32 run under `jax.default_matmul_precision("highest")`, by `float32_products`
    TF32        2⁻¹¹     what a GPU rounds the factors of float32 products to unless told otherwise
    bfloat16    2⁻⁸      what a TPU does

Arithmetic is rounded once, but exp, log, sin, tanh, erf⁻¹ of accelerators are off by a few units more: each operation
counts as 8 roundings of float32, 2⁻²¹.
"""

import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
import pytest

MARKS = [pytest.mark.gpu, pytest.mark.tpu]  # `pytestmark = MARKS` of every module here
FLOAT32, TF32, BFLOAT16 = 2.0**-24, 2.0**-11, 2.0**-8
UNOPTIMISED: dict[str, Any] = {"xla_backend_optimization_level": 0}
if version("jax") < "0.11":  # the flag is gone since
    UNOPTIMISED["xla_cpu_use_fusion_emitters"] = False
# A leaf of a tree of gradients is compared by its own norm, unless that is a smaller share than this of the tree's:
# some gradients are zero but for rounding, that of the bias of attention's keys for one.
SHARE = 1e-2


def rounding(n: int, amplification: float = 1.0, unit: float = 8 * FLOAT32) -> float:
    """Returns the relative error of n operations in a row, √n·unit, times what amplifies it."""
    return math.sqrt(n) * unit * amplification


def relative_error(found: Any, expected: Any) -> float:
    """Returns ‖found − expected‖/‖expected‖; of trees of arrays the largest over the leaves.

    The norm of a leaf counts as no less than `SHARE` of the whole tree's. NaN where anything is NaN, infinite where all
    of what is expected is zero and something found is not.
    """
    pairs = [(np.float64(a), np.float64(b)) for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True)]
    whole = math.sqrt(sum((b**2).sum() for _, b in pairs))
    return _largest([_quotient(np.linalg.norm(a - b), max(np.linalg.norm(b), SHARE * whole)) for a, b in pairs])


def largest_error(found: Any, expected: Any) -> float:
    """Returns the largest difference in an example over the standard deviation of what is expected of it."""
    found, expected = np.float64(found), np.float64(expected)
    return _largest([_quotient(np.max(np.abs(a - b)), b.std()) for a, b in zip(found, expected, strict=True)])


def _quotient(difference: float, scale: float) -> float:
    return 0.0 if difference == 0 else float(difference / scale) if scale > 0 else difference * math.inf


def _largest(errors: list[float]) -> float:
    """The maximum, which Python's is not where there is NaN."""
    return float(np.max(errors))


def assert_close(
    record_property: Callable[[str, object], None],
    name: str,
    found: Any,
    expected: Any,
    bound: float,
    *,
    error: Callable[[Any, Any], float] = relative_error,
) -> None:
    """Asserts that the error of what was found is at most `bound`, and records both for the table of the command.

    The record is the property "comparison" of the test's report, JSON with name, error and bound.

    Args:
      record_property: pytest's fixture.
      name: of what is compared.
      found: of the device, an array or a tree of them.
      expected: of the CPU.
      bound: the largest error that rounding explains.
      error: its measure.
    """
    shapes = [jax.tree.map(np.shape, tree) for tree in (found, expected)]
    assert shapes[0] == shapes[1], f"{name}: {shapes[0]} of the device, {shapes[1]} expected"
    value = error(found, expected)
    record_property("comparison", json.dumps({"name": name, "error": value, "bound": bound}))
    assert value <= bound, f"{name}: the error is {value:.2e}, rounding explains {bound:.2e}"


def both(fn: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """Returns `fn(*args)` of the default device and of the CPU, as NumPy arrays.

    The first is compiled as it is for users, the second without optimisation.
    """
    places = jax.devices()[0], _cpu()
    placed = [jax.device_put(args, place) for place in places]
    lowered = [jax.jit(fn).lower(*args) for args in placed]
    programs = compiled(lowered, [{}, UNOPTIMISED])
    found, expected = (jax.device_get(run(*args)) for run, args in zip(programs, placed, strict=True))
    return found, expected


def compiled(lowered: Sequence[Any], options: Sequence[dict[str, Any]] | None = None) -> list[Any]:
    """Compiles programs at the same time, which is what these tests wait for."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda one, options: one.compile(options), lowered, options or [{}] * len(lowered)))


def _cpu() -> jax.Device:
    try:
        return jax.devices("cpu")[0]
    except RuntimeError as missing:
        raise RuntimeError("the reference needs the CPU beside the accelerator: JAX_PLATFORMS=cuda,cpu") from missing
