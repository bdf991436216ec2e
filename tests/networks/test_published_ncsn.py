"""NCSN and NCSNv2 as networks; that they are the published ones, number for number, is in tests/interop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.networks import NCSN, LevelInstanceNormPlus, NCSNv2
from score_jax.networks.ncsn import level_weights
from score_jax.networks.norms import instance_norm_plus
from score_jax.sde import geometric_sigmas
from score_jax.types import InputError
from tests.networks.filling import applier, filled, jit

LADDER = tuple(np.geomspace(2.0, 0.1, 5).tolist())
NETWORKS = {  # of two features, InstanceNorm++ would see only which channel has the larger mean
    "ncsn": NCSN(features=3, channels=2, num_levels=5),
    "baseline": NCSN(features=3, channels=2, num_levels=None),
    "ncsnv2": NCSNv2(features=3, channels=2, sigmas=LADDER),
}
PUBLISHED = [
    (NCSN(128, 3, 10), 30_117_635),
    (NCSN(64, 1, 10), 7_638_657),
    (NCSN(128, 3, 232), 39_750_659),
    (NCSN(128, 3, None), 29_727_107),
    (NCSN(64, 1, None), 7_443_393),
    (NCSN(128, 3, 10, depth="deeper"), 84_183_811),
    (NCSNv2(128, 3, LADDER), 29_694_083),
    (NCSNv2(64, 1, LADDER), 7_426_881),
    (NCSNv2(128, 3, LADDER, depth="deeper"), 83_445_379),
    (NCSNv2(128, 3, LADDER, depth="deepest"), 94_132_611),
]


@functools.cache
def example(name):
    """Returns (module, variables, x, cond): four images of 7×6 pixels in [0, 1]."""
    x = np.random.default_rng(0).random((4, 7, 6, 2), np.float32)
    cond = np.array([0, 1.5, 3, 4], np.float32)
    variables = filled(NETWORKS[name], x, cond)
    if name == "ncsnv2":
        variables["fixed"]["sigmas"] = np.float32(LADDER)
    return NETWORKS[name], variables, x, cond


applied = applier(NETWORKS)


@pytest.fixture(params=NETWORKS)
def name(request):
    return request.param


@pytest.mark.parametrize(("module", "count"), PUBLISHED, ids=lambda v: str(v) if isinstance(v, int) else "")
def test_parameter_counts_are_the_published(module, count):
    x = jax.ShapeDtypeStruct((1, 32, 32, module.channels), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, jnp.zeros(1))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count


@pytest.mark.parametrize(
    ("depth", "shape"),
    [("base", (1, 1, 1)), ("base", (28, 28, 1)), ("base", (33, 18, 4)), ("deeper", (7, 5, 2)), ("deepest", (9, 3, 2))],
)
def test_any_size_and_channel_count(depth, shape):
    for network in (NCSN(4, shape[-1], 3, depth), NCSNv2(4, shape[-1], (1.0, 0.1), depth)):
        x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
        out, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), x, jnp.zeros(2, jnp.int32))
        assert (out.shape, out.dtype) == (x.shape, x.dtype)


def test_a_level_is_a_row_and_between_levels_the_rows_are_interpolated():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4, 4, 2)), jnp.float32)
    norm = LevelInstanceNormPlus()
    weights = level_weights(jnp.array([2.0, 0.25, 3.0]), 4, x)
    np.testing.assert_array_equal(weights, [[0, 0, 1, 0], [0.75, 0.25, 0, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(level_weights(jnp.array([1, 3, 0]), 4, x), np.eye(4)[[1, 3, 0]])
    variables = filled(norm, x, weights)
    table = variables["params"]["embedding"]
    rows = np.stack([table[2], 0.75 * table[0] + 0.25 * table[1], table[3]])
    expected = instance_norm_plus(x, *jnp.split(jnp.asarray(rows), 3, axis=-1))
    np.testing.assert_allclose(norm.apply(variables, x, weights), expected, rtol=1e-5, atol=1e-6)


def test_rows_start_at_gain_one_and_shift_zero():
    x, weights = jnp.zeros((1, 2, 2, 200)), jnp.ones((1, 4)) / 4
    table = jit(LevelInstanceNormPlus().init)(jax.random.key(0), x, weights)["params"]["embedding"]
    gamma, alpha, beta = np.split(np.asarray(table), 3, axis=-1)
    assert not beta.any()
    for gain in (gamma, alpha):  # N(1, 0.02²) by 800: standard errors 0.0007 of the mean, 0.0005 of the deviation
        np.testing.assert_allclose([gain.mean(), gain.std()], [1.0, 0.02], atol=0.003)


@pytest.mark.parametrize("name", ["ncsn", "ncsnv2"])
def test_an_index_that_is_no_level_is_nan(name):
    _, variables, x, _ = example(name)
    out = applied(name)(variables, x, np.array([-0.5, 0, 4, 4.5], np.float32))
    np.testing.assert_array_equal(np.isnan(out).all((1, 2, 3)), [True, False, False, True])
    assert np.isfinite(out[1:3]).all()


def test_v2_is_one_network_over_sigma_at_any_level():
    _, variables, x, cond = example("ncsnv2")
    sigma = np.exp(np.interp(cond, np.arange(5), np.log(LADDER)))
    np.testing.assert_allclose(sigma[1], np.sqrt(LADDER[1] * LADDER[2]))
    scaled = applied("ncsnv2")(variables, x, cond) * sigma[:, None, None, None]
    quiet = applied("ncsnv2")(variables, x, np.full(4, 4, np.float32)) * LADDER[-1]
    np.testing.assert_allclose(scaled, quiet, rtol=2e-5, atol=1e-5)


def test_noise_levels_are_fixed_and_given_as_any_sequence():
    module = NCSNv2(features=1, channels=1, sigmas=geometric_sigmas(2.0, 0.5, 3))
    assert module.sigmas == (2.0, 1.0, 0.5)
    assert hash(module) == hash(NCSNv2(1, 1, np.array([2.0, 1.0, 0.5])))
    x = jnp.zeros((1, 2, 2, 1))
    variables = jax.eval_shape(module.init, jax.random.key(0), x, jnp.zeros(1))
    assert {path: leaf.shape for path, leaf in variables["fixed"].items()} == {"sigmas": (3,)}


def test_levels_matter_to_ncsn_and_not_to_its_baseline():
    for name, least, most in [("ncsn", 1e-2, np.inf), ("baseline", 0, 0)]:
        _, variables, x, cond = example(name)
        moved = applied(name)(variables, x, cond[::-1].copy()) - applied(name)(variables, x, cond)
        assert least <= abs(moved).max() <= most


def test_rows_do_not_see_each_other(name):
    _, variables, x, cond = example(name)
    out = applied(name)(variables, x, cond)
    order = np.array([2, 0, 3, 1])
    permuted = applied(name)(variables, x[order], cond[order])
    np.testing.assert_allclose(permuted, out[order], rtol=1e-4, atol=1e-4)
    far = np.array([1, 9, 9, 9], np.float32)[:, None, None, None]
    np.testing.assert_allclose(applied(name)(variables, x * far, cond)[0], out[0], rtol=1e-4, atol=1e-4)


def test_no_parameter_is_dead(name):
    _, variables, x, cond = example(name)
    leaves, tree = jax.tree.flatten(variables)
    out, rng = applied(name)(variables, x, cond), np.random.default_rng(1)
    for i, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(variables)):
        moved = [*leaves[:i], np.asarray(leaf + rng.random(leaf.shape), leaf.dtype), *leaves[i + 1 :]]
        change = applied(name)(jax.tree.unflatten(tree, moved), x, cond) - out
        assert abs(change).max() > 1e-3, jax.tree_util.keystr(path)


@pytest.mark.parametrize("name", [pytest.param("ncsn", marks=pytest.mark.slow), "ncsnv2"])
def test_bfloat16_of_rescaled_images_is_close_and_leaves_float32_outside(name):
    module, variables, x, cond = example(name)
    low = module.copy(dtype=jnp.bfloat16, rescale=False)
    shapes = jax.eval_shape(low.init, jax.random.key(0), x, cond)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    out, exact = np.asarray(jit(low.apply)(variables, 2 * x - 1, cond)), applied(name)(variables, x, cond)
    assert out.dtype == np.float32
    # 2⁻⁹ a rounding over some 60 roundings in a row, amplified by norms of 4×3 pixels and three features
    assert 1e-4 < np.linalg.norm(out - exact) / np.linalg.norm(exact) < 0.15


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: (NCSN(2, 1, 3), (1, 4, 4, 3)), "NCSN: images have 3 channels, the network was built for 1"),
        (lambda: (NCSN(2, 1, 3, "deepst"), (1, 4, 4, 1)), "depth 'deepst' does not exist: choose one of base, deeper"),
        (lambda: (NCSN(2, 1, 0), (1, 4, 4, 1)), "num_levels must be at least 1, got 0"),
        (lambda: (NCSNv2(0, 1, (1.0,)), (1, 4, 4, 1)), "features must be at least 1, got 0"),
        (lambda: (NCSNv2(2, 1, (1.0,)), (1, 4)), "NCSNv2 takes images"),
        (lambda: (NCSNv2(2, 1, (1.0, 0.0)), (1, 4, 4, 1)), "sigmas must be positive noise levels"),
    ],
)
def test_bad_input_is_one_line(build, message):
    with pytest.raises(InputError, match=message) as error:
        module, shape = build()
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(shape), jnp.zeros(1))
    assert "\n" not in str(error.value)


def test_labels_are_refused():
    module, variables, x, cond = example("ncsn")
    with pytest.raises(InputError, match="labels were given to NCSN, which has no classes"):
        module.apply(variables, x, cond, np.zeros(4, int))
