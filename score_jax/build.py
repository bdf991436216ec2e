"""From a config to objects: the one file that knows names, and the last that sees a ConfigDict.

Each function takes the whole config (`configs/base.py` lists and explains it) and returns an object of the package.
A name is looked up in one table and given the options of the config's section of that name, so adding an SDE, a
network, … to the command line is a row here and a section there.
"""

import importlib.util
import logging
import math
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from score_jax import (
    arrays,
    kernels,
    likelihood,
    losses,
    memory,
    networks,
    noise_levels,
    parameterization,
    sampling,
    training,
)
from score_jax import data as datasets
from score_jax import sde as sdes
from score_jax.data import Source, statistics, toy
from score_jax.distributions import GaussianMixture, score_of
from score_jax.interop.conditions import KnotIndex, LevelIndex, NoiseLevel, Timestep
from score_jax.kernels import Kernel
from score_jax.likelihood import VariationalBound
from score_jax.losses import times, weighting
from score_jax.losses.variational import Decoder, gaussian_decoder, grey_level_decoder
from score_jax.networks.attention import IMPLEMENTATIONS
from score_jax.parameterization import Parameterization
from score_jax.sampling import Sampler, grids
from score_jax.sampling.sde import StepVariance
from score_jax.score import Condition, ScoreModel, ScoreWithVariance
from score_jax.sde import SDE
from score_jax.settings import check_numbers
from score_jax.training.logging import LoggerFactory, tensorboard, wandb
from score_jax.types import Array, InputError, Key, ScoreFn

_log = logging.getLogger(__name__)

T = TypeVar("T")
Start: TypeAlias = Callable[[Key, tuple[int, ...]], Array]


def _choose(section: str, name: str, table: Mapping[str, T]) -> T:
    if name not in table:
        raise InputError(f"{section} {name!r} does not exist: choose one of {', '.join(table)}")
    return table[name]


def _options(section: ConfigDict) -> dict[str, Any]:
    """The options of the section's chosen name, lists as tuples: modules must be hashable."""
    options = section.get(section.name, {})
    return {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in options.items()}


def check(config: ConfigDict) -> None:
    """Refuses numbers and combinations that would otherwise be found out later, or when the training is over."""
    check_numbers(config)
    value_range(config)
    loggers(config)
    optimizer, steps = config.optimizer, config.training.steps
    if optimizer.schedule == "cosine" and optimizer.warmup_steps >= steps:
        raise InputError(
            f"optimizer.warmup_steps {optimizer.warmup_steps} leaves nothing of training.steps {steps} for the cosine: "
            "set --config.optimizer.warmup_steps=-1 for a fifth of the steps, or more steps"
        )
    sampler, evaluation = config.sampler, config.evaluation
    if evaluation.bound_n and (sampler.name != "ancestral" or sampler.corrector):
        raise InputError(
            f"the variational bound is of ancestral steps, not of {sampler.name}{' corrected' * sampler.corrector}: "
            "set --config.sampler.name=ancestral --config.sampler.corrector=False, or --config.evaluation.bound_n=0"
        )


