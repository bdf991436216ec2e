"""Every config builds; every word swaps; misspelt keys and wrong types say what exists."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base, digits, fashion_mnist, toy
from score_jax import arrays, build, losses, networks, sampling
from score_jax import data as datasets
from score_jax import sde as sdes
from score_jax.types import InputError
from tests.helpers import key

VARIANTS = {
    "toy": (toy, ["dsm", "esm", "ism", "ssm", "ssm_plain", "fd_ssm", "energy"]),
    "digits": (digits, ["dsm", "ssm", "fd_ssm", "energy", "ddpm", "edm", "compact_ncsn", "mlp"]),
    "fashion_mnist": (fashion_mnist, ["ncsn", "ddpm"]),
}
CONFIGS = {f"{name}:{v}": (module, v) for name, (module, variants) in VARIANTS.items() for v in variants}


def source_for(config):
    """The data's shape without the data: Fashion-MNIST need not be there."""
    shape, classes = {"fashion_mnist": ((28, 28, 1), 10), "digits": ((8, 8, 1), 10)}.get(config.data.name, ((2,), 8))
    dtype, levels = (np.float32, 0) if len(shape) == 1 else (np.uint8, 256)
    labels = np.arange(4, dtype=np.int32) % classes if config.data.labels else None
    return datasets.ArraySource(
        np.zeros((4, *shape), dtype), labels, classes if config.data.labels else 0, levels=levels
    )


@pytest.mark.parametrize(("module", "variant"), CONFIGS.values(), ids=CONFIGS.keys())
def test_every_config_is_built_and_shape_checked(module, variant):
    config = module.get_config(variant)
    source = source_for(config)
    oracle = build.data(config).oracle if config.data.name not in ("digits", "fashion_mnist") else None

    def step_and_sample(x, labels):
        model = build.model(config, source)
        score_fn = lambda x, t: model(x, t, label=labels)  # noqa: E731
        x0 = build.prepare(config, source)(key(), x)
        drawn = build.draw_times(config, model.sde)
        values = build.objective(config, model.sde, oracle)(key(), score_fn, x0, drawn)
        gradient = jax.grad(lambda x: model(x, jnp.full(4, 0.5)).sum())(x0)
        sampler, ts = build.sampler(config, model.sde, score_fn), build.grid(config, model.sde)
        return values, gradient, sampling.sample(key(), sampler, x0, ts)

    batch = source.batch(np.arange(4))
    values, gradient, drawn = jax.eval_shape(step_and_sample, batch["x"], batch.get("label"))
    assert values.shape == (4,) and values.dtype == jnp.float32
    assert gradient.shape == drawn.shape == (4, *source.shape)


def test_the_base_config_states_every_option_and_no_other():
    """An option that a function lost or gained cannot hide: sections and signatures agree."""
    config = base.get_config()

    def options(function, *ignored):
        return set(inspect.signature(function).parameters) - {"sde", "score_fn", "key", "x", "self", *ignored}

    for name, factory in build.SDES.items():
        # EDM's times are its noise levels
        assert set(config.sde[name]) == options(factory), name
    for name, factory in build.SAMPLERS.items():
        assert set(config.sampler[name]) == options(factory, "sigma_min", "noise"), name
    assert set(config.sampler.langevin_corrector) == options(sampling.langevin_corrector)
    assert set(config.objective.ssm) == options(losses.sliced_score_matching)
    assert set(config.objective.fd_ssm) == options(losses.finite_difference_score_matching)
    assert set(config.objective.dsm) == {"noise", "control_scale"}
    shared = {"dropout", "dtype", "num_classes", "embedding", "parent", "name"}
    for name, module in {"mlp": networks.MLP, "compact_ncsn": networks.CompactNCSN, "unet": networks.UNet}.items():
        assert set(config.network[name]) == options(module, *shared), name
    optimizer = options(build.training.optimizer, "total_steps")
    assert set(config.optimizer) == optimizer


@pytest.mark.parametrize(
    ("key_", "value", "message"),
    [
        ("sde.name", "vpp", "sde 'vpp' does not exist: choose one of ve, vp, subvp, edm, cosine, flow, tabulated"),
        (
            "network.name",
            "resnet",
            "network 'resnet' does not exist: choose one of mlp, compact_ncsn, unet, ncsn, ncsnv2",
        ),
        ("network.dtype", "float8", "network.dtype 'float8' does not exist: choose one of float32, bfloat16"),
        ("objective.name", "kl", "objective 'kl' does not exist: choose one of dsm, esm, ism, ssm, fd_ssm"),
        (
            "objective.dsm.noise",
            "cauchy",
            "objective.dsm.noise 'cauchy' does not exist: choose one of gaussian, laplace",
        ),
        ("weighting.name", "none", "weighting 'none' does not exist"),
        ("times.name", "beta", "times 'beta' does not exist"),
        ("sampler.name", "pndm", "sampler 'pndm' does not exist"),
        ("sampler.grid", "sqrt", "sampler.grid 'sqrt' does not exist"),
        ("parameterization.name", "epsilon", "parameterization 'epsilon' does not exist"),
        ("data.name", "imagenet", "data 'imagenet' does not exist: choose one of mixture"),
        ("sde.ve.sigma_min", -1.0, "sigma_min must be positive, got -1.0"),
        ("network.mlp.activation", "selu", "activation 'selu' does not exist"),
    ],
)
def test_a_word_that_does_not_exist_says_what_does(key_, value, message):
    config = toy.get_config()
    config.update_from_flattened_dict({key_: value})
    with pytest.raises(InputError, match=message):
        source = source_for(config)
        build.data(config)
        model = build.model(config, source)
        build.draw_times(config, model.sde)
        build.objective(config, model.sde, None)
        build.grid(config, model.sde)
        build.sampler(config, model.sde, model)


def test_explicit_score_matching_needs_a_known_score():
    config = digits.get_config()
    config.objective.name = "esm"
    with pytest.raises(InputError, match="needs a known score, which only the 2-D toys have"):
        build.objective(config, sdes.VE(), None)


def test_data_from_a_path_asks_for_it():
    config = digits.get_config()
    config.data.name = "folder"
    with pytest.raises(InputError, match=r"give --config.data.root=PATH"):
        build.data(config)


def test_an_unconditional_model_is_given_no_labels():
    config = digits.get_config()
    config.data.labels = False
    assert "label" not in build.data(config).train.batch(np.arange(2))
    assert build.data(config).train.num_classes == 0


def test_explicit_matching_of_the_exact_score_is_zero_at_every_level():
    config = toy.get_config("esm")
    oracle = build.data(config).oracle
    sde = build.sde(config)
    truth = build.score_of(oracle, sde)
    objective = build.objective(config, sde, oracle)
    x0 = oracle.sample(key(), 64)
    values = objective(key(1), truth, x0, build.draw_times(config, sde))
    np.testing.assert_allclose(values, 0, atol=1e-9)
    off = objective(
        key(1), lambda x, t: truth(x, t) + 1 / arrays.expand_right(sde.sigma(t), x), x0, build.draw_times(config, sde)
    )
    np.testing.assert_allclose(off, 1.0, rtol=1e-4)  # ½‖σ·error‖² = ½·D with D = 2
