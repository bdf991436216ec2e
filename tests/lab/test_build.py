"""Every config builds; every word swaps; misspelt keys and wrong types say what exists."""

import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from configs import ddpm, digits, edm, fashion_mnist, ncsn, ncsnv2, score_sde, toy
from score_jax import arrays, losses, networks, sampling, training
from score_jax import data as datasets
from score_jax import sde as sdes
from score_jax.devices import device_mesh
from score_jax.distributions import score_of
from score_jax.lab import build, published, samples
from score_jax.lab.build import data as of_data
from score_jax.lab.build import network as of_network
from score_jax.lab.build import noise as of_noise
from score_jax.lab.build import objective as of_objective
from score_jax.lab.build import sampling as of_sampling
from score_jax.lab.build import training as of_training
from score_jax.lab.experiment import Examples, Trained
from score_jax.lab.settings import get_config
from score_jax.networks.norms import num_groups
from score_jax.training.loop import check_intervals
from score_jax.types import InputError
from tests import test_noise_levels
from tests.helpers import key
from tests.networks import filling, test_residual_unet

VARIANTS = {
    "toy": (toy, ["dsm", "esm", "ism", "ssm", "ssm_plain", "fd_ssm", "energy"]),
    "digits": (
        digits,
        ["dsm", "ssm", "fd_ssm", "energy", "ddpm", "edm", "compact_ncsn", "mlp", "ddpmpp", "ncsnpp", "improved_ddpm"],
    ),
    "fashion_mnist": (fashion_mnist, ["ncsn", "ncsnv2", "ddpm", "ddpmpp", "ncsnpp"]),
}
CONFIGS = {f"{name}:{v}": (module, v) for name, (module, variants) in VARIANTS.items() for v in variants}
# As digits:ncsnpp, or longer; and those whose network is another's, with objectives that toys have too
SLOW = ["digits:ddpmpp", "fashion_mnist:ddpmpp", "fashion_mnist:ncsnpp"]
SLOW += ["digits:ssm", "digits:fd_ssm", "digits:energy", "digits:ddpm", "digits:edm", "fashion_mnist:ddpm"]
SLOW += ["digits:ncsnpp"]  # as configs/score_sde.py has it, which trains and samples in shape below


# Parameters at the published widths, counted from the papers' layers.
PUBLISHED = {
    "ncsn:mnist": (ncsn, "mnist", 7_638_657),
    "ncsn:cifar10": (ncsn, "cifar10", 30_117_635),
    "ncsn:celeba": (ncsn, "celeba", 30_117_635),
    "ncsnv2:cifar10": (ncsnv2, "cifar10", 29_694_083),
    "ncsnv2:celeba": (ncsnv2, "celeba", 29_694_083),
    "ncsnv2:church": (ncsnv2, "church", 83_445_379),
    "ncsnv2:bedroom": (ncsnv2, "bedroom", 83_445_379),
    "ncsnv2:tower": (ncsnv2, "tower", 83_445_379),
    "ncsnv2:ffhq": (ncsnv2, "ffhq", 94_132_611),
    "ncsnv2:ncsn": (ncsnv2, "ncsn", 30_117_635),
}
# The networks of `test_residual_unet`, where their parameters are counted.
UNETS = {
    "score_sde": (
        score_sde,
        {
            "DDPM++": ["vp_ddpmpp", "vp_ddpmpp_continuous", "subvp_ddpmpp_continuous"],
            "DDPM++ deep": ["vp_ddpmpp_deep_continuous", "subvp_ddpmpp_deep_continuous"],
            "NCSN++": ["ve_ncsnpp_continuous"],
            "NCSN++ deep": ["ve_ncsnpp_deep_continuous"],
            "NCSN++ discrete": ["ve_ncsnpp"],
            "NCSN++ 256": ["ve_bedroom", "ve_church", "ve_celebahq", "ve_ffhq"],
            "NCSN++ 1024": ["ve_celebahq_1024", "ve_ffhq_1024"],
            "score SDE's ddpm": ["vp_ddpm", "vp_ddpm_continuous", "subvp_ddpm_continuous", "ve_ddpm"],
            "score SDE's ddpm 256": ["vp_bedroom", "vp_church", "vp_celebahq"],
        },
    ),
    "ddpm": (ddpm, {"DDPM": ["cifar10"], "DDPM 256": ["bedroom", "church", "celebahq"]}),
    "edm": (
        edm,
        {
            "EDM": ["cifar10"],
            "EDM, 10 classes": ["cifar10_cond"],
            "EDM 64": ["ffhq", "afhq"],
            "EDM NCSN++": ["cifar10_ncsnpp"],
            "ADM": ["imagenet64"],
        },
    ),
}
COUNTED = {
    f"{name}:{v}": (module, v, row) for name, (module, rows) in UNETS.items() for row, vs in rows.items() for v in vs
}
SHAPES = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


def source_for(config):
    """The data's shape without the data, which need not be there."""
    options = config.data
    shape = (options.size, options.size, options.channels) if options.size else SHAPES.get(options.name, (2,))
    classes = 8 if len(shape) == 1 else 10
    dtype, levels = (np.float32, 0) if len(shape) == 1 else (np.uint8, 256)
    labels = np.arange(4, dtype=np.int32) % classes if options.labels else None
    return datasets.ArraySource(
        np.zeros((4, *shape), dtype), labels, classes if options.labels else 0, grey_levels=levels
    )


