"""Operations of a program, counted from its shapes: two for every multiplication and addition of a product.

Products are `dot_general` and `conv_general_dilated`, which do nearly all the work of a network. Of a convolution only
products with numbers count, not those with the zeros of padding or between the rows of a dilated input, as XLA counts
too. What XLA's own count leaves out is there: a scan's body counts as often as it runs. Of a branch the larger side
counts, and the body of a loop of unknown length once.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jax.extend import core


def flops(program: Any) -> int:
    """Returns the operations of a jaxpr's products, on all devices together.

    Args:
      program: of `jax.make_jaxpr(f)(*args)`, or `jitted.trace(*args).jaxpr`.
    """
    return sum(_of_equation(equation) for equation in getattr(program, "jaxpr", program).eqns)


def _of_equation(equation: Any) -> int:
    name, options = equation.primitive.name, equation.params
    if name in _PRODUCTS:
        return _PRODUCTS[name](equation)
    if name == "cond":
        return max(flops(branch) for branch in options["branches"])
    within = sum(flops(inner) for inner in inner_programs(options))
    if name == "scan":
        return options["length"] * within
    return within * (options["mesh"].size if name == "shard_map" else 1)


def inner_programs(options: dict[str, Any]) -> Iterator[Any]:
    """Yields the programs that an equation calls, by its parameters."""
    for value in options.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, core.ClosedJaxpr | core.Jaxpr):
                yield one


def _of_dot(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


def _of_convolution(equation: Any) -> int:
    options, out = equation.params, equation.outvars[0].aval.shape
    data, kernel = (v.aval.shape for v in equation.invars)
    numbers = options["dimension_numbers"]
    batch, features, *places = numbers.out_spec
    inside = zip(
        [data[axis] for axis in numbers.lhs_spec[2:]],
        [out[axis] for axis in places],
        [kernel[axis] for axis in numbers.rhs_spec[2:]],
        *(options[name] for name in ("window_strides", "padding", "lhs_dilation", "rhs_dilation")),
        strict=True,
    )
    return 2 * out[batch] * out[features] * kernel[numbers.rhs_spec[1]] * math.prod(_pairs(*axis) for axis in inside)


def _pairs(
    size: int, out: int, taps: int, stride: int, padding: tuple[int, int], between: int, between_taps: int
) -> int:
    """How many pairs of an output and a tap of the kernel meet a number, along one axis of `size` numbers."""
    place = np.arange(out)[:, None] * stride + np.arange(taps)[None] * between_taps - padding[0]
    return int(((place >= 0) & (place % between == 0) & (place // between < size)).sum())


_PRODUCTS: dict[str, Callable[[Any], int]] = {"dot_general": _of_dot, "conv_general_dilated": _of_convolution}