def derived(config: ConfigDict, source: Source, *, kept: Mapping[str, Any] | None = None) -> ConfigDict:
    """Returns the config with numbers in place of what is to follow from the data and the length of the training.

    `sde.ve.sigma_max` and `sde.edm.sigma_max` of 0 become `statistics.largest_sigma`; `optimizer.warmup_steps` of −1 a
    fifth of the steps, at most 100.

    Args:
      config: settings.
      source: the training data.
      kept: the config of the run that goes on: its numbers stay, whatever its data and length have become.

    Raises:
      InputError: of data too large for any level.
    """
    config, process = config.copy_and_resolve_references(), config.sde.name
    section = config.sde.get(process, {})
    if section.get("sigma_max") == 0:
        before = kept["sde"][process]["sigma_max"] if kept else 0  # also of a run of another process
        section.sigma_max = before or _largest_sigma(config, source)
    if config.optimizer.warmup_steps < 0:
        steps = min(100, config.training.steps // 5)
        config.optimizer.warmup_steps = kept["optimizer"]["warmup_steps"] if kept else steps
    return config


def _largest_sigma(config: ConfigDict, source: Source) -> float:
    found = statistics.largest_sigma(statistics.examples(source, value_range(config)))
    if not found < 1e15:
        raise InputError(
            f"data {config.data.name!r} are up to {found:.3g} apart, and noise as large has no square in float32: "
            "divide the data by a number"
        )
    return found


# Data


class Data(NamedTuple):
    """Training and held-out examples, and the exact density of the data where it is known."""

    train: Source
    held_out: Source
    oracle: GaussianMixture | None


def _with_test_split(reader: Callable[..., Source], **options: Any) -> tuple[Source, Source]:
    return reader(split="train", **options), reader(split="test", **options)


def _images(options: ConfigDict) -> tuple[Source, Source]:
    root = options.root or None
    split_own = partial(datasets.split, holdout=options.holdout)
    table: dict[str, Callable[[], tuple[Source, Source]]] = {
        "digits": lambda: _with_test_split(datasets.digits),
        "mnist": lambda: _with_test_split(datasets.mnist, root=root),
        "fashion_mnist": lambda: _with_test_split(datasets.fashion_mnist, root=root),
        "cifar10": lambda: _with_test_split(datasets.cifar10, root=root),
        "tfds": lambda: split_own(datasets.tfds.load(options.tfds, data_dir=root, x_key=options.tfds_feature)),
        "array": lambda: split_own(datasets.array_file(_root(options))),
        "folder": lambda: split_own(
            datasets.folder(
                _root(options),
                size=options.size or None,
                crop=options.crop or None,
                channels=options.channels,
                convert=options.convert,
                background=options.background,
                labels=options.labels,
            )
        ),
    }
    if options.name not in table:
        raise InputError(f"data {options.name!r} does not exist: choose one of {', '.join([*toy.TOYS, *table])}")
    train, held_out = table[options.name]()
    if options.name != "folder" and (options.crop or options.size):
        brought = partial(datasets.resized, size=options.size or options.crop, crop=options.crop or None)
        return brought(train), brought(held_out)
    return train, held_out


def _root(options: ConfigDict) -> str:
    if not options.root:
        raise InputError(f"data {options.name!r} is read from a path of yours: give --config.data.root=PATH")
    return options.root


def data(config: ConfigDict) -> Data:
    """Returns the data that `config.data` names; labels only where the model is to be conditional."""
    options = config.data
    if options.name in toy.TOYS:
        train, held_out = _points(options, config.seed)
        oracle = GaussianMixture(*(jnp.asarray(v) for v in toy.components(options.name)))
    else:
        (train, held_out), oracle = _images(options), None
    if options.labels and not train.num_classes:
        raise InputError(f"data {options.name!r} has no labels: set --config.data.labels=False")
    return Data(train if options.labels else datasets.unlabelled(train), held_out, oracle)


def _points(options: ConfigDict, seed: int) -> tuple[Source, Source]:
    return toy.toy(options.name, n=options.n, seed=seed), toy.toy(options.name, n=options.n, seed=seed + 1)


def value_range(config: ConfigDict) -> tuple[float, float]:
    """Returns the interval [low, high] that images are mapped onto."""
    interval = config.data.value_range
    numbers = all(isinstance(end, int | float) for end in interval)
    if len(interval) != 2 or not numbers or not interval[0] < interval[1]:
        raise InputError(f"data.value_range is two increasing numbers such as (-1.0, 1.0), got {tuple(interval)}")
    return float(interval[0]), float(interval[1])


def prepare(config: ConfigDict, source: Source) -> Callable[[Key, Array], Array]:
    """Returns `(key, stored x) -> x0`: dequantization, flips and value range."""
    options = config.data
    low, high = value_range(config)
    return partial(
        datasets.images.prepare,
        levels=source.levels,
        dequantize=options.dequantize,
        flip=options.flip,
        value_range=(low, high),
    )


# Noise, network, score


def _tabulated(n_steps: int, kind: str, terminal_snr: str) -> SDE:
    return sdes.Tabulated(sdes.ddpm_schedule(n_steps, kind, terminal_snr=terminal_snr).alphas_bar)


SDES: dict[str, Callable[..., SDE]] = {
    "ve": sdes.VE,
    "vp": sdes.VP,
    "subvp": sdes.SubVP,
    "edm": sdes.EDM,
    "cosine": sdes.Cosine,
    "flow": sdes.Flow,
    "tabulated": _tabulated,
}

PARAMETERIZATIONS: dict[str, Callable[..., Parameterization]] = {
    "score": parameterization.Score,
    "eps": parameterization.Eps,
    "eps_as_given": lambda: parameterization.AsGiven(parameterization.Eps()),
    "x0": parameterization.X0,
    "v": parameterization.V,
    "flow": parameterization.Flow,
    "edm": parameterization.EDM,
}
# Those that learn the variance of a step too, at twice the channels
LEARNED: dict[str, Callable[[], Parameterization]] = {"learned_eps": parameterization.Eps}

ACTIVATIONS = {"swish": nn.swish, "softplus": nn.softplus, "tanh": nn.tanh, "elu": nn.elu, "relu": nn.relu}
DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}  # None follows x