def sde_of(config):
    """The config's process, its levels by the data where these are toys."""
    source = of_data.data(config).train if config.data.name in datasets.toy.TOYS else source_for(config)
    return of_noise.sde(build.with_derived(config, source))


def sampler_of(config, sde, score_fn):
    return of_sampling.chosen_sampler(of_sampling.with_step_size(config, sde), sde, score_fn)


def model_of(config, source):
    return of_network.model(config, sde_of(config), source)


@pytest.mark.parametrize(
    ("module", "variant"),
    [pytest.param(*v, id=k, marks=[pytest.mark.slow] if k in SLOW else []) for k, v in CONFIGS.items()],
)
def test_every_config_is_built_and_shape_checked(module, variant):
    config = module.get_config(variant)
    source = source_for(config)
    oracle = of_data.data(config).oracle if config.data.name in datasets.toy.TOYS else None

    def step_and_sample(x, labels):
        model = model_of(config, source)
        score_fn = model.conditioned(label=labels)
        x0 = of_data.preparation(config, source)(key(), x)
        drawn = of_noise.draw_times(config, model.sde)
        values = of_objective.objective(config, model.sde, oracle)(key(), score_fn, x0, drawn)
        gradient = jax.grad(lambda x: model(x, jnp.full(4, 0.5)).sum())(x0)
        sampler, ts = sampler_of(config, model.sde, score_fn), of_sampling.grid(config, model.sde)
        return values, gradient, sampling.sample(key(), sampler, x0, ts)

    batch = source.batch(np.arange(4))
    values, gradient, drawn = jax.eval_shape(step_and_sample, batch["x"], batch.get("label"))
    assert values.shape == (4,) and values.dtype == jnp.float32
    assert gradient.shape == drawn.shape == (4, *source.shape)


SAME_NETWORK = ["ncsn:celeba", "ncsn:cifar10", "ncsnv2:celeba", "ncsnv2:church", "ncsnv2:bedroom", "ncsnv2:tower"]
SAME_NETWORK += ["ncsnv2:ffhq", "ncsnv2:ncsn"]  # as one above, or counted below


@pytest.mark.parametrize(
    ("module", "variant", "parameters"),
    [pytest.param(*v, id=k, marks=[pytest.mark.slow] if k in SAME_NETWORK else []) for k, v in PUBLISHED.items()],
)
def test_published_configs_are_built_at_their_widths_and_sample_on_all_their_levels(module, variant, parameters):
    config = module.get_config(variant)
    source = source_for(config)

    def loss_and_sample(x):
        model = model_of(config, source)
        x0 = of_data.preparation(config, source)(key(), x)
        drawn = of_noise.draw_times(config, model.sde)
        values = of_objective.objective(config, model.sde, None)(key(), model, x0, drawn)
        sampler, ts = sampler_of(config, model.sde, model), of_sampling.grid(config, model.sde)
        x = of_sampling.start(config, model.sde)(key(), x.shape)
        return values, sampling.sample(key(), sampler, x, ts), ts, model.variables["params"]

    values, drawn, ts, params = jax.eval_shape(loss_and_sample, source.batch(np.arange(4))["x"])
    assert values.shape == (4,) and values.dtype == jnp.float32
    assert drawn.shape == (4, *source.shape)
    assert ts.shape == (config.times.discrete.n + 1,)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters
    build.check_combinations(config)
    options = config.training
    intervals = {name: options[name] for name in ("steps", "log_every", "checkpoint_every", "keep_every")}
    check_intervals(options.steps_per_dispatch, **intervals)
    check_intervals(10, **intervals)  # as the configs recommend on accelerators


@pytest.mark.parametrize(("module", "variant", "parameters"), PUBLISHED.values(), ids=PUBLISHED.keys())
def test_published_configs_agree_with_the_calculators_and_with_how_checkpoints_are_sampled(module, variant, parameters):
    """The numbers of `test_noise_levels`, where the step sizes are shown to follow from the ladders or not to."""
    del parameters
    config = module.get_config(variant)
    n_levels, langevin = config.times.discrete.n, config.sampler.annealed_langevin
    sde = sde_of(config)
    sigmas = sde.sigma(of_sampling.grid(config, sde)[1:])
    # t_min = 1e-5 is 1e-5·ln(σ_1/σ_L) ≈ 1e-4 above σ_L
    np.testing.assert_allclose(sigmas, np.geomspace(config.sde.ve.sigma_max, 0.01, n_levels), rtol=2e-4)
    known = published.SAMPLING[config.network.name, n_levels]
    assert (known.n_steps, known.step_size, known.denoise) == (
        langevin.n_steps,
        langevin.step_size,
        config.sampler.denoise,
    )
    names = {"church": "lsun_church", "bedroom": "lsun_bedroom", "tower": "lsun_bedroom"}
    if config.network.name == "ncsnv2":
        expected = test_noise_levels.PUBLISHED[names.get(variant, variant)]
        assert np.prod(source_for(config).shape) == expected.dims
        assert (config.sde.ve.sigma_max, n_levels) == (expected.sigma_max, expected.n_levels)
        assert langevin.n_steps == expected.n_steps
        np.testing.assert_allclose(langevin.step_size, 2 * expected.step_lr, rtol=1e-12)


