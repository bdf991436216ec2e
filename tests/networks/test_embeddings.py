import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import networks
from score_jax.networks.embeddings import GaussianFourier, LabelEmbedding, Sinusoidal, Told, told_of
from score_jax.types import InputError
from tests.networks.filling import filled

COND = np.array([-7.0, -0.3, 0.0, 5.0], np.float32)


def test_sinusoidal_is_sines_then_cosines_of_geometric_frequencies():
    out = Sinusoidal(6, lowest=0.5, highest=8.0).apply({}, jnp.asarray(COND))
    angles = COND[:, None] * np.array([0.5, 2.0, 8.0])
    # angles reach 56, whose float32 rounding is 4e-6
    np.testing.assert_allclose(out, np.concatenate([np.sin(angles), np.cos(angles)], -1), atol=1e-5)


def test_default_sinusoidal_separates_all_noise_levels():
    cond = np.linspace(-7, 5, 241, dtype=np.float32)  # 0.05 apart, as in NCSNv2
    out = np.asarray(Sinusoidal(8).apply({}, jnp.asarray(cond)))
    distance = np.linalg.norm(out[:, None] - out[None], axis=-1)
    # each step moves by Δc √Σω² = 0.05·4.3 = 0.22, and no two distant levels come nearer to each other than that
    assert distance[~np.eye(241, dtype=bool)].min() > 0.2


def test_gaussian_fourier_is_fixed_and_untrained():
    module = GaussianFourier(256, scale=0.5)
    variables = module.init(jax.random.key(0), jnp.asarray(COND))
    assert set(variables) == {"fixed"}
    frequencies = np.asarray(variables["fixed"]["frequencies"])
    np.testing.assert_allclose(frequencies.std(), 0.5, atol=4 * 0.5 / np.sqrt(2 * 128))  # 4 s.e. of a std at n=128
    angles = 2 * np.pi * COND[:, None].astype(np.float64) * frequencies[None]
    expected = np.concatenate([np.sin(angles), np.cos(angles)], -1)
    np.testing.assert_allclose(module.apply(variables, jnp.asarray(COND)), expected, atol=2e-5)  # angles up to 70


def test_label_rows_and_null_row():
    module = LabelEmbedding(3, 4)
    variables = filled(module, jnp.zeros(1, int), 1)
    table = np.asarray(variables["params"]["table"])
    assert table.shape == (4, 4)
    np.testing.assert_array_equal(module.apply(variables, jnp.array([2, -1, 0]), 3), table[[3, 0, 1]])
    np.testing.assert_array_equal(module.apply(variables, None, 2), table[[0, 0]])
    assert np.isnan(module.apply(variables, jnp.array([3]), 1)).all()


def test_no_classes_contribute_zero_and_no_parameters():
    np.testing.assert_array_equal(LabelEmbedding(0, 4).apply({}, None, 2), np.zeros((2, 4)))


NETWORKS = {
    "unet": lambda **fields: networks.UNet(8, (1, 2), attention=(), **fields),
    "song_unet": lambda **fields: networks.song_unet(8, multipliers=(1,), blocks=1, attention=(), **fields),
    "adm": lambda **fields: networks.adm(8, multipliers=(1,), blocks=1, attention=(), head_channels=8, **fields),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_told_of_an_augmentation_is_that_there_was_none(name):
    module, x, cond = NETWORKS[name](num_classes=3, augmentation=9), jnp.ones((2, 4, 4, 1)), jnp.zeros(2)
    label, numbers = jnp.array([0, 2]), jnp.zeros((2, 9)).at[0, 3].set(1.0)
    variables = filled(module, x, cond, label)
    apply = jax.jit(module.apply)
    plain = apply(variables, x, cond, label)
    np.testing.assert_array_equal(apply(variables, x, cond, Told(label, jnp.zeros((2, 9)))), plain)
    told = apply(variables, x, cond, Told(label, numbers))
    first = module.init(jax.random.key(0), x, cond, label)["params"]["condition"]["augmentation"]["kernel"]
    assert (float(jnp.abs(first).max()) == 0) == (name == "adm")  # as released
    assert float(jnp.abs(told - plain)[0].max()) > 1e-3
    np.testing.assert_array_equal(told[1], plain[1])


@pytest.mark.parametrize("augmentation", [0, 9])
@pytest.mark.parametrize("name", [*NETWORKS, "untold"])
def test_nothing_of_a_network_is_wider_than_what_it_is_given(name, augmentation):
    build = NETWORKS["unet"] if name == "untold" else NETWORKS[name]
    module = build(augmentation=augmentation, **({"embedding": None} if name == "untold" else {}))
    x, cond = jnp.ones((2, 4, 4, 1), jnp.float32), jnp.zeros(2, jnp.float32)
    variables = filled(module, x, cond)
    with jax.enable_x64(True):
        wide = re.findall(r"f64\[\d[^\]]*\]", str(jax.make_jaxpr(module.apply)(variables, x, cond)))
    assert wide == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: told_of(Told(None, jnp.zeros((1, 9))), 0, jnp.zeros(1)),
            "9 numbers of an augmentation were given",
        ),
        (lambda: Sinusoidal(5).apply({}, jnp.zeros(1)), "even number of features, got 5"),
        (lambda: LabelEmbedding(0, 4).apply({}, jnp.zeros(1, int), 1), "num_classes > 0"),
        (lambda: LabelEmbedding(2, 4).init(jax.random.key(0), jnp.zeros(1), 1), "labels have dtype float32"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