def _mlp(*, activation: str, **options: Any) -> nn.Module:
    return networks.MLP(activation=_choose("network.mlp.activation", activation, ACTIVATIONS), **options)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "mlp": _mlp,
    "compact_ncsn": networks.CompactNCSN,
    "unet": networks.UNet,
}
# The published networks know the noise by the index of its level: (channels, levels, **options) -> module
LEVEL_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "ncsn": lambda channels, levels, **options: networks.NCSN(channels=channels, num_levels=len(levels), **options),
    "ncsnv2": lambda channels, levels, **options: networks.NCSNv2(channels=channels, sigmas=levels, **options),
}
# The published U-Nets, which are built for what they are told of the noise: (channels, **fields) -> module
UNETS: dict[str, Callable[..., nn.Module]] = {
    "ddpm": networks.ddpm,
    "ddpmpp": networks.ddpmpp,
    "ncsnpp": networks.ncsnpp,
    "song_unet": networks.song_unet,
    "adm": networks.adm,
}


def sde(config: ConfigDict) -> SDE:
    """Returns the noising process; the data are read where a level is to follow from them and is not `derived` yet.

    Raises:
      InputError: also of one that cannot be sampled, since its data or its noise vanish or overflow at an end.
    """
    make = _choose("sde", config.sde.name, SDES)
    if config.sde.get(config.sde.name, {}).get("sigma_max") == 0:
        config = derived(config, data(config).train)
    process = make(**_options(config.sde))
    sdes.require_ends(process)
    return process


def network(config: ConfigDict, source: Source) -> nn.Module:
    """Returns the module for examples of the shape of the source's, class-conditional if it has classes."""
    options = config.network
    dtype = _choose("network.dtype", options.dtype, DTYPES)
    make = _choose("network", options.name, NETWORKS | LEVEL_NETWORKS | UNETS)
    if options.name in LEVEL_NETWORKS:
        _check_level_network(config, source)
        module = make(source.shape[-1], _trained_levels(config), dtype=dtype, **_options(options))
    else:
        classes = {"num_classes": source.num_classes, "dropout": options.dropout}
        told = _told(config) if options.name in UNETS else {}
        module = make(dtype=dtype, **classes, **told, **_doubled(config), **_attention(config), **_options(options))
    return networks.Conservative(module) if options.conservative else module


def _attention(config: ConfigDict) -> dict[str, Any]:
    """The field that says how attention is computed, of networks that have some."""
    name, implementation = config.network.name, config.network.attention_implementation
    _choose("network.attention_implementation", implementation, dict.fromkeys(IMPLEMENTATIONS))
    if implementation == "cudnn" and (config.network.conservative or config.objective.name in ("ism", "ssm")):
        what = "a conservative network" if config.network.conservative else f"objective {config.objective.name!r}"
        raise InputError(
            f"{what} needs derivatives that attention by cudnn has not: set "
            "--config.network.attention_implementation=xla"
        )
    return {"attention_implementation": implementation} if name in ("unet", *UNETS) else {}


def _doubled(config: ConfigDict) -> dict[str, Any]:
    """The field of a network that has further channels for a learned variance."""
    network, meant = config.network, config.parameterization.name
    if meant not in LEARNED:
        return {}
    if network.name not in UNETS or network.conservative:
        raise InputError(
            f"parameterization {meant!r} needs twice the channels, which {', '.join(UNETS)} have if not conservative: "
            "set --config.network.name, or --config.parameterization.name=eps"
        )
    return {"outputs": 2}