@pytest.mark.parametrize(("module", "variant", "row"), COUNTED.values(), ids=COUNTED.keys())
def test_published_unet_configs_build_the_networks_whose_parameters_are_counted(module, variant, row):
    config = module.get_config(variant)
    source = source_for(config)
    network, (counted, side, *_) = of_network.network(config, sde_of(config), source), test_residual_unet.PUBLISHED[row]
    assert source.shape == (side, side, 3)
    # what a network is told of the noise is another matter, but for the rows that are named after it
    fields = {name: getattr(network, name) for name in ("dropout", "dtype", "rescale", "num_classes", "output_scale")}
    if not row.startswith(("NCSN++", "EDM", "ADM")):
        fields["embedding"] = network.embedding
    fields["group_channels"] = network.group_channels  # the same norms at published widths: see below
    assert counted.copy(**fields) == network
    assert config.network.dropout == {"EDM": 0.13}.get(row, network.dropout)


def test_norms_of_published_widths_have_32_groups_and_a_narrow_network_still_sees_the_noise_level():
    """One channel a group would take the embedding out again, which is added to whole channels before the norm."""
    config = digits.get_config("improved_ddpm")
    fewest = config.network.ddpm.group_channels
    widths = range(128, 2049, 128)  # and sums of two
    assert {num_groups(c, 32, 1) for c in widths} == {num_groups(c, 32, fewest) for c in widths} == {32}
    config.network.ddpm.update(multipliers=(1,), attention=())
    module, x = of_network.network(config, sde_of(config), source_for(config)), np.ones((2, 4, 4, 1), np.float32)
    x[:, :2] = 0
    cond = np.float32([10, 900])
    moved = {}
    for channels in (1, fewest):
        network = module.copy(group_channels=channels)
        out = filling.jit(network.apply)(filling.filled(network, x, cond), x, cond)
        moved[channels] = abs(out[1] - out[0]).max()
    assert moved[1] < 1e-5 < 0.1 < moved[fewest]  # measured: 8e-7, rounding, and 0.53


EVERY_UNET = list(
    dict.fromkeys([(m, v) for m, v, _ in COUNTED.values()] + [(score_sde, v) for v in score_sde.VARIANTS])
)


@pytest.mark.parametrize(("module", "variant"), EVERY_UNET, ids=[f"{m.__name__[8:]}:{v}" for m, v in EVERY_UNET])
def test_published_unet_configs_convert_their_numbers_and_have_whole_intervals(module, variant):
    config = module.get_config(variant)
    source = source_for(config)
    build.check_combinations(config)
    assert isinstance(of_network.network(config, sde_of(config), source), networks.ResidualUNet)
    assert config.sampler.name in of_sampling.SAMPLERS
    # ours is ½‖·‖²/D; published are its double, its D-fold (variance exploding) and, of EDM, its 2D-fold
    exploding = config.sde.name == "ve" and variant != "ve_ffhq_1024"
    times = 2 * np.prod(source.shape) if module is edm else np.prod(source.shape) if exploding else 2
    assert config.optimizer.eps == pytest.approx(1e-8 / times, rel=1e-12)
    assert config.optimizer.clip_norm == pytest.approx(0 if module is edm else 1 / times, rel=1e-12)
    options = config.training
    intervals = {name: options[name] for name in ("steps", "log_every", "checkpoint_every", "keep_every")}
    check_intervals(10, **intervals)  # as the configs recommend on accelerators


@pytest.mark.parametrize(
    ("variant", "told"),
    [
        ("vp_ddpm", [0.0, 499.0, 999.0]),  # the step i of t = (i + 1)/1000
        ("vp_ddpm_continuous", [0.999, 499.5, 999.0]),  # 999 t
        ("subvp_ddpm_continuous", [0.999, 499.5, 999.0]),
        ("ve_ncsnpp_continuous", [0.01 * 5000**0.001, 0.5**0.5, 50.0]),  # σ
        ("ve_ncsnpp", [998.01098, 499.504995, 0.0]),  # 999 (1 − t)/(1 − 1e-5), for levels from t = 1 to 1e-5
    ],
)
def test_published_unets_are_told_what_they_were_trained_on(variant, told):
    config = score_sde.get_config(variant)
    condition, t = of_network.condition(config, sde_of(config)), jnp.asarray([0.001, 0.5, 1.0])
    np.testing.assert_allclose(condition(sde_of(config), t), told, rtol=1e-5, atol=1e-3)
    scale = of_network.network(config, sde_of(config), source_for(config)).output_scale
    assert (scale is not None) == variant.startswith("ve")  # the score, divided by σ


