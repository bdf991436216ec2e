"""Convolutions whose gradients are as fast in loops as outside of them.

With strides s, padding p, a kernel of taps i spread by d and an input x̃ that has l − 1 zeros after every number of x,

    y[o] = Σ_i x̃[s·o + d·i − p] k[i],        o, i over any number of axes, each term a product of a row and a matrix,

is linear in x and linear in k. So are its gradients, which are convolutions too and for which

    ⟨y(x, k), g⟩ = ⟨x, dx(g, k)⟩ = ⟨k, dk(x, g)⟩:

derivatives of each of the three, of any order, are made of the two others. They are one JAX primitive each, that every
backend but one compiles as what JAX's own differentiation of `lax.conv_general_dilated` gives.

That names the axes of a gradient's factors in another order than (example, space, channel). XLA's CPU backend has fast
code for this order, and brings others into it everywhere but in loops, where gradients take 20 times as long
(benchmarks/conv_in_loops.py). So for CPUs the axes are put in order here:

    dx(g, k) = y(g, k with its taps reversed and channels swapped), strides and spread of the input exchanged,
    dk(x, g) = y(x with channels for examples, g as the kernel), strides and spread of the kernel exchanged.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from score_jax.types import Array


class Geometry(NamedTuple):
    """Where the numbers of a convolution meet, one entry an axis of space."""

    space: tuple[int, ...]  # of the input
    taps: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    spread: tuple[int, ...]  # of the input
    dilation: tuple[int, ...]  # of the kernel
    precision: Any


Form = Callable[[Array, Array, Geometry], Array]


def conv_general_dilated(
    x: Array,
    kernel: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> Array:
    """Returns the convolution of `x` `(B, *space, C)` with `kernel` `(*taps, C, features)`: `(B, *space', features)`.

    It takes the place of `jax.lax.conv_general_dilated` in `nn.Conv`, whose axes have this order; `dimension_numbers`
    say so. Convolutions in groups are JAX's own.
    """
    if feature_group_count != 1:
        return lax.conv_general_dilated(
            x, kernel, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count,
            precision=precision,
        )  # fmt: skip
    space, taps, ones = x.shape[1:-1], kernel.shape[:-2], (1,) * (x.ndim - 2)
    spread, dilation = tuple(lhs_dilation or ones), tuple(rhs_dilation or ones)
    if isinstance(padding, str):
        sizes = [_spread(n, step) for n, step in zip(space, spread, strict=True)]
        reach = [_spread(n, step) for n, step in zip(taps, dilation, strict=True)]
        padding = lax.padtype_to_pads(sizes, reach, window_strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    geometry = Geometry(space, taps, tuple(window_strides), pads, spread, dilation, precision)
    x, kernel = _varying_together(x, kernel)
    return _bind(_OUTPUT, x, kernel, geometry)


def _spread(n: int, step: int) -> int:
    """Places that n numbers take, one every `step`."""
    return step * (n - 1) + 1


def _varying_together(*arrays: Array) -> list[Array]:
    """Inside `shard_map`: arrays that differ between devices over the same axes of the mesh."""
    axes = [jax.typeof(v).manual_axis_type.varying for v in arrays]
    missing = [tuple(frozenset().union(*axes) - own) for own in axes]
    return [lax.pcast(v, names, to="varying") if names else v for v, names in zip(arrays, missing, strict=True)]


# As JAX has them.


def _convolve(x: Array, kernel: Array, geometry: Geometry) -> Array:
    axes = tuple(range(1, x.ndim - 1))
    numbers = lax.ConvDimensionNumbers(
        (0, x.ndim - 1, *axes), (x.ndim - 1, x.ndim - 2, *(i - 1 for i in axes)), (0, x.ndim - 1, *axes)
    )
    return lax.conv_general_dilated(
        x, kernel, geometry.strides, geometry.padding, geometry.spread, geometry.dilation, numbers,
        precision=geometry.precision,
    )  # fmt: skip


def _like(shape: Sequence[int], g: Array) -> jax.ShapeDtypeStruct:
    """An array of another shape, differing between devices as `g` does."""
    return jax.eval_shape(lambda g: jnp.broadcast_to(jnp.sum(g), shape), g)


def _input_gradient(g: Array, kernel: Array, geometry: Geometry) -> Array:
    x = _like((g.shape[0], *geometry.space, kernel.shape[-2]), g)
    return jax.linear_transpose(lambda x: _convolve(x, kernel, geometry), x)(g)[0]


def _kernel_gradient(x: Array, g: Array, geometry: Geometry) -> Array:
    kernel = _like((*geometry.taps, x.shape[-1], g.shape[-1]), g)
    return jax.linear_transpose(lambda kernel: _convolve(x, kernel, geometry), kernel)(g)[0]


# With axes in the order of the forward pass.


def _ordered_input_gradient(g: Array, kernel: Array, geometry: Geometry) -> Array:
    flipped = jnp.flip(kernel, tuple(range(kernel.ndim - 2))).swapaxes(-1, -2)
    padding = []
    for axis, (low, _) in enumerate(geometry.padding):
        before = _spread(geometry.taps[axis], geometry.dilation[axis]) - 1 - low
        between = _spread(geometry.space[axis], geometry.spread[axis]) + low
        padding.append((before, between - _spread(g.shape[1 + axis], geometry.strides[axis])))
    return _convolve(
        g, flipped, geometry._replace(padding=tuple(padding), strides=geometry.spread, spread=geometry.strides)
    )


def _ordered_kernel_gradient(x: Array, g: Array, geometry: Geometry) -> Array:
    ones = (1,) * len(geometry.taps)
    if (geometry.taps, geometry.strides, geometry.spread) == (ones,) * 3 and not any(map(any, geometry.padding)):
        product = jnp.matmul(x.reshape(-1, x.shape[-1]).T, g.reshape(-1, g.shape[-1]), precision=geometry.precision)
        return product.reshape(*ones, *product.shape)
    exchanged = geometry._replace(strides=geometry.dilation, dilation=geometry.strides)
    gradient = _convolve(x.swapaxes(0, -1), jnp.moveaxis(g, 0, -2), exchanged)
    used = tuple(slice(n) for n in geometry.taps)  # the rest is of rows that no stride reached
    return jnp.moveaxis(gradient[:, *used], 0, -2)


# As primitives.


def _primitive(name: str, on_cpu: Form, *, folds: bool) -> Primitive:
    """Returns a primitive of two arrays that is `program`, and on CPUs its other form.

    With one lowering a backend, others' programs are the same to the letter, without the branches that
    `lax.platform_dependent` leaves in them.
    """
    primitive = Primitive(name)
    primitive.def_impl(lambda a, b, *, program, geometry: _compiled(primitive, a, b, geometry))
    primitive.def_abstract_eval(lambda a, b, *, program, geometry: program.out_avals[0])
    batching.primitive_batchers[primitive] = partial(_batched, primitive, folds)

    def default(a: Array, b: Array, *, program: ClosedJaxpr, geometry: Geometry) -> Array:
        return jaxpr_as_fun(program)(a, b)[0]

    def cpu(a: Array, b: Array, *, program: ClosedJaxpr, geometry: Geometry) -> Array:
        return on_cpu(a, b, geometry)

    mlir.register_lowering(primitive, mlir.lower_fun(default, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(cpu, multiple_results=False), platform="cpu")
    return primitive


def _bind(primitive: Primitive, a: Array, b: Array, geometry: Geometry) -> Array:
    form = _FORMS[primitive]
    program = jax.make_jaxpr(lambda a, b: form(a, b, geometry))(jax.typeof(a), jax.typeof(b))
    return primitive.bind(a, b, program=program, geometry=geometry)


_compiled = jax.jit(_bind, static_argnames=("primitive", "geometry"))


def _batched(primitive: Primitive, folds: bool, arrays: Any, axes: Any, *, program: Any, geometry: Geometry) -> Any:
    """More examples in the first array alone are as many rows more; other batches are groups, on CPUs one by one.

    Groups, as JAX makes them of the second array's, have no form that is fast in loops of a CPU.
    """
    form, (axis, other) = _FORMS[primitive], axes
    if folds and other is None:
        a = jnp.moveaxis(arrays[0], axis, 0)
        out = _bind(primitive, a.reshape(-1, *a.shape[2:]), arrays[1], geometry)
        return out.reshape(*a.shape[:2], *out.shape[1:]), 0

    def one_by_one(*pair: Array) -> Array:
        def one(given: dict[int, Array]) -> Array:
            return _bind(primitive, given.get(0, pair[0]), given.get(1, pair[1]), geometry)

        return lax.map(one, {i: jnp.moveaxis(pair[i], axes[i], 0) for i in (0, 1) if axes[i] is not None})

    together = jax.vmap(lambda a, b: form(a, b, geometry), axes)
    return lax.platform_dependent(*arrays, cpu=one_by_one, default=together), 0


_OUTPUT = _primitive("convolution", _convolve, folds=True)
_INPUT_GRADIENT = _primitive("convolution_input_gradient", _ordered_input_gradient, folds=True)
_KERNEL_GRADIENT = _primitive("convolution_kernel_gradient", _ordered_kernel_gradient, folds=False)
_FORMS: dict[Primitive, Form] = {
    _OUTPUT: _convolve,
    _INPUT_GRADIENT: _input_gradient,
    _KERNEL_GRADIENT: _kernel_gradient,
}


def _transposed(primitive: Primitive, of_first: Form, of_second: Form) -> None:
    """Says what the primitive's derivatives are: of each array, from the cotangent and the other array."""

    def first(g: Array, _: Any, b: Array, *, program: Any, geometry: Geometry) -> Array:
        return of_first(g, b, geometry)

    def second(g: Array, a: Array, _: Any, *, program: Any, geometry: Geometry) -> Array:
        return of_second(a, g, geometry)

    ad.defbilinear(primitive, first, second)


_y, _dx, _dk = (partial(_bind, primitive) for primitive in _FORMS)
_transposed(_OUTPUT, _dx, _dk)
_transposed(_INPUT_GRADIENT, _y, lambda g, c, geometry: _dk(c, g, geometry))
_transposed(_KERNEL_GRADIENT, lambda c, g, geometry: _dx(g, c, geometry), _y)

Conv = partial(nn.Conv, conv_general_dilated=conv_general_dilated)