def _told(config: ConfigDict) -> dict[str, Any]:
    """The fields of a published U-Net that depend on what it is told of the noise."""
    name, told = config.network.name, config.network.condition
    channels = config.network[name].channels
    fourier = partial(networks.GaussianFourier, 2 * channels, 16.0)
    # The others embed sinusoidally what they are told, by themselves.
    positional = {"embedding": networks.positional(channels)} if name == "ncsnpp" else {}
    table: dict[str, dict[str, Any]] = {
        "c_noise": {"embedding": fourier()} if name == "ncsnpp" else {},
        "timestep": positional,
        "level": positional,
        "sigma": {"embedding": fourier(jnp.log)},
        "none": {"embedding": None},
    }
    fields = _choose("network.condition", told, table)
    if config.parameterization.name != "score" or told not in ("level", "sigma"):
        return fields | {"output_scale": None}
    return fields | {"output_scale": networks.DivideBySigma(_trained_levels(config) if told == "level" else None)}


def condition(config: ConfigDict) -> Condition | None:
    """Returns what the network is told of the noise, in place of c_noise."""
    options = config.network
    told = "level" if options.name in LEVEL_NETWORKS else options.condition
    if options.name not in UNETS and options.condition != "c_noise":
        raise InputError(f"network.condition is for {', '.join(UNETS)}; {options.name!r} has its own: leave it c_noise")
    if told == "level" and config.times.name != "discrete":
        raise InputError("network.condition 'level' is the place among levels: set --config.times.name=discrete")
    if told == "timestep" and config.sde.name == "edm":
        raise InputError(
            "network.condition 'timestep' is 999 t, and the t of sde 'edm' is σ: set it to sigma or c_noise"
        )
    table: dict[str, Callable[[], Condition | None]] = {
        "c_noise": lambda: None,
        "none": lambda: None,
        "timestep": lambda: KnotIndex(config.sde.tabulated.n_steps) if config.sde.name == "tabulated" else Timestep(),
        "level": lambda: LevelIndex(_trained_levels(config)),
        "sigma": NoiseLevel,
    }
    return _choose("network.condition", told, table)()


def _check_level_network(config: ConfigDict, source: Source) -> None:
    name = config.network.name
    if config.times.name != "discrete" or config.parameterization.name != "score":
        raise InputError(
            f"network {name!r} is the score at one of times.discrete.n levels: set --config.times.name=discrete "
            "--config.parameterization.name=score, or take compact_ncsn"
        )
    if source.num_classes or config.network.dropout:
        raise InputError(f"network {name!r} has neither labels nor dropout: set both off, or take compact_ncsn")


def _trained_levels(config: ConfigDict) -> tuple[float, ...]:
    """The noise levels of training, as numbers: they are part of a module."""
    with jax.ensure_compile_time_eval():
        return tuple(np.asarray(_levels(sde(config), config.times.discrete.n)).tolist())


def meaning(config: ConfigDict) -> Parameterization:
    """Returns what the network's output stands for."""
    name = config.parameterization.name
    kind = _choose("parameterization", name, PARAMETERIZATIONS | LEARNED)
    if name not in LEARNED:
        return kind(**_options(config.parameterization))
    process = sde(config)
    before, last = level_times(config, process)[-2:]
    return parameterization.learned(kind(), floor=process.posterior_variance(before, last))


def model(config: ConfigDict, source: Source) -> ScoreModel:
    """Returns the score function, its parameters drawn from `config.seed`.

    Raises:
      InputError: also of more parameters than there is memory to train.
    """
    module = network(config, source)
    example = jnp.zeros((1, *source.shape)), jnp.ones(1), jnp.zeros(1, jnp.int32) if source.num_classes else None
    init, key = jax.jit(module.init), jax.random.key(config.seed)
    parameters = memory.of_parameters(jax.eval_shape(init, key, *example))
    memory.require({f"the parameters of network.{config.network.name}": parameters})
    return ScoreModel(init(key, *example), sde(config), module, meaning(config), condition(config))


# Objective

# Laws of the noise, of variance 1: sigma is the standard deviation whatever the law.
NOISES: dict[str, Kernel] = {
    "gaussian": kernels.Gaussian(1.0),
    "laplace": kernels.Laplace(0.5**0.5),
    "student_t": kernels.StudentT(5.0, 0.6**0.5),
    "mixture": kernels.GaussianMixtureNoise(np.full(2, 0.5), np.zeros(2), np.array([0.5, 1.75**0.5])),
}