def test_knots_are_the_steps_of_ddpm():
    config = ddpm.get_config()
    sde = sde_of(config)
    t, weight = of_noise.draw_times(config, sde)(key(), sde, 4096)
    assert (weight == 1).all()
    # expected of 4096 draws of 1000 steps: e^-4 of them are missed, 18 ± 4, and the next to t_min is none
    steps = np.unique(np.round(np.asarray(t) * 1000, 3))
    assert set(steps) <= set(np.arange(1.0, 1001.0)) and 960 < len(steps) < 1000
    # and of sampling: 999 transitions, and the posterior mean at the first step's time is the thousandth network call
    np.testing.assert_allclose(of_sampling.grid(config, sde), np.arange(1000, 0, -1) / 1000, rtol=1e-6)
    assert config.sampler.denoise
    config.sampler.update(name="ddim", steps=50)  # DDIM's every twentieth, ending there too
    np.testing.assert_allclose(of_sampling.grid(config, sde), np.arange(981, 0, -20) / 1000, rtol=1e-6)


def test_ncsnv2_of_fashion_mnist_is_one_field_divided_by_sigma():
    """Technique 3: σ times the score at one x is the same at every level, and is not where the network is told it."""

    def sigma_times_score(config):
        config.network.unet.update(channels=8, multipliers=(1,), attention=())
        sde, source = sde_of(config), source_for(config)
        model = of_network.model(config, sde, source)
        drawn = lambda leaf: jax.random.normal(key(), leaf.shape) / 4  # the last layer starts at zero
        model = model.replace(variables=jax.tree.map(drawn, model.variables))
        t, x = jnp.asarray([0.0, 0.5, 1.0]), jnp.broadcast_to(jax.random.normal(key(), (28, 28, 1)), (3, 28, 28, 1))
        return np.asarray(jax.jit(lambda x, t: arrays.expand_right(sde.sigma(t), x) * model(x, t))(x, t))

    config = fashion_mnist.get_config("ncsnv2")
    field = sigma_times_score(config.copy_and_resolve_references())
    assert np.abs(field).mean() > 0.1
    np.testing.assert_allclose(field[1:], np.broadcast_to(field[:1], field[1:].shape), rtol=1e-4, atol=1e-4)
    config.network.condition = "c_noise"
    told = sigma_times_score(config)
    assert np.abs(told[1:] - told[:1]).mean() > 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network.condition": "sigma"}, "song_unet, adm; 'unet' has its own: leave it c_noise or none"),
        ({"network.name": "mlp", "network.condition": "none"}, "'mlp' has its own: leave it c_noise$"),
        ({"network.name": "adm", "network.condition": "level"}, "set --config.times.name=discrete"),
        (
            {"network.name": "adm", "network.condition": "timestep", "sde.name": "edm"},
            "999 t, and the t of sde 'edm' is",
        ),
        ({"network.name": "adm", "network.condition": "snr"}, "network.condition 'snr' does not exist: choose one of"),
    ],
)
def test_conditions_that_do_not_fit_say_so(settings, message):
    config = get_config()
    config.update_from_flattened_dict(settings)
    with pytest.raises(InputError, match=message):
        of_network.condition(config, sde_of(config))


PROCESSES = {
    "vp_ddpm": score_sde,
    "ve_ncsnpp": score_sde,
    "ve_ncsnpp_continuous": score_sde,
    "imagenet64": edm,
}
REPEATED = {
    "subvp_ncsnpp_continuous": score_sde,
    "vp_ncsnpp": score_sde,
    "vp_ddpmpp_continuous": score_sde,
    "vp_ddpm_unconditional": score_sde,
    "ffhq": edm,
}


@pytest.mark.parametrize(
    ("variant", "module"),
    [*PROCESSES.items(), *(pytest.param(*row, marks=pytest.mark.slow) for row in REPEATED.items())],
)
def test_published_unet_configs_train_and_sample_in_shape(variant, module):
    """On 8×8 images and one level of 8 features: how the parts fit doesn't depend on the network's size."""
    config = module.get_config(variant)
    config.data.update(name="digits", size=0)
    config.network[config.network.name].update(channels=8, multipliers=(1,), blocks=1, attention=())
    source = source_for(config)

    def loss_and_sample(x, labels):
        model = model_of(config, source)
        score_fn = model.conditioned(label=labels)
        x0, drawn = of_data.preparation(config, source)(key(), x), of_noise.draw_times(config, model.sde)
        values = of_objective.objective(config, model.sde, None)(key(), score_fn, x0, drawn)
        sampler, ts = sampler_of(config, model.sde, score_fn), of_sampling.grid(config, model.sde)
        return values, sampling.sample(key(), sampler, x0, ts), ts

    batch = source.batch(np.arange(4))
    values, drawn, ts = jax.eval_shape(loss_and_sample, batch["x"], batch.get("label"))
    assert values.shape == (4,) and values.dtype == jnp.float32
    assert drawn.shape == (4, 8, 8, 1)
    # DDPM's last of 1000 steps is the posterior mean, and so is EDM's last of 256
    assert len(ts) + config.sampler.denoise == config.sampler.steps + (1 if config.sampler.grid == "ddpm" else 2)


