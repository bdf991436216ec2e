"""A program as it is measured: compiled ahead of time, with what that took, its memory, its operations and its speed.

Memory is XLA's own account of a program: arguments, results and temporaries, what is donated counted once. Operations
are XLA's count before it optimizes, in which a loop's body counts once.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.types import PyTree


class Program(NamedTuple):
    """A compiled program.

    Attributes:
      call: what was compiled; takes the arguments it was compiled for.
      compile_seconds: tracing, lowering and compiling.
      memory: bytes on the device.
      flops: operations of a call, loops counted once.
    """

    call: jax.stages.Compiled
    compile_seconds: float
    memory: int
    flops: float


def compiled(function: jax.stages.Wrapped, *args: Any) -> Program:
    """Compiles a jitted function for these arguments, arrays or shapes."""
    start = time.perf_counter()
    lowered = function.lower(*args)
    program = lowered.compile()
    return Program(program, time.perf_counter() - start, _memory(program), _flops(lowered))


def _memory(program: Any) -> int:
    m = program.memory_analysis()
    return m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes


def _flops(lowered: Any) -> float:
    try:
        cost = lowered.cost_analysis()
    except jax.errors.JaxRuntimeError:  # compiled for a device that is not there
        return float("nan")
    cost = cost[0] if isinstance(cost, list | tuple) else cost
    return float((cost or {}).get("flops", float("nan")))


def rate(call: Callable[[], Any], seconds: float, windows: int = 3) -> float:
    """Returns calls a second, the median of `windows` windows that last `seconds` each or one call.

    Within a window calls are launched one after the other and waited for together, as training does.
    """
    once = _lasts(call, 1)
    n = max(1, int(seconds / max(once, 1e-6)))
    return median(n / _lasts(call, n) for _ in range(windows))


def _lasts(call: Callable[[], Any], n: int) -> float:
    start = time.perf_counter()
    for _ in range(n):
        result = call()
    jax.block_until_ready(result)
    return time.perf_counter() - start


def is_finite(tree: PyTree) -> bool:
    """Whether every number of a tree of arrays is finite."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return all(bool(np.isfinite(np.asarray(leaf, np.float32)).all()) for leaf in floats)
