"""The family of published U-Nets: sizes as published, parts and paths against NumPy, and what every network owes.

That the networks are the published functions, number for number, is in tests/interop.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.data import augmentation
from score_jax.networks import DivideBySigma, GaussianFourier, ResidualUNet, adm, ddpm, ddpmpp, ncsnpp, song_unet
from score_jax.networks.embeddings import positional
from score_jax.networks.presets import FIR
from score_jax.networks.residual_blocks import (
    Attention,
    Layers,
    NoiseAndLabelEmbedding,
    ResidualBlock,
    fan_average,
    fan_in,
)
from score_jax.networks.residual_unet import CHOICES
from score_jax.sde import geometric_sigmas
from score_jax.types import InputError
from tests.networks import naive
from tests.networks.filling import applier, filled, jit
from tests.networks.naive import images

HIGH_256 = {"blocks": 2, "attention": (4,)}
SKIPS = {"input_path": "skip", "output_path": "skip"}
DISCRETE = {"embedding": positional(128), "output_scale": DivideBySigma(tuple(np.geomspace(50, 0.01, 1000)))}
# EDM's published counts include the rows of nine numbers of an augmentation.
TOLD = {"augmentation": augmentation.TOLD}
EDM_NCSNPP = {"fir": FIR, "input_path": "residual", "embedding": GaussianFourier(256, 16.0)}
LEVELS_64 = {"multipliers": (1, 2, 2, 2), "attention": (2,)}
PUBLISHED = {  # name: (module, side, parameters, fixed numbers)
    "DDPM++": (ddpmpp(), 32, 61_804_419, 0),
    "DDPM++ deep": (ddpmpp(blocks=8), 32, 106_632_579, 0),
    "NCSN++": (ncsnpp(), 32, 62_758_787, 128),
    "NCSN++ deep": (ncsnpp(blocks=8), 32, 107_586_947, 128),
    "NCSN++ discrete": (ncsnpp(**DISCRETE), 32, 62_693_251, 1000),
    "NCSN++ 256": (ncsnpp(multipliers=(1, 1, 2, 2, 2, 2, 2), **HIGH_256, **SKIPS), 256, 65_574_421, 128),
    "NCSN++ 1024": (
        ncsnpp(16, multipliers=(1, 2, 4, 8, 16, 32, 32, 32), blocks=1, attention=(6,), **SKIPS),
        1024,
        105_785_880,
        16,
    ),
    "score SDE's ddpm": (ddpm(attention_up="last"), 32, 35_218_947, 0),
    "DDPM": (ddpm(), 32, 35_746_307, 0),
    "score SDE's ddpm 256": (
        ddpm(multipliers=(1, 1, 2, 2, 4, 4), **HIGH_256, attention_up="last"),
        256,
        111_569_923,
        0,
    ),
    "DDPM 256": (ddpm(multipliers=(1, 1, 2, 2, 4, 4), **HIGH_256), 256, 113_673_219, 0),
    "EDM": (song_unet(**TOLD), 32, 55_733_891, 0),
    "EDM, 10 classes": (song_unet(num_classes=10, **TOLD), 32, 55_735_299, 0),
    "EDM 64": (song_unet(**LEVELS_64, **TOLD), 64, 61_805_571, 0),
    "EDM NCSN++": (song_unet(**EDM_NCSNPP, **TOLD), 32, 56_397_827, 128),
    "EDM NCSN++ 64": (song_unet(**LEVELS_64, **EDM_NCSNPP, **TOLD), 64, 62_761_091, 128),
    "ADM": (adm(num_classes=1000), 64, 295_899_267, 0),
}


# Tracing a network takes a second; what differs from another row in size alone is left to `make test-slow`.
SLOW = [
    "DDPM++ deep", "NCSN++ deep", "NCSN++ discrete", "NCSN++ 256", "score SDE's ddpm 256", "DDPM 256", "EDM", "EDM 64",
    "DDPM++", "NCSN++ 1024", "EDM NCSN++", "EDM NCSN++ 64", "score SDE's ddpm", "EDM, 10 classes",
]  # fmt: skip
ROWS = [pytest.param(*v, id=k, marks=[pytest.mark.slow] if k in SLOW else []) for k, v in PUBLISHED.items()]


@pytest.mark.parametrize(("module", "side", "parameters", "fixed"), ROWS)
def test_parameter_counts_are_the_published(module, side, parameters, fixed):
    x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    out, shapes = jax.eval_shape(module.init_with_output, jax.random.key(0), x, jax.ShapeDtypeStruct((1,), jnp.float32))
    counts = [sum(leaf.size for leaf in jax.tree.leaves(shapes.get(kind, {}))) for kind in ("params", "fixed")]
    assert counts == [parameters, fixed]
    assert out.shape == x.shape


# Parts, against NumPy in float64


def doubled(tree):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


LAYERS = Layers(fan_average, groups=2, group_channels=1, epsilon=0.1, dtype=None)


@pytest.mark.parametrize("modulation", ["shift", "scale_shift"])
def test_residual_block_is_its_equation(modulation):
    x, emb = images(0, 2, 4, 3, 4), images(1, 2, 5)
    block = ResidualBlock(LAYERS, 6, modulation, skip_scale=0.7)
    variables = filled(block, x, emb)
    p = doubled(variables["params"])
    h = naive.conv(naive.swish(naive.norm(x, p["norm_0"], 2, 0.1)), p["conv_0"])
    e = naive.dense(emb, p["embedding"])[:, None, None]
    if modulation == "shift":
        h = naive.norm(h + e, p["norm_1"], 2, 0.1)
    else:
        h = naive.norm(h, p["norm_1"], 2, 0.1) * (1 + e[..., :6]) + e[..., 6:]
    expected = 0.7 * (naive.conv(x, p["shortcut"]) + naive.conv(naive.swish(h), p["conv_1"]))
    # float32 against float64: sums of 54 terms of order one
    np.testing.assert_allclose(block.apply(variables, x, emb), expected, atol=2e-5)


def test_resampling_blocks_resample_both_branches_after_the_norm_and_project_the_shortcut_where_asked():
    x, emb = images(0, 2, 4, 6, 4), images(1, 2, 5)
    halve = lambda x: x[:, ::2, ::2]
    for project in (True, False):
        block = ResidualBlock(LAYERS, 4, resample=halve, project_resampled=project)
        variables = filled(block, x, emb)
        p = doubled(variables["params"])
        assert ("shortcut" in p) == project
        h = naive.conv(naive.swish(halve(naive.norm(x, p["norm_0"], 2, 0.1))), p["conv_0"])
        h = naive.norm(h + naive.dense(emb, p["embedding"])[:, None, None], p["norm_1"], 2, 0.1)
        shortcut = naive.conv(halve(x), p["shortcut"]) if project else halve(x)
        expected = shortcut + naive.conv(naive.swish(h), p["conv_1"])
        np.testing.assert_allclose(block.apply(variables, x, emb), expected, atol=2e-5)


@pytest.mark.parametrize(("head_channels", "heads"), [(None, 1), (4, 2), (5, 1)])
def test_attention_is_a_softmax_over_pixels_in_heads_of_neighbouring_channels(head_channels, heads):
    x = images(0, 2, 3, 2, 8)
    attention = Attention(LAYERS, 0.7, head_channels)
    variables = filled(attention, x)
    p = doubled(variables["params"])
    h = naive.norm(x, p["norm"], 2, 0.1).reshape(2, 6, 8)
    q, k, v = (naive.dense(h, p[name]) for name in "qkv")
    mixed = np.zeros((2, 6, 8))
    for b in range(2):
        for channels in np.split(np.arange(8), heads):
            weights = np.exp(q[b][:, channels] @ k[b][:, channels].T / np.sqrt(len(channels)))
            mixed[b][:, channels] = weights / weights.sum(1, keepdims=True) @ v[b][:, channels]
    expected = 0.7 * (x + naive.dense(mixed, p["out"]).reshape(x.shape))
    np.testing.assert_allclose(attention.apply(variables, x), expected, atol=1e-5)


@pytest.mark.parametrize("layer", ["inner", "outer"])
def test_labels_enter_as_in_song_unet_and_as_in_adm(layer):
    noise, label = images(0, 4, 6), np.array([2, 0, -1, 1], np.int32)
    condition = NoiseAndLabelEmbedding(LAYERS, 8, 3, layer)
    variables = filled(condition, noise, label)
    p = doubled(variables["params"])
    vectors = np.concatenate([np.eye(3), np.zeros((1, 3))])[label]
    if layer == "inner":
        expected = naive.dense(noise + naive.dense(np.sqrt(3) * vectors, p["label"]), p["inner"])
        expected = naive.swish(naive.dense(naive.swish(expected), p["outer"]))
    else:
        assert set(p["label"]) == {"kernel"}
        hidden = naive.swish(naive.dense(noise, p["inner"]))
        expected = naive.swish(naive.dense(hidden, p["outer"]) + naive.dense(vectors, p["label"]))
    out = condition.apply(variables, noise, label)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    null = condition.apply(variables, noise, None)
    np.testing.assert_array_equal(null[2], out[2])
    unknown = condition.apply(variables, noise, np.array([0, 3, 0, 0], np.int32))
    assert np.isnan(unknown).all(axis=1).tolist() == [False, True, False, False]


def test_positional_embeddings_are_the_published_numbers():
    ours, theirs = (np.asarray(positional(128, **options).apply({}, jnp.ones(1)))[0] for options in ({}, ADM_NOISE))
    np.testing.assert_allclose(ours[[0, 63, 64]], [0.8414709848, 9.999999983e-5, 0.5403023059], rtol=1e-6)
    # ADM: cosines first, and the last of 64 frequencies is a step short of 1e-4
    np.testing.assert_allclose(theirs[[0, 64, 127]], [0.5403023059, 0.8414709848, 1e-4 ** (63 / 64)], rtol=1e-6)


ADM_NOISE = {"shift": 0.0, "cosine_first": True}


def test_fourier_features_of_sigma_are_those_of_its_logarithm():
    sigma, variables = np.float32([0.01, 1.0, 50.0]), {"fixed": {"frequencies": np.float32([0.5, -2.0])}}
    out = GaussianFourier(4, 16.0, jnp.log).apply(variables, sigma)
    angles = 2 * np.pi * np.log(np.float64(sigma))[:, None] * [0.5, -2.0]
    np.testing.assert_allclose(out, np.concatenate([np.sin(angles), np.cos(angles)], 1), atol=1e-5)  # angles to 60


def test_outputs_are_divided_by_sigma_or_by_the_sigma_of_a_level():
    out = images(0, 3, 2, 2, 1)
    by_value = DivideBySigma().apply({}, out, np.float32([0.5, 4.0, 50.0]))
    np.testing.assert_allclose(by_value, out / np.reshape([0.5, 4.0, 50.0], (3, 1, 1, 1)), rtol=1e-6)
    table = DivideBySigma(geometric_sigmas(8.0, 2.0, 3))
    assert hash(table) == hash(DivideBySigma((8.0, 4.0, 2.0)))
    by_index, variables = table.init_with_output(jax.random.key(0), out, np.float32([0.0, 2.0, 1.5]))
    np.testing.assert_allclose(by_index, out / np.reshape([8, 2, 8**0.5], (3, 1, 1, 1)), rtol=1e-6)
    np.testing.assert_allclose(variables["fixed"]["sigmas"], [8, 4, 2], rtol=1e-6)


def test_presets_norm_and_sum_as_published():
    constants = {make.__name__: (make().epsilon, make().group_channels, make().skip_scale) for make in PRESETS}
    scaled, plain = (1e-6, 4, 0.5**0.5), (1e-6, 1, 1.0)
    assert constants == {"ddpm": plain, "ddpmpp": scaled, "ncsnpp": scaled, "song_unet": scaled, "adm": (1e-5, 4, 1.0)}
    assert {make().groups for make in PRESETS} == {32}


PRESETS = [ddpm, ddpmpp, ncsnpp, song_unet, adm]


def test_initializers_have_the_published_bounds():
    kernel, bias = fan_average(0.1, 64)
    draw = kernel(jax.random.key(0), (1, 1, 64, 32))
    # Uniform: the largest of 2048 draws is within 1 − 1/2048·7 = 0.997 of the bound but with probability e⁻⁷.
    assert 0.997 < abs(draw).max() / (6 * 0.1 / 96) ** 0.5 <= 1
    assert not bias(jax.random.key(0), (32,)).any()
    for init in fan_in(1.0, 64):
        assert 0.997 < abs(init(jax.random.key(0), (64, 32))).max() * 8 <= 1
    assert not any(init(jax.random.key(0), (64, 32)).any() for init in (*fan_in(0.0, 64), *fan_average(0.0, 64)))


# Paths of the image and of the output, on networks whose blocks are linear


class Linear:
    """A network of two resolutions, taps (1, 3, 3, 1), one block each and no attention weights, written out in NumPy.

    The last layers of blocks and of attention are zero, so that a block is `skip_scale · shortcut`.
    """

    def __init__(self, module, variables):
        self.module, self.p, self.scale = module, doubled(variables["params"]), module.skip_scale

    def block(self, x, name, attention=False):
        x = naive.conv(x, self.p[name]["shortcut"]) if "shortcut" in self.p[name] else x
        return x * self.scale * (self.scale if attention else 1)

    def with_input(self, h, image):
        layer = self.p.get("input_0")
        if self.module.input_path == "residual":
            return (naive.conv_down(image, layer) + h) * self.scale
        if self.module.input_path == "skip":
            features = naive.conv(naive.down(image), layer)
            return features + h if self.module.input_combine == "sum" else np.concatenate([features, h], -1)
        return h

    def head(self, h, suffix=""):
        h = naive.swish(naive.norm(h, self.p[f"norm{suffix}"], self.module.groups, self.module.epsilon))
        return naive.conv(h, self.p[f"out{suffix}"])

    def __call__(self, x):
        image = 2 * x - 1
        skips = [naive.conv(image, self.p["in"])]
        skips.append(self.block(skips[-1], "down_0_0"))
        h = self.block(naive.down(skips[-1]), "downsample_0")
        skips.append(self.with_input(h, image))
        skips.append(self.block(skips[-1], "down_1_0", attention=True))
        coarse = self.block(self.block(skips[-1], "middle_0", attention=True), "middle_1")
        coarse = self.block(np.concatenate([coarse, skips.pop()], -1), "up_1_0")
        coarse = self.block(np.concatenate([coarse, skips.pop()], -1), "up_1_1", attention=True)
        path = self.module.output_path
        output = self.head(coarse, "_1") if path != "none" else None
        h = self.block(naive.up(coarse), "upsample_1")
        h = self.block(np.concatenate([h, skips.pop()], -1), "up_0_0")
        h = self.block(np.concatenate([h, skips.pop()], -1), "up_0_1")
        if path == "skip":
            return naive.up(output) + self.head(h)
        return self.head((naive.conv_up(output, self.p["out_0"]) + h) * self.scale if path == "residual" else h)


LINEAR = functools.partial(
    ResidualUNet, 2, (1, 2), 1, embedding=None, fir=FIR, skip_scale=0.7, rescale=True, groups=2, group_channels=1
)
PATHS = [
    ("skip", "sum", "skip"),
    ("residual", "sum", "residual"),
    pytest.param("skip", "concat", "none", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("input_path", "combine", "output_path"), PATHS)
def test_image_and_output_take_their_paths_through_the_levels(input_path, combine, output_path):
    module = LINEAR(input_path=input_path, input_combine=combine, output_path=output_path)
    x, cond = images(0, 2, 6, 4, 1), np.zeros(2, np.float32)
    variables = filled(module, x, cond)
    for layers in variables["params"].values():
        if "conv_1" in layers:
            zero = [layers["conv_1"], *([layers["attention"]["out"]] if "attention" in layers else [])]
            for leaf in jax.tree.leaves(zero):
                leaf[...] = 0
    expected = Linear(module, variables)(np.float64(x))
    assert expected.shape == x.shape
    np.testing.assert_allclose(jit(module.apply)(variables, x, cond), expected, atol=1e-5 * abs(expected).max())


# What every network owes its callers

SMALL = functools.partial(ResidualUNet, 4, blocks=1, dropout=0.2, group_channels=2)
LABELLED = functools.partial(SMALL, multipliers=(1, 2), attention=(-1,), num_classes=3)
NETWORKS = {
    "ncsnpp": LABELLED(
        embedding=GaussianFourier(8, 0.5), fir=FIR, input_path="residual", output_path="residual", rescale=True
    ),
    "adm": LABELLED(
        embedding=positional(8), attention_up="every", head_channels=4, resampling="conv", skip_scale=1.0,
        modulation="scale_shift", input_path="skip", output_path="skip", label_layer="outer",
    ),
}  # fmt: skip


@functools.cache
def example(name):
    """Returns (variables, x, cond, label): four images of 5×6 pixels, every label and no label."""
    x, cond = images(0, 4, 5, 6, 2), np.linspace(-2.0, 2.0, 4, dtype=np.float32)
    label = np.array([0, 1, 2, -1], np.int32)
    return filled(NETWORKS[name], x, cond, label), x, cond, label


applied = applier(NETWORKS)
every_network = pytest.mark.parametrize("name", NETWORKS)


@every_network
def test_output_is_zero_at_initialization(name):
    variables, x, cond, label = example(name)
    heads = ["out", "out_1"] if name == "adm" else ["out"]
    # all but these layers' draws are dead code
    draw = jit(lambda key: {head: NETWORKS[name].init(key, x, cond)["params"][head] for head in heads})
    params = variables["params"] | draw(jax.random.key(0))
    out = applied(name)({**variables, "params": params}, x, cond, label)
    np.testing.assert_array_equal(out, np.zeros_like(x))


@every_network
def test_rows_do_not_see_each_other(name):
    variables, x, cond, label = example(name)
    out, order = applied(name)(variables, x, cond, label), np.array([2, 0, 3, 1])
    np.testing.assert_allclose(applied(name)(variables, x[order], cond[order], label[order]), out[order], atol=1e-5)
    far = np.float32([1, 100, 100, 100])
    others = applied(name)(variables, x * far.reshape(4, 1, 1, 1), cond * far, label * 0)
    np.testing.assert_allclose(others[0], out[0], atol=1e-5)
    assert abs(others[1] - out[1]).max() > 1e-2


@every_network
def test_no_parameter_is_dead_and_labels_and_noise_matter(name):
    variables, x, cond, label = example(name)
    leaves, tree = jax.tree.flatten(variables)
    out, rng = applied(name)(variables, x, cond, label), np.random.default_rng(1)
    for i, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(variables)):
        moved = [*leaves[:i], np.asarray(leaf + rng.normal(size=leaf.shape), leaf.dtype), *leaves[i + 1 :]]
        change = applied(name)(jax.tree.unflatten(tree, moved), x, cond, label) - out
        # A softmax doesn't see what is the same for every key.
        assert abs(change).max() > (0 if path[-2].key == "k" else 1e-3), jax.tree_util.keystr(path)
    assert (abs(applied(name)(variables, x, cond, label * 0 - 1) - out)[:3].reshape(3, -1).max(-1) > 1e-3).all()
    assert (abs(applied(name)(variables, x, cond + np.float32(0.1), label) - out).reshape(4, -1).max(-1) > 1e-3).all()


def test_dropout_follows_its_key_and_only_in_training():
    variables, x, cond, label = example("adm")
    train = jit(lambda key: NETWORKS["adm"].apply(variables, x, cond, label, train=True, rngs={"dropout": key}))
    a, again, b = (np.asarray(train(jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, again)
    assert abs(a - b).max() > 1e-3
    assert abs(a - applied("adm")(variables, x, cond, label)).max() > 1e-3


def test_bfloat16_is_close_and_leaves_float32_outside():
    variables, x, cond, label = example("ncsnpp")
    low = NETWORKS["ncsnpp"].copy(dtype=jnp.bfloat16)
    out, exact = np.asarray(jit(low.apply)(variables, x, cond, label)), applied("ncsnpp")(variables, x, cond, label)
    assert out.dtype == np.float32
    # 2⁻⁹ a rounding, over some 50 roundings in a row: √50·2⁻⁹ ≈ 1.4 %
    assert 1e-5 < np.linalg.norm(out - exact) / np.linalg.norm(exact) < 0.04


def test_rematerialization_keeps_parameters_and_marks_every_block():
    variables, *args = example("adm")
    remat = NETWORKS["adm"].copy(remat=True)
    shapes = jax.eval_shape(remat.init, jax.random.key(0), *args)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, variables)
    blocks = sum("conv_1" in layers for layers in variables["params"].values())
    assert str(jax.make_jaxpr(lambda v: remat.apply(v, *args))(variables)).count("prevent_cse") == blocks == 8


@pytest.mark.slow
def test_rematerialization_keeps_gradients_under_dropout():
    module = SMALL(multipliers=(1,), attention=(), embedding=None)
    x, cond = example("adm")[1:3]
    variables = filled(module, x, cond)

    def gradient(module):
        def loss(v):
            return (module.apply(v, x, cond, train=True, rngs={"dropout": jax.random.key(0)}) ** 2).mean()

        return jit(jax.grad(loss))(variables)

    remat = module.copy(remat=True)
    chex.assert_trees_all_close(gradient(remat), gradient(module), rtol=1e-4, atol=1e-6)


PATH_PAIRS = [(i, o) for i in CHOICES["input_path"] for o in CHOICES["output_path"]]


@pytest.mark.parametrize(
    ("n", "paths"), list(enumerate(PATH_PAIRS)), ids=lambda v: "-".join(v) if isinstance(v, tuple) else ""
)
def test_every_mode_takes_any_size_and_channel_count(n, paths):
    module = ResidualUNet(
        3, (1, 2), 1, attention=(-1,), input_path=paths[0], output_path=paths[1], fir=(None, FIR)[n % 2],
        resampling=CHOICES["resampling"][n // 2 % 2], input_combine=CHOICES["input_combine"][n % 2],
    )  # fmt: skip
    x = jax.ShapeDtypeStruct((2, *[(7, 5, 2), (1, 1, 1), (9, 3, 4)][n // 3]), jnp.float32)
    out, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), x, jax.ShapeDtypeStruct((2,), jnp.float32))
    assert out.shape == x.shape


@pytest.mark.parametrize(
    ("module", "label", "message"),
    [
        (ddpmpp(8, output_path="sum"), None, "output_path 'sum' does not exist: choose one of none, skip, residual"),
        (ddpmpp(8, attention=(4,)), None, r"attention=\(4,\) names a resolution that does not exist; there are 4"),
        (ResidualUNet(0), None, "channels must be at least 1, got 0"),
        (ddpmpp(8), np.zeros(1, np.int32), "build it with num_classes > 0"),
        (ddpmpp(8, num_classes=2), np.zeros(1, np.float32), "labels have dtype float32; integers were expected"),
        (ddpmpp(8, embedding=None, num_classes=2), None, "labels and augmentations enter with the noise's embedding"),
    ],
)
def test_what_cannot_be_built_says_so(module, label, message):
    with pytest.raises(InputError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 4, 4, 1)), jnp.zeros(1), label)