def drawn_by_numpy(config, source):
    """The model of a config with parameters of NumPy's: compiling the initialisers would take longer than the test."""
    shapes = jax.eval_shape(lambda: model_of(config, source))
    rng = np.random.default_rng(0)
    draw = lambda p: rng.normal(scale=0.1, size=p.shape).astype(p.dtype)
    drawn = {"fixed": {}} | jax.tree.map(draw, shapes.variables)
    fixed = {"sigmas": np.float32(shapes.apply.module.sigmas)} if "sigmas" in drawn["fixed"] else drawn["fixed"]
    variables = {"params": drawn["params"], "fixed": fixed}
    return shapes.replace(
        variables=variables, sde=sde_of(config), parameterization=of_network.output(config, sde_of(config))
    )


def two_steps(config):
    """Trains a config on digits; returns its parameters before, between and after, as vectors, and their average."""
    config.data.update(name="digits", size=0)
    source = of_data.data(config).train
    model, transformation = drawn_by_numpy(config, source), of_training.chosen_optimizer(config)
    placement = training.make_placement(devices=jax.devices()[:1])
    step = training.make_train_step(
        model,
        of_objective.objective(config, model.sde, None),
        transformation,
        times=of_noise.draw_times(config, model.sde),
        placement=placement,
        prepare=of_data.preparation(config, source),
        decay=training.ema_decay(config.training.ema_decay, warmup=config.training.ema_warmup),
    )
    flat = lambda params: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    state = training.place(training.create(key(), model.variables, transformation), placement)
    theta = [flat(state.params)]
    for rows in (np.arange(8), np.arange(8, 16)):
        batch = {name: value[None] for name, value in source.batch(rows).items() if name in ("x", "label")}
        state, report = step(state, training.put_batches(batch, placement.mesh))
        assert report.steps == 1
        theta.append(flat(state.params))
    return theta, flat(state.ema)


class Head(nn.Module):
    """One convolution of x in a network's place, without its compilation: ε̂, or ε̂ and v of two outputs."""

    outputs: int = 1

    @nn.compact
    def __call__(self, x, cond, label=None, train=False):
        return nn.Conv(self.outputs * x.shape[-1], (3, 3))(x)


# What they do to whole networks, and the networks to them, is in `test_families`.


@pytest.mark.parametrize("module", [ncsn, ncsnv2], ids=["ncsn", "ncsnv2"])
def test_published_training_takes_two_steps_of_plain_adam_and_averages_as_published(module, monkeypatch):
    config = module.get_config()
    monkeypatch.setitem(of_network.LEVEL_NETWORKS, config.network.name, lambda *_, **__: Head())
    theta, ema = two_steps(config)
    # Adam's first step is lr·g/(|g| + ε): neither a warm-up nor an ε of the gradients' size makes it less.
    moved = abs(theta[1] - theta[0]) / config.optimizer.learning_rate
    assert np.median(moved) == pytest.approx(1, abs=1e-3)
    assert np.isfinite(theta[2]).all() and (theta[2] != theta[1]).any()
    d = {"ncsn": 0.0, "ncsnv2": 0.999}[config.network.name]
    expected = d * (d * theta[0] + (1 - d) * theta[1]) + (1 - d) * theta[2]
    np.testing.assert_allclose(ema, expected, atol=1e-6)  # ten roundings of float32 near 1


SAME_WARM_UP = ("cifar10", "imagenet64")  # by the same rule as another's
WARM_UPS = {  # published learning rate, number of steps of its warm-up, decay of the average
    "ve_ncsnpp_continuous": (score_sde, 2e-4, 5000, 0.999),
    "cifar10": (ddpm, 2e-4, 5000, 0.9999),
    "cifar10_cond": (edm, 1e-3, 10e6 / 512, 0.5 ** (512 / 500e3)),
    "imagenet64": (edm, 1e-4, 10e6 / 4096, 0.5 ** (4096 / 50e6)),
}


@pytest.mark.parametrize(
    ("variant", "module", "rate", "warmup", "d"),
    [pytest.param(v, *row, id=v, marks=[pytest.mark.slow] * (v in SAME_WARM_UP)) for v, row in WARM_UPS.items()],
)
def test_published_unets_take_two_steps_of_their_warm_up_and_average_as_published(
    variant, module, rate, warmup, d, monkeypatch
):
    config = module.get_config(variant)
    monkeypatch.setitem(of_network.UNETS, config.network.name, lambda **_: Head())
    config.optimizer.learning_rate = 1000 * rate  # a step of the warm-up would vanish in float32
    config.data.augment = 0.0  # of which this head can't be told
    theta, ema = two_steps(config)
    # Adam's first step is lr·g/(|g| + ε), whatever the clipping; ε is of no gradient's size.
    moved = abs(theta[1] - theta[0]) * warmup / (1000 * rate)
    assert np.median(moved) == pytest.approx(1, abs=0.02)
    assert np.isfinite(theta[2]).all() and (theta[2] != theta[1]).any()
    assert config.training.ema_decay == pytest.approx(d, rel=1e-12)
    first, second = (0.1, 2 / 11) if module is edm else (d, d)  # (1 + n)/(10 + n)
    expected = second * (first * theta[0] + (1 - first) * theta[1]) + (1 - second) * theta[2]
    np.testing.assert_allclose(ema, expected, atol=1e-6)


@pytest.fixture
def improved_ddpm(monkeypatch):
    monkeypatch.setitem(of_network.UNETS, "ddpm", lambda *, outputs, **_: Head(outputs))
    return digits.get_config("improved_ddpm")


