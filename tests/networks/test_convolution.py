"""Convolutions and their gradients: what JAX's own are, on CPUs in the order that is fast in loops."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from score_jax.networks.convolution import conv_general_dilated
from tests.helpers import key

ORDERED = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
# Space of the input; strides, padding, spread of the input, dilation of the kernel; taps, if not 2, 3 and 2.
GEOMETRIES = {
    "sequence": ((9,), (2,), "VALID", (1,), (1,)),
    "image": ((6, 5), (1, 1), "SAME", (1, 1), (1, 1)),
    "unequal": ((9, 8), (2, 3), ((-1, 2), (0, 1)), (3, 2), (1, 2)),
    "volume": ((3, 4, 4), (1, 2, 1), "SAME", (1, 1, 1), (1, 1, 1)),
    "points": ((6, 5), (1, 1), "SAME", (1, 1), (1, 1), (1, 1)),
    "some of the points": ((6, 5), (2, 1), "VALID", (1, 1), (1, 1), (1, 1)),
    "points and a margin": ((6, 5), (1, 1), ((0, 2), (1, 1)), (1, 1), (1, 1), (1, 1)),
    "points between zeros": ((6, 5), (1, 1), ((0, 0), (0, 0)), (1, 2), (1, 1), (1, 1)),
}


def pair(name, dtype=float):
    """Our convolution and JAX's, `x` and a kernel of unequal sizes along every axis."""
    space, strides, padding, spread, dilation, *taps = GEOMETRIES[name]
    axes = "DHW"[-len(space) :]
    x = jax.random.normal(key(), (2, *space, 3), dtype)
    kernel = jax.random.normal(key(1), (*(taps[0] if taps else (2, 3, 2)[: len(space)]), 3, 4), dtype)
    numbers = lax.conv_dimension_numbers(x.shape, kernel.shape, (f"N{axes}C", f"{axes}IO", f"N{axes}C"))
    options = {"lhs_dilation": spread, "rhs_dilation": dilation, "dimension_numbers": numbers}
    ours, jaxs = (
        lambda x, kernel, conv=conv: conv(x, kernel, strides, padding, **options)
        for conv in (conv_general_dilated, lax.conv_general_dilated)
    )
    return ours, jaxs, x, kernel


def gradients(conv):
    """The gradients of a function that is not linear in the convolution, by `x` and kernel."""
    return jax.grad(lambda x, kernel: jnp.sum(jnp.tanh(conv(x, kernel)) ** 2), (0, 1))


def derivatives(conv):
    """Output, gradients, their directional derivative and the gradients of a function of them."""
    first = gradients(conv)

    def all_of(x, kernel):
        along = jax.jvp(first, (x, kernel), (jnp.sin(x), jnp.cos(kernel)))[1]
        second = jax.grad(lambda *v: sum(jnp.sum(jnp.sin(g)) for g in first(*v)), (0, 1))(x, kernel)
        return conv(x, kernel), first(x, kernel), along, second

    return all_of


def assert_equal_to(a, b, tolerance):
    for ours, jaxs in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert ours.shape == jaxs.shape and ours.dtype == jaxs.dtype
        ours, jaxs = np.asarray(ours, np.float64), np.asarray(jaxs, np.float64)
        np.testing.assert_allclose(ours, jaxs, rtol=0, atol=tolerance * np.abs(jaxs).max())


@pytest.mark.parametrize("name", GEOMETRIES)
def test_derivatives_are_those_of_jax(name, x64):
    ours, jaxs, x, kernel = pair(name)
    assert_equal_to(jax.jit(derivatives(ours))(x, kernel), jax.jit(derivatives(jaxs))(x, kernel), 1e-14)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (jnp.bfloat16, 2**-7)])  # 8 and 2 roundings
def test_gradients_are_those_of_jax_in_every_precision(dtype, tolerance):
    ours, jaxs, x, kernel = pair("image", dtype)
    assert_equal_to(jax.jit(gradients(ours))(x, kernel), jax.jit(gradients(jaxs))(x, kernel), tolerance)


@pytest.mark.parametrize("axes", [(1, None), (None, 1), (0, 2)])
def test_gradients_map_over_either_array_and_both(axes, x64):
    ours, jaxs, x, kernel = pair("sequence")
    several = [[v] * 3 if axis is None else [v, jnp.cos(v), -v] for v, axis in zip((x, kernel), axes, strict=True)]
    mapped = [v[0] if axis is None else jnp.stack(v, axis) for v, axis in zip(several, axes, strict=True)]
    expected = [gradients(jaxs)(*(v[i] for v in several)) for i in (0, 2)]
    found = jax.vmap(gradients(ours), axes)(*mapped)
    for i, one in zip((0, 2), expected, strict=True):
        assert_equal_to([g[i] for g in found], one, 1e-14)


def test_of_several_kernels_gradients_are_one_by_one_on_cpus_alone():
    """In the order that is fast in loops; other platforms get JAX's groups."""
    ours, _, x, kernel = pair("image")
    traced = jax.jit(jax.vmap(gradients(ours))).trace(jnp.stack([x, x]), jnp.stack([kernel, kernel]))
    on_cpu, on_gpu = (traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda"))
    assert "stablehlo.while" in on_cpu and set(orders(on_cpu)) == {ORDERED}
    assert "stablehlo.while" not in on_gpu and "feature_group_count = 2" in on_gpu


def orders(program):
    """Of the axes of every convolution in a program's text."""
    return re.findall(r"dim_numbers = (\S.*?), window", program)


def lowered(conv, platform):
    """The program of a loop over gradients, as it is handed to the compiler of a platform."""
    _, _, x, kernel = pair("image")

    def loop(x, kernel):
        step = lambda v, _: (gradients(conv)(*v), None)
        return lax.scan(step, (x, kernel), length=2)[0]

    return jax.jit(loop).trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()


def test_loops_of_cpus_have_their_axes_in_order():
    """The order that XLA's CPU backend has fast code for, in each of output and two gradients; JAX's own is another."""
    ours, jaxs, *_ = pair("image")
    own, other = orders(lowered(ours, "cpu")), orders(lowered(jaxs, "cpu"))
    assert own == [ORDERED] * 3
    assert other.count(ORDERED) == 1 and len(other) == 3


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
def test_accelerators_are_given_what_jax_gives_them(platform):
    ours, jaxs, *_ = pair("image")
    assert lowered(ours, platform) == lowered(jaxs, platform)


def test_gradients_of_kernels_that_devices_share_add_up(x64):
    """Inside `shard_map`, where JAX keeps account of what differs between devices, of rows cut in two."""
    ours, jaxs, x, kernel = pair("image")
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    rows, whole = PartitionSpec("data"), PartitionSpec()
    mapped = jax.shard_map(gradients(ours), mesh=mesh, in_specs=(rows, whole), out_specs=(rows, whole))
    assert_equal_to(jax.jit(mapped)(x, kernel), gradients(jaxs)(x, kernel), 1e-14)


def test_groups_are_those_of_jax():
    x, kernel = jax.random.normal(key(), (2, 5, 4)), jax.random.normal(key(1), (3, 1, 4))
    numbers = lax.conv_dimension_numbers(x.shape, kernel.shape, ("NWC", "WIO", "NWC"))
    options = {"dimension_numbers": numbers, "feature_group_count": 4}
    np.testing.assert_array_equal(
        conv_general_dilated(x, kernel, (1,), "SAME", **options),
        lax.conv_general_dilated(x, kernel, (1,), "SAME", **options),
    )