def _levels(sde: SDE, n: int) -> Array:
    """Returns n levels σ/α in geometric progression, descending."""
    return jnp.exp(-0.5 * jnp.linspace(sde.log_snr(sde.t_max), sde.log_snr(sde.t_min), n))


def level_times(config: ConfigDict, sde: SDE) -> Array:
    """Returns the times t_1 > … > t_N of the noise levels that training draws from.

    Raises:
      InputError: where it draws from a continuum.
    """
    table: dict[str, Callable[[], Array]] = {
        "discrete": lambda: grids.levels(sde, _levels(sde, config.times.discrete.n))[1:],
        "knots": lambda: grids.ddpm(sde)[:-1],
    }
    if config.times.name not in table:
        raise InputError(
            f"a learned variance is that of a step between levels, and times {config.times.name!r} have none: "
            "set --config.times.name=knots with --config.sde.name=tabulated, or --config.times.name=discrete"
        )
    return table[config.times.name]()


def draw_times(config: ConfigDict, sde: SDE) -> times.Times:
    """Returns how noise levels are drawn."""
    table: dict[str, Callable[..., times.Times]] = {
        "uniform": times.uniform,
        "discrete": lambda n: times.discrete(level_times(config, sde)),
        "knots": lambda: times.discrete(level_times(config, sde)),
        "lognormal": times.lognormal,
        "importance": times.importance,
    }
    return _choose("times", config.times.name, table)(**_options(config.times))


def weights(config: ConfigDict) -> weighting.Weighting:
    """Returns the weight of the noise levels."""
    table: dict[str, Callable[..., weighting.Weighting]] = {
        "sigma2": lambda: weighting.sigma2,
        "likelihood": lambda: weighting.likelihood,
        "edm": weighting.edm,
        "min_snr": weighting.min_snr,
    }
    return _choose("weighting", config.weighting.name, table)(**_options(config.weighting))


# What turns the last level into data: images of 256 grey levels on [−1, 1], or data with a density.
DECODERS: dict[str, Decoder] = {"grey_levels": grey_level_decoder(), "gaussian": gaussian_decoder}


def _check_hybrid(config: ConfigDict) -> None:
    if config.parameterization.name not in LEARNED or config.weighting.name != "sigma2":
        raise InputError(
            "objective 'hybrid' teaches a learned variance, with weights of its own: set "
            f"--config.parameterization.name={', '.join(LEARNED)} --config.weighting.name=sigma2"
        )
    stored = not config.data.dequantize and value_range(config) == (-1.0, 1.0)
    if config.objective.hybrid.decoder == "grey_levels" and not stored:
        raise InputError(
            "objective.hybrid.decoder 'grey_levels' is of images that are not dequantized, on (-1.0, 1.0): set "
            "--config.data.dequantize=False and data.value_range, or --config.objective.hybrid.decoder=gaussian"
        )


def objective(config: ConfigDict, sde: SDE, oracle: GaussianMixture | None) -> training.step.Objective:
    """Returns `(key, score_fn, x0, times) -> (B,)`, the named objective at every noise level."""
    weigh = weights(config)

    def denoising(noise, control_scale):
        options: dict[str, Any] = {"noise": _choose("objective.dsm.noise", noise, NOISES), "weighting": weigh}
        if control_scale:
            options["control"] = weighting.small_noise(control_scale)
        return lambda key, s, x0, times: losses.diffusion_loss(key, s, x0, sde, times=times, **options)

    def lifted(at_one_level):
        return lambda key, s, x0, times: losses.perturbed(at_one_level, sde, times=times, weighting=weigh)(key, s, x0)

    def implicit(exact):
        return lifted(lambda key, s, x: losses.implicit_score_matching(s, x, key=None if exact else key))

    def explicit():
        if oracle is None:
            raise InputError(
                "objective 'esm' needs a known score, which only the 2-D toys have: choose dsm, ssm or fd_ssm"
            )
        truth = score_of(oracle, sde)
        # The error s − truth is lifted as a whole and compared with zero: the truth differs from level to level.
        zero = lifted(lambda key, error, x: losses.explicit_score_matching(error, x, jnp.zeros_like))
        return lambda key, s, x0, times: zero(key, lambda x, t: s(x, t) - truth(x, t), x0, times)

    def hybrid(weight, decoder):
        _check_hybrid(config)
        options = {"weight": weight, "decoder": _choose("objective.hybrid.decoder", decoder, DECODERS)}
        options |= {"levels": level_times(config, sde)}
        return lambda key, s, x0, times: losses.hybrid_loss(key, s.with_variance, x0, sde, times=times, **options)

    table: dict[str, Callable[..., training.step.Objective]] = {
        "dsm": denoising,
        "esm": explicit,
        "ism": implicit,
        "ssm": lambda **options: lifted(partial(losses.sliced_score_matching, **options)),
        "fd_ssm": lambda **options: lifted(partial(losses.finite_difference_score_matching, **options)),
        "hybrid": hybrid,
    }
    if config.parameterization.name in LEARNED and config.objective.name != "hybrid":
        raise InputError(
            f"objective {config.objective.name!r} leaves the variance of parameterization "
            f"{config.parameterization.name!r} untaught: set --config.objective.name=hybrid"
        )
    if config.objective.name == "fd_ssm" and config.network.dtype != "float32":
        raise InputError(
            "objective 'fd_ssm' takes differences that bfloat16 rounds away: set --config.network.dtype=float32"
        )
    return _choose("objective", config.objective.name, table)(**_options(config.objective))