@pytest.mark.slow
def test_a_variance_is_learned_by_config(improved_ddpm):
    """Two steps move both halves of the output; the loss of each noise level, the last below the table, is a number."""
    config, placement = improved_ddpm, training.make_placement(devices=jax.devices()[:1])
    theta, _ = two_steps(config)
    assert (np.diff(theta, axis=0).reshape(2, 10, 2) != 0).all()  # the bias and 3×3 weights of ε̂ and of v
    source = of_data.data(config).train
    model = drawn_by_numpy(config, source)
    published_floor = sdes.ddpm_schedule(1000, "cosine").posterior_variance[1]
    np.testing.assert_allclose(model.parameterization.floor, published_floor, rtol=1e-4)  # float32 near ᾱ = 1
    evaluate = training.make_eval_step(
        model,
        of_objective.objective(config, model.sde, None),
        mesh=placement.mesh,
        prepare=of_data.preparation(config, source),
        levels=4,
    )
    batch = {"x": source.batch(np.arange(8))["x"][None]}
    state = training.place(training.create(key(), model.variables, of_training.chosen_optimizer(config)), placement)
    losses_by_level = evaluate(state, training.put_batches(batch, placement.mesh))
    assert losses_by_level.shape == (4,) and np.isfinite(losses_by_level).all()


@pytest.mark.parametrize("threshold", ["none", "static"])
def test_a_learned_variance_is_sampled_with_by_config(improved_ddpm, threshold):
    """A step with v = 0 has the noise √(std of posterior · std of transition); thresholding leaves it alone."""
    config, options = improved_ddpm, improved_ddpm.sampler
    options.threshold = threshold
    model = drawn_by_numpy(config, source_for(config))
    given = model.replace(variables=jax.tree.map(jnp.zeros_like, model.variables)).conditioned()
    sde, x, keys = model.sde, 2 * jnp.ones((4, 8, 8, 1)), arrays.example_keys(key(1), 4)
    t, s = of_sampling.grid(config, sde)[-3:-1]
    low, high = np.sqrt(sde.posterior_variance(t, s)), np.sqrt(sde.transition(t, s)[1])
    moved = {}
    for options.ancestral.variance in ("posterior", "learned", "transition"):
        sampler = sampler_of(config, sde, of_sampling.chosen_threshold(config, sde, given))
        moved[options.ancestral.variance] = sampler.step(keys, sampler.init(x), t, s).x
    z = arrays.normal(keys, x)
    assert low < 0.9 * high
    np.testing.assert_allclose(moved["learned"] - moved["posterior"], (np.sqrt(low * high) - low) * z, atol=2e-6)
    np.testing.assert_allclose(moved["transition"] - moved["learned"], (high - np.sqrt(low * high)) * z, atol=2e-6)


@pytest.mark.parametrize("threshold", ["static", "dynamic"])
def test_thresholded_samples_stay_in_the_range_of_the_data(improved_ddpm, threshold):
    """By config, after the last denoise, with a learned variance; an untrained network's estimates leave it."""
    config = improved_ddpm
    config.sampler.update(threshold=threshold, n=4, steps=10)
    model = drawn_by_numpy(config, source_for(config))
    examples = Examples("floats", (8, 8, 1), 0, (-1.0, 1.0))  # handed out in the range of training
    plan = of_sampling.plan(config, model.sde, model, mesh=device_mesh())
    drawn = samples.draw_samples(Trained(examples, model, plan, {}), n=4).x
    assert np.isfinite(drawn).all()
    # Of x̂_0 = (x + σ² score)/α at α ≈ 1 a few roundings of x are left; and the limit is met.
    assert abs(abs(drawn).max() - 1) < 1e-5


LEARNING = {"parameterization.name": "learned_eps", "network.name": "ddpm", "network.condition": "timestep"}
KNOTS = {"sde.name": "tabulated", "times.name": "knots"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parameterization.name": "learned_eps"}, "needs twice the channels, which ddpm, ddpmpp, ncsnpp, song_unet"),
        ({**LEARNING, "network.conservative": True}, "needs twice the channels, .* if not conservative"),
        (LEARNING, "times 'uniform' have none: set --config.times.name=knots with --config.sde.name=tabulated"),
        ({**LEARNING, **KNOTS}, "objective 'dsm' leaves the variance .* set --config.objective.name=hybrid"),
        ({**KNOTS, "objective.name": "hybrid"}, "objective 'hybrid' teaches a learned variance"),
        (
            {**LEARNING, **KNOTS, "objective.name": "hybrid", "weighting.name": "edm"},
            "set .*--config.weighting.name=sigma2",
        ),
        ({**LEARNING, **KNOTS, "objective.name": "hybrid"}, "'grey_levels' is of images that are not dequantized"),
        ({"sampler.name": "ancestral", "sampler.ancestral.variance": "learned"}, "is not in a model of .* 'eps'"),
    ],
)
def test_a_learned_variance_that_does_not_fit_says_so(settings, message):
    config = get_config()
    config.update_from_flattened_dict(settings)
    with pytest.raises(InputError, match=message):
        of_network.network(config, sde_of(config), source_for(config))
        of_network.output(config, sde_of(config))
        of_objective.objective(config, sde_of(config), None)
        sampler_of(config, sde_of(config), jnp.sin)


