"""What every network owes its callers, over one table of networks."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.networks import MLP, CompactNCSN, Conservative, GaussianFourier, Sinusoidal, UNet
from score_jax.networks.layers import from_patches, to_patches
from score_jax.types import InputError
from tests.networks.filling import applier, filled, jit

SMALL = {
    "mlp": MLP((16, 12), num_classes=3, dropout=0.2),
    "unet": UNet(channels=8, multipliers=(1, 2), num_classes=3, dropout=0.2),
    "ncsn": CompactNCSN(channels=4, num_classes=3, dropout=0.2),
}
NETWORKS = SMALL | {"conservative": Conservative(SMALL["mlp"])}
SHAPES = {"mlp": (5,), "unet": (7, 5, 2), "ncsn": (7, 5, 2), "conservative": (2, 2, 1)}
BATCH = 4


@functools.cache
def example(name):
    """Returns (module, variables, x, cond, label), with every label and the null label among the rows."""
    x = np.random.default_rng(0).normal(size=(BATCH, *SHAPES[name])).astype(np.float32)
    cond = np.linspace(-3.0, 2.0, BATCH, dtype=np.float32)
    return NETWORKS[name], filled(NETWORKS[name], x, cond), x, cond, np.array([0, 1, 2, -1], np.int32)


applied = applier(NETWORKS)


@pytest.fixture(params=NETWORKS)
def name(request):
    return request.param


# Tests that compile a network afresh leave the larger ones to `make test-slow`.
SLOW_NCSN = pytest.param("ncsn", marks=pytest.mark.slow)
SLOW_UNET = pytest.param("unet", marks=pytest.mark.slow)
but_ncsn = pytest.mark.parametrize("name", ["mlp", "unet", SLOW_NCSN, "conservative"])
but_images = pytest.mark.parametrize("name", ["mlp", SLOW_UNET, SLOW_NCSN, "conservative"])


def test_output_is_zero_at_initialization(name):
    module, variables, x, cond, label = example(name)

    def output_layer(variables):
        params = variables["params"]
        return params["backbone"] if name == "conservative" else params

    # all but the output layer's draws are dead code
    initial = jit(lambda key: output_layer(module.init(key, x, cond))["out"])(jax.random.key(0))
    assert not any(leaf.any() for leaf in jax.tree.leaves(initial))
    variables = jax.tree.map(lambda leaf: leaf, variables)
    output_layer(variables)["out"] = initial
    np.testing.assert_array_equal(applied(name)(variables, x, cond, label), np.zeros_like(x))


def test_parameters_do_not_depend_on_the_batch(name):
    module, variables, x, cond, _ = example(name)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x[:1], cond[:1])
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, variables)


def test_rows_do_not_see_each_other(name):
    _, variables, x, cond, label = example(name)
    out = applied(name)(variables, x, cond, label)
    order = np.array([2, 0, 3, 1])
    permuted = applied(name)(variables, x[order], cond[order], label[order])
    np.testing.assert_allclose(permuted, out[order], atol=1e-5)
    far = np.where(np.arange(BATCH) > 0, 100, 1).astype(np.float32)
    others = applied(name)(variables, x * far.reshape(-1, *(1,) * (x.ndim - 1)), cond * far, label * 0)
    np.testing.assert_allclose(others[0], out[0], atol=1e-5)
    assert abs(others[1] - out[1]).max() > 1e-2


@but_images
def test_vmap_over_examples_is_the_batch(name):
    module, variables, x, cond, label = example(name)

    def one(x, cond, label):
        return module.apply(variables, x[None], cond[None], label[None])[0]

    out = applied(name)(variables, x, cond, label)
    np.testing.assert_allclose(jit(jax.vmap(one))(x, cond, label), out, atol=1e-5)


def test_labels_matter_and_minus_one_is_no_label(name):
    _, variables, x, cond, label = example(name)
    null = applied(name)(variables, x, cond, np.full_like(label, -1))
    labelled = applied(name)(variables, x, cond, label)
    np.testing.assert_array_equal(labelled[3], null[3])
    assert (abs(labelled - null)[:3].reshape(3, -1).max(-1) > 1e-3).all()
    if name in ("mlp", "conservative"):  # one more compilation
        np.testing.assert_array_equal(applied(name)(variables, x, cond, None), null)


def test_noise_level_changes_the_output(name):
    _, variables, x, cond, label = example(name)
    out, moved = (applied(name)(variables, x, c, label) for c in (cond, cond + np.float32(0.05)))
    # neighbouring levels of NCSNv2: seen, and not torn apart
    change = np.linalg.norm(moved - out) / np.linalg.norm(out)
    assert 1e-3 < change < 0.5


def test_no_parameter_is_dead(name):
    _, variables, x, cond, label = example(name)
    leaves, tree = jax.tree.flatten(variables)
    out = applied(name)(variables, x, cond, label)
    rng = np.random.default_rng(1)
    for i, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(variables)):
        moved = [*leaves[:i], np.asarray(leaf + rng.normal(size=leaf.shape), leaf.dtype), *leaves[i + 1 :]]
        change = applied(name)(jax.tree.unflatten(tree, moved), x, cond, label) - out
        assert abs(change).max() > 1e-3, jax.tree_util.keystr(path)


@pytest.mark.parametrize("name", ["mlp", "conservative"])
def test_every_parameter_receives_gradient(name):
    module, variables, x, cond, label = example(name)
    grads = jit(jax.grad(lambda v: ((module.apply(v, x, cond, label) - 1) ** 2).mean()))(variables)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert (abs(np.asarray(grad)) > 1e-7).mean() > 0.9, jax.tree_util.keystr(path)


@but_images
def test_float64_is_float64_throughout_and_forward_mode_is_its_difference(name):
    module, variables, x, cond, label = example(name)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: np.asarray(a, np.float64), (variables, x, cond))
        v, h = np.random.default_rng(2).normal(size=x.shape), 1e-5
        along = jit(lambda x: jax.jvp(lambda x: module.apply(wide[0], x, wide[2], label), (x,), (v,)))
        out, tangent = along(wide[1])
        difference = (along(wide[1] + h * v)[0] - along(wide[1] - h * v)[0]) / (2 * h)
        assert out.dtype == tangent.dtype == jnp.float64
        # rounding of any step in float32 would leave errors of 1e-7/h = 1e-2
        np.testing.assert_allclose(tangent, difference, atol=1e-5 * float(abs(tangent).max()))
    np.testing.assert_allclose(out, applied(name)(variables, x, cond, label), atol=1e-3)


@but_ncsn
def test_dropout_follows_its_key_and_only_in_training(name):
    module, variables, x, cond, label = example(name)
    train = jit(lambda key: module.apply(variables, x, cond, label, train=True, rngs={"dropout": key}))
    a, again, b = (np.asarray(train(jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, again)
    assert abs(a - b).max() > 1e-3
    assert abs(a - applied(name)(variables, x, cond, label)).max() > 1e-3


@but_ncsn
def test_bfloat16_is_close_and_leaves_float32_outside(name):
    _, variables, x, cond, label = example(name)
    low = (
        Conservative(SMALL["mlp"].copy(dtype=jnp.bfloat16))
        if name == "conservative"
        else SMALL[name].copy(dtype=jnp.bfloat16)
    )
    shapes = jax.eval_shape(low.init, jax.random.key(0), x, cond, label)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    out, exact = np.asarray(jit(low.apply)(variables, x, cond, label)), applied(name)(variables, x, cond, label)
    assert out.dtype == np.float32
    # 2⁻⁹ a rounding, over some 50 roundings in a row: √50·2⁻⁹ ≈ 1.4 %; instance norms of 4×3 pixels amplify
    assert 1e-5 < np.linalg.norm(out - exact) / np.linalg.norm(exact) < (0.1 if name == "ncsn" else 0.04)


@pytest.mark.parametrize("network", [UNet(num_classes=0), CompactNCSN(), MLP()], ids=lambda n: type(n).__name__)
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 1), (8, 8, 1), (9, 3, 2), (28, 28, 3), (64, 48, 4)])
def test_any_size_and_channel_count(network, shape):
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    out, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), x, jax.ShapeDtypeStruct((2,), jnp.float32))
    assert out.shape == x.shape


@pytest.mark.parametrize("shape", [(5,), (4, 3), (3, 2, 2), (2, 3, 2, 1)])
def test_mlp_takes_examples_of_any_shape_as_their_numbers_in_order(shape):
    x, cond = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32), np.zeros(2, np.float32)
    net = MLP((8,))
    variables = filled(net, x, cond)
    flat = net.apply(variables, x.reshape(2, -1), cond)
    np.testing.assert_array_equal(net.apply(variables, x, cond), flat.reshape(x.shape))


_REPEATED = [pytest.param(*one, marks=pytest.mark.slow) for one in (((7, 6), 0), ((4, 5, 3), 0), ((4, 5, 3), 1))]


@pytest.mark.parametrize(("space", "axis"), [((7, 6), 1), ((4, 5, 3), 2), *_REPEATED])
def test_a_unet_on_space_one_place_wide_is_that_of_one_dimension_less(space, axis):
    # Beside a single place there are only zeros, so of the kernels the middle counts alone.
    net = UNet(channels=8, multipliers=(1, 2), embedding=Sinusoidal(8))
    x = np.random.default_rng(0).normal(size=(2, *space, 2)).astype(np.float32).take([0], axis + 1)
    cond = np.array([-1.0, 1.0], np.float32)
    variables = filled(net, x, cond)
    kernel = lambda path: path[-1].key == "kernel" and path[-2].key.startswith(("conv", "in", "out"))
    middle = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf.take(1, axis) if kernel(path) and leaf.ndim > 2 else leaf, variables
    )
    thin, less = jit(net.apply)(variables, x, cond), jit(net.apply)(middle, x.squeeze(axis + 1), cond)
    assert abs(less).max() > 0.1
    np.testing.assert_allclose(thin.squeeze(axis + 1), less, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axes", [(1, 2, 0), (2, 1, 0)])
def test_a_unet_treats_the_axes_of_volumes_alike(axes):
    net = UNet(channels=4, multipliers=(1, 2), embedding=Sinusoidal(8))
    x, cond = np.random.default_rng(0).normal(size=(1, 3, 4, 5, 1)).astype(np.float32), np.zeros(1, np.float32)
    variables = filled(net, x, cond)
    turned = jax.tree.map(lambda leaf: leaf.transpose(*axes, 3, 4) if leaf.ndim == 5 else leaf, variables)
    of_volumes = lambda v: v.transpose(0, *(a + 1 for a in axes), 4)
    out, of_turned = jit(net.apply)(variables, x, cond), jit(net.apply)(turned, of_volumes(x), cond)
    np.testing.assert_allclose(of_turned, of_volumes(out), rtol=1e-4, atol=1e-5)


def test_a_unet_of_patches_is_the_unet_of_an_image_of_them():
    net = lambda patch: UNet(channels=8, multipliers=(1, 2), embedding=Sinusoidal(8), patch=patch)
    x, cond = np.random.default_rng(0).normal(size=(2, 7, 6, 2)).astype(np.float32), np.array([-1.0, 1.0], np.float32)
    variables, patches = filled(net(2), x, cond), to_patches(jnp.asarray(x), 2)
    out, of_patches = jit(net(2).apply)(variables, x, cond), jit(net(1).apply)(variables, patches, cond)
    assert abs(out).max() > 0.1
    np.testing.assert_allclose(out, from_patches(of_patches, jnp.asarray(x), 2), rtol=1e-5, atol=1e-6)


def test_a_unet_that_is_not_told_the_noise_is_one_with_a_constant_for_it():
    """Technique 3 of NCSNv2: the noise is in x. Labels and every parameter count all the same."""
    untold = UNet(channels=4, multipliers=(1,), attention=(), num_classes=3, embedding=None)
    _, _, x, cond, label = example("unet")
    variables = filled(untold, x, cond)
    apply = jit(untold.apply)
    out = apply(variables, x, cond, label)
    np.testing.assert_array_equal(apply(variables, x, 3 * cond, label), out)
    assert (jnp.abs(apply(variables, x, cond, jnp.roll(label, 1)) - out).max((1, 2, 3)) > 1e-3).all()
    told = untold.copy(embedding=Sinusoidal(2))  # of nothing: sin 0 = 0 and cos 0 = 1, the weight of which is the 1's
    kernel = variables["params"]["condition"]["inner"]["kernel"]
    padded = jax.tree.map(lambda leaf: leaf, variables)
    padded["params"]["condition"]["inner"]["kernel"] = jnp.concatenate([jnp.zeros_like(kernel), kernel])
    np.testing.assert_allclose(jit(told.apply)(padded, x, jnp.zeros(BATCH), label), out, rtol=1e-5, atol=1e-5)
    gradient = jit(jax.grad(lambda v: (untold.apply(v, x, cond, label) ** 2).sum()))(variables)
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_one_pixel_is_finite():
    network, x, cond = UNet(channels=4, multipliers=(1, 1)), jnp.ones((1, 1, 1, 1)), jnp.zeros(1)
    out = jit(network.apply)(filled(network, x, cond), x, cond)
    assert jnp.isfinite(out).all()
    assert out.any()


def test_rematerialization_keeps_output_and_parameters():
    module, variables, x, cond, label = example("unet")
    remat = module.copy(remat=True)
    assert jax.tree.structure(filled(remat, x, cond)) == jax.tree.structure(variables)
    forward = functools.partial(remat.apply, variables, cond=cond, label=label)
    assert "prevent_cse" in str(jax.make_jaxpr(forward)(x))
    np.testing.assert_allclose(jit(forward)(x), applied("unet")(variables, x, cond, label), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_rematerialization_keeps_gradients_under_dropout():
    module = UNet(channels=4, multipliers=(1,), attention=(0,), dropout=0.2)
    _, _, x, cond, _ = example("unet")
    variables = filled(module, x, cond)

    def loss(module, variables):
        out = module.apply(variables, x, cond, train=True, rngs={"dropout": jax.random.key(0)})
        return (out**2).mean()

    grads, again = (jit(jax.grad(functools.partial(loss, m)))(variables) for m in (module, module.copy(remat=True)))
    assert all(np.asarray(grad).any() for grad in jax.tree.leaves(grads))
    chex.assert_trees_all_close(grads, again, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("dims", "hidden", "classes"), [(2, (128, 128, 128), 0), (5, (16,), 10)])
def test_mlp_has_the_parameters_of_its_layers(dims, hidden, classes):
    module = MLP(hidden, num_classes=classes)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, dims)), jnp.zeros(1))
    widths = (dims + 8, *hidden, dims)  # 8 noise features are appended to x
    expected = sum(a * b + b for a, b in itertools.pairwise(widths)) + ((classes + 1) * hidden[0] if classes else 0)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


def test_networks_built_twice_are_one_static_argument():
    for build in (MLP, UNet, CompactNCSN, lambda: Conservative(MLP()), lambda: UNet(embedding=GaussianFourier(8))):
        assert build() == build()
        assert hash(build()) == hash(build())
    assert UNet() != UNet(channels=16)


def test_fixed_frequencies_get_no_gradient_by_construction():
    module = MLP((8,), embedding=GaussianFourier(4))
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1))
    assert variables["fixed"]["embedding"]["frequencies"].shape == (2,)
    assert "embedding" not in variables["params"]


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (UNet(), (1, 2), r"UNet takes sequences \(L, C\), images .* or volumes .*, got \(2,\), take mlp"),
        (UNet(), (1, 2, 2, 2, 2, 2), "UNet takes sequences"),
        (CompactNCSN(), (1, 8, 8), "CompactNCSN takes images"),
        (UNet(attention=(3,)), (1, 8, 8, 1), r"attention=\(3,\) names a resolution that does not exist; there are 3"),
        (UNet(patch=0), (1, 8, 8, 1), "UNet: patch must be at least 1, got 0"),
        (UNet(multipliers=()), (1, 8, 8, 1), "at least 1"),
        (MLP(hidden=()), (1, 2), "at least"),
    ],
)
def test_bad_input_is_one_line(network, shape, message):
    with pytest.raises(InputError, match=message) as error:
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(shape), jnp.zeros(1))
    assert "\n" not in str(error.value)