# Training


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Returns Adam with warm-up, clipping and weight decay."""
    options = config.optimizer.to_dict()
    clip_norm = options.pop("clip_norm") or None
    return training.optimizer(clip_norm=clip_norm, total_steps=config.training.steps, **options)


class Intervals(NamedTuple):
    """Steps between two of something: dispatches, records, checkpoints, checkpoints that are kept (None: none)."""

    dispatch: int
    log: int
    checkpoint: int
    keep: int | None


def intervals(config: ConfigDict, *, already: Collection[int] = ()) -> Intervals:
    """Returns the intervals of a training, none longer than it is.

    A dispatch makes as many updates as divide all the others, at most `training.steps_per_dispatch`.

    Args:
      config: the run's.
      already: steps of its checkpoints, from one of which it may go on: a dispatch divides these too.
    """
    options = config.training
    log, checkpoint = (min(every, options.steps) for every in (options.log_every, options.checkpoint_every))
    keep = options.keep_every if 0 < options.keep_every <= options.steps else None
    whole = math.gcd(options.steps, log, checkpoint, keep or 0, *already)
    dispatch = max(k for k in range(1, min(options.steps_per_dispatch, whole) + 1) if whole % k == 0)
    return Intervals(dispatch, log, checkpoint, keep)


def loggers(config: ConfigDict) -> list[LoggerFactory]:
    """Returns the loggers asked for beside metrics.jsonl.

    Raises:
      InputError: where one needs a package that is not installed.
    """
    for name, package, off in (("tensorboard", "tensorboardX", "False"), ("wandb", "wandb", "")):
        if config.training[name] and importlib.util.find_spec(package) is None:
            raise InputError(
                f"training.{name} needs {package}: pip install 'score-jax[{name}]', or --config.training.{name}={off}"
            )
    chosen: list[LoggerFactory] = [tensorboard] if config.training.tensorboard else []
    return [*chosen, wandb(config.training.wandb, config.to_dict())] if config.training.wandb else chosen


# Sampling


def start(config: ConfigDict, sde: SDE) -> Start:
    """Returns how samples begin: `(key, shape) -> x` at t_max."""
    low, high = value_range(config)

    def uniform(key: Key, shape: tuple[int, ...]) -> Array:
        draw = lambda k, shape, dtype: jax.random.uniform(k, shape, dtype, low, high)  # noqa: E731
        return arrays.draw(draw, key, shape)

    return _choose("sampler.start", config.sampler.start, {"prior": sde.prior_sample, "uniform": uniform})


def _own_steps(config: ConfigDict) -> int:
    """The number of score SDE's own steps, where the sampler takes them; 0 where it takes the grid's."""
    options = config.sampler
    n = options.get(options.name, {}).get("num_scales", 0)
    if n and (options.grid != "uniform" or options.steps != n or options.denoise):
        raise InputError(
            f"sampler.{options.name}.num_scales={n} is score SDE's run of {n} updates, of which the last removes the "
            f"noise: set --config.sampler.grid=uniform --config.sampler.steps={n} --config.sampler.denoise=False"
        )
    return n


def _end(config: ConfigDict, sde: SDE) -> float | None:
    """Where a grid ends, `sampler.t_end` but not before t_min; None: there."""
    with jax.ensure_compile_time_eval():
        end, low, high = (float(t) for t in (config.sampler.t_end, sde.t_min, sde.t_max))
    if end >= high:
        raise InputError(
            f"sampler.t_end is a time below t_max = {high:g} of this SDE, got {end:g}: "
            "set --config.sampler.t_end=0 to end at its t_min"
        )
    return end if end > low else None


def grid(config: ConfigDict, sde: SDE) -> Array:
    """Returns the times a sampler visits: `config.sampler.steps` steps; both ends where it makes steps of its own."""
    options = config.sampler
    n, t_end = options.steps + 1, _end(config, sde)
    if options.name == "probability_flow":
        return grids.uniform(sde, 2, t_end=t_end)
    table = {
        "levels": lambda: grids.levels(sde, _levels(sde, options.steps)),
        "uniform": lambda: grids.uniform(sde, n, t_end=t_end),
        "karras": lambda: grids.karras(sde, n, options.rho, t_end=t_end),
        "log_snr": lambda: grids.log_snr(sde, n, t_end=t_end),
        "cosine": lambda: grids.cosine(sde, n, t_end=t_end),
        "ddpm": lambda: grids.ddpm(sde, options.steps, t_end=t_end, spacing=options.spacing, offset=options.offset),
        "respaced": lambda: grids.respaced(sde, options.respacing or str(options.steps), t_end=t_end),
    }
    if _own_steps(config):
        return grids.score_sde(sde, options.steps, t_end=t_end)
    return _choose("sampler.grid", options.grid, table)()


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "annealed_langevin": sampling.annealed_langevin,
    "consistent_annealed": sampling.consistent_annealed,
    "euler_maruyama": sampling.euler_maruyama,
    "reverse_diffusion": sampling.reverse_diffusion,
    "ancestral": sampling.ancestral,
    "ddim": sampling.ddim,
    "euler": sampling.euler,
    "euler_churn": sampling.euler_churn,
    "heun": sampling.heun,
    "kdpm2": sampling.kdpm2,
    "lms": sampling.lms,
    "deis": sampling.deis,
    "dpm_solver": sampling.dpm_solver,
    "dpm_solver_pp": sampling.dpm_solver_pp,
    "unipc": sampling.unipc,
    "probability_flow": sampling.adaptive_flow,
}


def _learned_variance(config: ConfigDict, score_fn: Any) -> StepVariance | None:
    """The variance that was learned beside the score, where the sampler is to take it."""
    if _options(config.sampler).get("variance") != "learned":
        return None
    if config.parameterization.name not in LEARNED:
        raise InputError(
            f"sampler.ancestral.variance 'learned' is not in a model of parameterization "
            f"{config.parameterization.name!r}: choose posterior or transition, or train {', '.join(LEARNED)}"
        )
    return score_fn.variance


def thresholded(config: ConfigDict, sde: SDE, score_fn: ScoreFn) -> ScoreFn:
    """Returns the score function that sampling uses: its estimates of x0 kept in `data.value_range` if so wished.

    A learned variance stays as it is.
    """
    low, high = value_range(config)
    table: dict[str, Callable[[], ScoreFn]] = {
        "none": lambda: score_fn,
        "static": lambda: sampling.clipped(sde, score_fn, low=low, high=high),
        "dynamic": lambda: sampling.dynamically_thresholded(
            sde, score_fn, low=low, high=high, quantile=config.sampler.quantile
        ),
    }
    kept, variance = (
        _choose("sampler.threshold", config.sampler.threshold, table)(),
        _learned_variance(config, score_fn),
    )
    return kept if variance is None else ScoreWithVariance(kept, variance)


def bound(config: ConfigDict, sde: SDE, levels: int) -> Callable[[Key, ScoreFn, Array], VariationalBound]:
    """Returns `(key, score_fn, x0) -> VariationalBound` of the config's ancestral sampler, on its grid.

    It ends with the density of dequantized images, or with the grey levels of those stored as they are.
    """
    stored = not config.data.dequantize
    if stored and value_range(config) != (-1.0, 1.0):
        raise InputError(
            f"the bound of grey levels is of images on (-1.0, 1.0), got data.value_range {value_range(config)}: set "
            "--config.evaluation.bound_n=0"
        )
    ts = grid(config, sde)
    ts = ts[1:] if config.sampler.grid == "levels" else ts  # whose first is there twice
    decoder = grey_level_decoder(levels) if stored else gaussian_decoder

    def terms(key: Key, score_fn: ScoreFn, x0: Array) -> VariationalBound:
        variance = _learned_variance(config, score_fn) or config.sampler.ancestral.variance
        kept = thresholded(config, sde, score_fn)
        return likelihood.variational_bound(key, sde, kept, x0, ts, variance=variance, decoder=decoder)

    return terms


# Samplers whose noise is of a size of its own, ε at the smallest level
_OF_A_STEP = ("annealed_langevin", "consistent_annealed")


def with_step_size(config: ConfigDict, sde: SDE) -> ConfigDict:
    """Returns the config with the sampler's ε at the smallest level in place of 0, by the levels of its grid.

    Annealed Langevin's is NCSNv2's, technique 4; consistent annealed sampling's that of ancestral noise.
    """
    name = config.sampler.name
    if name not in _OF_A_STEP or config.sampler[name].step_size:
        return config
    config = config.copy_and_resolve_references()
    with jax.ensure_compile_time_eval():
        log_ratio, sigma_min = float(_log_ratios(config, sde).max()), float(sde.sigma(sde.t_min))
    config.sampler[name].step_size = (
        noise_levels.step_size(sigma_min, math.exp(log_ratio), config.sampler[name].n_steps)
        if name == "annealed_langevin"
        else -2 * sigma_min**2 * math.expm1(-2 * log_ratio)
    )
    return config


def _log_ratios(config: ConfigDict, sde: SDE) -> np.ndarray:
    """The logs of the ratios of neighbouring levels σ/α of the grid, above 0; of a single level one just above it."""
    ratios = 0.5 * np.diff(np.asarray(sde.log_snr(grid(config, sde)), np.float64))
    return ratios[ratios > 0] if (ratios > 0).any() else np.array([1e-3])


def check_sampling(config: ConfigDict, sde: SDE, score_fn: ScoreFn) -> None:
    """Makes and throws away what sampling needs: what is misspelt or cannot work is found out now.

    Raises:
      InputError: also of Langevin steps that diverge at every level.
    """
    config = with_step_size(config, sde)
    grid(config, sde), start(config, sde)
    sampler(config, sde, thresholded(config, sde, score_fn))
    name = config.sampler.name
    if name not in _OF_A_STEP:
        return
    step, variance = config.sampler[name].step_size, float(sde.variance(sde.t_min))
    if name == "annealed_langevin" and step >= 4 * variance:
        raise InputError(
            f"sampler.{name}.step_size {step:.3g} is {step / variance:.3g} σ² at every level of sde "
            f"{config.sde.name!r}, and steps diverge from 4 on: set --config.sampler.{name}.step_size=0, which takes "
            "the step that suits the levels"
        )
    least = -2 * variance * math.expm1(-float(_log_ratios(config, sde).min()))
    if name == "consistent_annealed" and step <= least:
        _log.warning(
            f"sampler.{name}.step_size {step:.3g} is so small that every step is DDIM's: noise is added above "
            f"{least:.3g}, and --config.sampler.{name}.step_size=0 adds that of ancestral sampling"
        )


def check_threshold(config: ConfigDict, source: Source) -> None:
    """Refuses thresholds of data that are not images, or not known to be in `data.value_range`."""
    threshold = config.sampler.threshold
    if threshold != "none" and not (source.levels and len(source.shape) == 3):
        raise InputError(
            f"sampler.threshold {threshold!r} keeps images of grey levels in data.value_range, and data "
            f"{config.data.name!r} of shape {source.shape} are none: set --config.sampler.threshold=none"
        )


def sampler(config: ConfigDict, sde: SDE, score_fn: ScoreFn) -> Sampler:
    """Returns the sampler, with its corrector if there is one; a learned variance is `score_fn.variance`."""
    config = with_step_size(config, sde)
    options, variance = config.sampler, _learned_variance(config, score_fn)
    learned = {} if variance is None else {"variance": variance}
    chosen = _choose("sampler", options.name, SAMPLERS)(sde, score_fn, **(_options(options) | learned))
    if not options.corrector:
        return chosen
    corrector = sampling.langevin_corrector(sde, score_fn, **options.langevin_corrector)
    return sampling.predictor_corrector(chosen, corrector, first=options.first)