def test_score_sdes_own_steps_need_its_grid_and_no_other_denoise():
    """N updates at N times and one to 0, after which nothing is left to do; anything else is said to be missing."""
    config = get_config()
    config.sampler.update(name="euler_maruyama", grid="uniform", steps=100, denoise=False, t_end=1e-3)
    config.sampler.euler_maruyama.num_scales = 100
    config.sde.name = "vp"
    ts = of_sampling.grid(config, sde_of(config))
    np.testing.assert_allclose(ts, [*np.linspace(1, 1e-3, 100), 0], rtol=1e-6)
    for key_, value in {"grid": "karras", "steps": 99, "denoise": True}.items():
        other = config.copy_and_resolve_references()
        other.sampler[key_] = value
        with pytest.raises(InputError, match=r"set --config.sampler.grid=uniform --config.sampler.steps=100 --config"):
            of_sampling.grid(other, sde_of(other))


def test_a_corrector_works_before_the_predictor_by_config():
    """At t, as the predictor then does; or at s after it."""
    config = get_config()
    config.sde.name = "vp"
    config.sampler.update(name="reverse_diffusion", corrector=True)
    sde, keys = sde_of(config), arrays.example_keys(key(), 2)
    for config.sampler.first, expected in (("predictor", [0.5, 0.4]), ("corrector", [0.5])):
        levels = []
        sampler = sampler_of(config, sde, lambda x, t, levels=levels: levels.append(float(t)) or -x)
        sampler.step(keys, sampler.init(jnp.ones((2, 3))), jnp.asarray(0.5), jnp.asarray(0.4))
        assert list(dict.fromkeys(levels)) == pytest.approx(expected)
    config.sampler.first = "both"
    with pytest.raises(InputError, match="first must be 'predictor' or 'corrector', got 'both'"):
        sampler_of(config, sde, jnp.sin)


def test_grids_of_a_table_by_config():
    config = get_config()
    config.sde.name = "tabulated"
    config.sampler.update(grid="ddpm", steps=10, spacing="leading", offset=1, t_end=0.002)
    indices = lambda: np.round(1000 * np.asarray(of_sampling.grid(config, sde_of(config)), np.float64) - 1).tolist()
    assert indices() == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]
    config.sampler.update(grid="respaced", respacing="1,3", t_end=1e-3)
    assert indices() == [999, 750, 500, 0]
    config.sde.tabulated.terminal_snr = "zero"
    assert indices() == [998, 750, 500, 0]  # from the second knot


def test_the_base_config_states_every_option_and_no_other():
    """An option that a function lost or gained cannot hide: sections and signatures agree."""
    config = get_config()

    def options(function, *ignored):
        return set(inspect.signature(function).parameters) - {"sde", "score_fn", "key", "x", "self", *ignored}

    for name, factory in of_noise.SDES.items():
        # EDM's times are its noise levels
        assert set(config.sde[name]) == options(factory), name
    for name, factory in of_sampling.SAMPLERS.items():
        assert set(config.sampler[name]) == options(factory, "sigma_min", "noise"), name
    assert set(config.sampler.langevin_corrector) == options(sampling.langevin_corrector)
    assert set(config.objective.ssm) == options(losses.sliced_score_matching)
    assert set(config.objective.fd_ssm) == options(losses.finite_difference_score_matching)
    assert set(config.objective.dsm) == {"noise", "control_scale"}
    assert set(config.objective.hybrid) == {"weight", "decoder"} <= options(losses.hybrid_loss)
    assert config.objective.hybrid.weight == inspect.signature(losses.hybrid_loss).parameters["weight"].default
    shared = {"dropout", "dtype", "num_classes", "logits", "embedding", "attention_implementation", "augmentation"}
    shared |= {"parent", "name"}
    compact = {"mlp": networks.MLP, "compact_ncsn": networks.CompactNCSN, "unet": networks.UNet}
    for name, module in (compact | {"encoder": networks.Encoder}).items():
        assert set(config.network[name]) == options(module, *shared), name
    for name in of_network.UNETS:
        # the other fields are what the name stands for
        assert {"channels", "multipliers", "blocks", "attention", "rescale", "remat"} <= set(config.network[name]), name
        assert set(config.network[name]) <= options(networks.ResidualUNet, *shared), name
    assert set(config.optimizer) == options(training.optimizer, "total_steps") | {"name", "options", "lion", "muon"}
    assert set(config.optimizer.lion) <= options(optax.scale_by_lion)
    assert set(config.optimizer.muon) == options(training.muon, "rates", "weight_decay", "b1", "b2")


