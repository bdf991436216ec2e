"""How much of a program's values is alive at once, as it was traced: before a compiler fuses, reorders or reuses.

In the order of the program a value is there from the equation that makes it to the last that takes it. Of training that
is mostly what the forward pass leaves for the backward: less where activations are computed again (`jax.checkpoint`),
which XLA's compiler for CPUs undoes, so that its own account doesn't show it.
"""

from typing import Any

from jax.extend.core import Literal

from score_jax.lab.planning.flops import inner_programs


def peak_bytes(program: Any) -> int:
    """Returns the most bytes of values that are alive at once, those it is given left out.

    Args:
      program: a jaxpr, as of `flops.flops`.
    """
    jaxpr = getattr(program, "jaxpr", program)
    last = {v: place for place, one in enumerate(jaxpr.eqns) for v in one.invars if not isinstance(v, Literal)}
    last |= {v: len(jaxpr.eqns) for v in jaxpr.outvars if not isinstance(v, Literal)}
    given, alive, peak = {*jaxpr.invars, *jaxpr.constvars}, 0, 0
    for place, equation in enumerate(jaxpr.eqns):
        made, within = sum(map(_bytes, equation.outvars)), _within(equation)
        # What a program within returns is among its own values; a loop's is put together beside them.
        loops = equation.primitive.name in ("scan", "while")
        peak = max(peak, alive + (made + within if loops else max(made, within)))
        alive += sum(_bytes(v) for v in equation.outvars if v in last)
        taken = {v for v in equation.invars if not isinstance(v, Literal)} - given
        alive -= sum(_bytes(v) for v in taken if last[v] == place)
    return peak


def _within(equation: Any) -> int:
    return max((peak_bytes(inner) for inner in inner_programs(equation.params)), default=0)


def _bytes(variable: Any) -> int:
    shaped = variable.aval
    return shaped.size * shaped.dtype.itemsize if hasattr(shaped, "dtype") else 0