@pytest.mark.parametrize(
    ("key_", "value", "message"),
    [
        ("sde.name", "vpp", "sde 'vpp' does not exist: choose one of ve, vp, subvp, edm, cosine, flow, tabulated"),
        (
            "network.name",
            "resnet",
            "network 'resnet' does not exist: choose one of mlp, compact_ncsn, unet, ncsn, ncsnv2, ddpm, ddpmpp,",
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
        of_data.data(config)
        model = model_of(config, source)
        of_noise.draw_times(config, model.sde)
        of_objective.objective(config, model.sde, None)
        of_sampling.grid(config, model.sde)
        sampler_of(config, model.sde, model)


WORDS = [
    *(("sde.name", word) for word in of_noise.SDES),
    *(("objective.name", word) for word in ("esm", "ism", "ssm", "fd_ssm", "dsm")),
    *(("objective.dsm.noise", word) for word in of_objective.NOISES),
    *(("weighting.name", word) for word in ("sigma2", "likelihood", "edm", "min_snr")),
    *(("times.name", word) for word in ("uniform", "discrete", "knots", "lognormal", "importance")),
    *(("sampler.name", word) for word in of_sampling.SAMPLERS),
    *(("sampler.grid", word) for word in ("levels", "uniform", "karras", "log_snr", "cosine", "ddpm", "respaced")),
    *(("sampler.threshold", word) for word in ("none", "static", "dynamic")),
]
TABLES = {"knots", "ddpm", "respaced"}  # words of a tabulated SDE


@pytest.mark.parametrize(("setting", "word"), WORDS)
def test_every_choice_is_a_one_word_swap(setting, word):
    """With the exact score in place of a network, which is the same whatever else is chosen."""
    config = toy.get_config()
    config.data.n = 16
    config.update_from_flattened_dict({setting: word} | ({"sde.name": "tabulated"} if word in TABLES else {}))
    oracle, sde = of_data.data(config).oracle, sde_of(config)
    score_fn = score_of(oracle, sde)

    def step_and_sample(x0):
        values = of_objective.objective(config, sde, oracle)(key(), score_fn, x0, of_noise.draw_times(config, sde))
        sampler = sampler_of(config, sde, of_sampling.chosen_threshold(config, sde, score_fn))
        return values, sampling.sample(key(), sampler, x0, of_sampling.grid(config, sde))

    values, drawn = jax.eval_shape(step_and_sample, jax.ShapeDtypeStruct((4, 2), np.float32))
    assert values.shape == (4,) and drawn.shape == (4, 2) and values.dtype == drawn.dtype == jnp.float32


@pytest.mark.parametrize("word", of_network.PARAMETERIZATIONS)
def test_every_parameterization_is_a_one_word_swap(word):
    config = toy.get_config()
    config.parameterization.name = word
    score = jax.eval_shape(lambda x: model_of(config, source_for(config))(x, jnp.full(4, 0.5)), np.zeros((4, 2)))
    assert score.shape == (4, 2)


def test_explicit_score_matching_needs_a_known_score():
    config = digits.get_config()
    config.objective.name = "esm"
    with pytest.raises(InputError, match="needs a known score, which only the 2-D toys have"):
        of_objective.objective(config, sdes.VE(), None)


def test_data_from_a_path_asks_for_it():
    config = digits.get_config()
    config.data.name = "folder"
    with pytest.raises(InputError, match=r"give --config.data.root=PATH"):
        of_data.data(config)


@pytest.mark.parametrize("kind", ["folder", "array"])
def test_images_are_cropped_before_they_are_resized(kind, tmp_path):
    """CelebA's recipe, 218×178 → the middle 140 → 64, in small: 22×18 → 14 → 7; without a size it ends at the crop."""
    x = np.random.default_rng(0).integers(0, 256, (5, 22, 18, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    for i, image in enumerate(x):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    config = get_config()
    config.data.update(name=kind, root=str(tmp_path / "x.npy" if kind == "array" else tmp_path), crop=14, holdout=1.0)
    whole = read_all(of_data.data(config))
    assert {image.tobytes() for image in whole} == {image.tobytes() for image in x[:, 4:18, 2:16]}
    config.data.size = 7
    small = read_all(of_data.data(config))
    np.testing.assert_array_equal(small, datasets.resize(whole, 7))
    config.data.crop = 19
    with pytest.raises(InputError, match="a crop of 19x19 doesn't fit images of 22x18"):
        of_data.data(config)


def read_all(data):
    """Every image, the training ones first."""
    return np.concatenate([source.batch(np.arange(len(source)))["x"] for source in (data.train, data.held_out)])


def test_an_unconditional_model_is_given_no_labels():
    config = digits.get_config()
    config.data.labels = False
    assert "label" not in of_data.data(config).train.batch(np.arange(2))
    assert of_data.data(config).train.num_classes == 0


def test_explicit_matching_of_the_exact_score_is_zero_at_every_level():
    config = toy.get_config("esm")
    oracle = of_data.data(config).oracle
    sde = sde_of(config)
    truth = score_of(oracle, sde)
    objective = of_objective.objective(config, sde, oracle)
    x0 = oracle.sample(key(), 64)
    values = objective(key(1), truth, x0, of_noise.draw_times(config, sde))
    np.testing.assert_allclose(values, 0, atol=1e-9)
    off = objective(
        key(1),
        lambda x, t: truth(x, t) + 1 / arrays.expand_right(sde.sigma(t), x),
        x0,
        of_noise.draw_times(config, sde),
    )
    np.testing.assert_allclose(off, 1.0, rtol=1e-4)  # ½‖σ·error‖² = ½·D with D = 2
