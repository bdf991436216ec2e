"""The network, what it is told of the noise, and what its output means: the score model."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from score_jax import adapters, networks, parameterization
from score_jax.conditioning import NoisedClassifier
from score_jax.conditions import KnotIndex, LevelIndex, NoiseLevel, Timestep
from score_jax.data import Source, augmentation
from score_jax.lab import memory, own
from score_jax.lab.build import names
from score_jax.lab.build.kinds import OWN
from score_jax.lab.build.noise import geometric_levels, level_times
from score_jax.networks.attention import IMPLEMENTATIONS
from score_jax.parameterization import Parameterization
from score_jax.score import Condition, ScoreModel, network_output
from score_jax.sde import SDE
from score_jax.types import Array, InputError, Key, Network, PyTree, is_on

Initial = Callable[..., PyTree]  # (network, key, x, cond, label) -> its first variables

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
    return networks.MLP(activation=names.choose("network.mlp.activation", activation, ACTIVATIONS), **options)


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


# Classifiers of noised data: (logits, **fields) -> module
CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {"mlp": _mlp, "encoder": networks.Encoder}


def classifies(config: ConfigDict) -> bool:
    """Whether what is trained is a classifier of noised data."""
    return bool(config.objective.name == "classification")


def classifier_network(config: ConfigDict, source: Source) -> nn.Module:
    """Returns the module of a classifier for examples like the source's, a number for each of its classes."""
    options = config.network
    make = names.choose("network, of objective 'classification',", options.name, CLASSIFIERS)
    fields = _fields_of_attention(config) if options.name != "mlp" else {}
    fields |= {"dtype": names.choose("network.dtype", options.dtype, DTYPES), "dropout": options.dropout}
    return make(logits=source.num_classes, **fields, **names.options(options))


def _check_classifier(config: ConfigDict, source: Source) -> None:
    if source.num_classes < 2:
        raise InputError(
            "objective 'classification' learns the labels of data with two classes or more: set "
            "--config.data.labels=True, with data that have some"
        )
    if config.network.conservative or config.parameterization.name in LEARNED:
        raise InputError(
            "objective 'classification' is of a plain network: set --config.network.conservative=False "
            "--config.parameterization.name=eps"
        )


def network(config: ConfigDict, sde: SDE, source: Source) -> nn.Module:
    """Returns the module for examples of the shape of the source's, class-conditional if it has classes."""
    options = config.network
    if options.name == "encoder":
        raise InputError(
            "network 'encoder' is a classifier's: set --config.objective.name=classification, or take unet"
        )
    dtype = names.choose("network.dtype", options.dtype, DTYPES)
    make = names.choose("network", options.name, NETWORKS | LEVEL_NETWORKS | UNETS)
    if options.name in LEVEL_NETWORKS:
        _check_level_network(config, source)
        module = make(source.shape[-1], _trained_levels(config, sde), dtype=dtype, **names.options(options))
    else:
        fields = {"num_classes": source.num_classes, "dropout": options.dropout}
        fields |= _fields_of_condition(config, sde) if options.name in ("unet", *UNETS) else {}
        fields |= _fields_of_variance(config) | _fields_of_attention(config) | _fields_of_augmentation(config)
        module = make(dtype=dtype, **fields, **names.options(options))
    return networks.Conservative(module) if options.conservative else module


def _fields_of_attention(config: ConfigDict) -> dict[str, Any]:
    """The field that says how attention is computed, of networks that have some."""
    name, implementation = config.network.name, config.network.attention_implementation
    names.choose("network.attention_implementation", implementation, dict.fromkeys(IMPLEMENTATIONS))
    return {"attention_implementation": implementation} if name in ("unet", "encoder", *UNETS) else {}


def _fields_of_variance(config: ConfigDict) -> dict[str, Any]:
    """The field of a network that has further channels for a learned variance."""
    network, kind = config.network, config.parameterization.name
    if kind not in LEARNED:
        return {}
    if network.name not in UNETS or network.conservative:
        raise InputError(
            f"parameterization {kind!r} needs twice the channels, which {', '.join(UNETS)} have if not conservative: "
            "set --config.network.name, or --config.parameterization.name=eps"
        )
    return {"outputs": 2}


def _fields_of_augmentation(config: ConfigDict) -> dict[str, Any]:
    """The field of a network that is told how its examples were augmented."""
    told = is_on(config.data.augment) and config.network.name in ("unet", *UNETS)
    return {"augmentation": augmentation.TOLD} if told else {}


def _require_told(config: ConfigDict, module: Any) -> None:
    """Refuses augmentation of networks that can't be told of it: it would leak into samples."""
    inner = getattr(module, "module", module)  # of an adapter
    inner = getattr(inner, "backbone", inner)
    if is_on(config.data.augment) and getattr(inner, "augmentation", 0) != augmentation.TOLD:
        raise InputError(
            f"network {config.network.name!r} can't be told of data.augment, which would be in its samples: take one "
            f"of unet, {', '.join(UNETS)}, or one of your own whose `augmentation` is {augmentation.TOLD}, or set "
            "--config.data.augment=0"
        )


def _fields_of_condition(config: ConfigDict, sde: SDE) -> dict[str, Any]:
    """The fields of a U-Net that depend on what it is told of the noise."""
    name, condition = config.network.name, config.network.condition
    if name == "unet":
        return {"embedding": None} if condition == "none" else {}
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
    fields = names.choose("network.condition", condition, table)
    if config.parameterization.name != "score" or condition not in ("level", "sigma"):
        return fields | {"output_scale": None}
    levels = _trained_levels(config, sde) if condition == "level" else None
    return fields | {"output_scale": networks.DivideBySigma(levels)}


def condition(config: ConfigDict, sde: SDE) -> Condition | None:
    """Returns what the network is told of the noise, in place of c_noise."""
    options = config.network
    chosen = "level" if options.name in LEVEL_NETWORKS else options.condition
    kept = ("c_noise", "none") if options.name == "unet" else ("c_noise",)
    if options.name not in UNETS and not own.is_own(options.name) and options.condition not in kept:
        raise InputError(
            f"network.condition is for {', '.join(UNETS)}; {options.name!r} has its own: leave it {' or '.join(kept)}"
        )
    if chosen == "level" and config.times.name != "discrete":
        raise InputError("network.condition 'level' is the place among levels: set --config.times.name=discrete")
    if chosen == "timestep" and config.sde.name == "edm":
        raise InputError(
            "network.condition 'timestep' is 999 t, and the t of sde 'edm' is σ: set it to sigma or c_noise"
        )
    table: dict[str, Callable[[], Condition | None]] = {
        "c_noise": lambda: None,
        "none": lambda: None,
        "timestep": lambda: KnotIndex(config.sde.tabulated.n_steps) if config.sde.name == "tabulated" else Timestep(),
        "level": lambda: LevelIndex(_trained_levels(config, sde)),
        "sigma": NoiseLevel,
    }
    return names.choose("network.condition", chosen, table)()


def _check_level_network(config: ConfigDict, source: Source) -> None:
    name = config.network.name
    if config.times.name != "discrete" or config.parameterization.name != "score":
        raise InputError(
            f"network {name!r} is the score at one of times.discrete.n levels: set --config.times.name=discrete "
            "--config.parameterization.name=score, or take compact_ncsn"
        )
    if source.num_classes or config.network.dropout:
        raise InputError(f"network {name!r} has neither labels nor dropout: set both off, or take compact_ncsn")


def _trained_levels(config: ConfigDict, sde: SDE) -> tuple[float, ...]:
    """The noise levels of training, as numbers: they are part of a module."""
    with jax.ensure_compile_time_eval():
        return tuple(np.asarray(geometric_levels(sde, config.times.discrete.n)).tolist())


def output(config: ConfigDict, sde: SDE) -> Parameterization:
    """Returns what the network's output stands for."""
    name = config.parameterization.name
    if name not in LEARNED:
        rows = PARAMETERIZATIONS | LEARNED
        return names.built("parameterization", config.parameterization, rows, OWN["parameterization"])
    before, last = level_times(config, sde)[-2:]
    return parameterization.learned(LEARNED[name](), floor=sde.posterior_variance(before, last))


def model(
    config: ConfigDict,
    sde: SDE,
    source: Source,
    *,
    network: Any = None,
    parameterization: Any = None,
    initial: Initial | None = None,
    parts: int = 1,
) -> Any:
    """Returns the `ScoreModel`, or the `NoisedClassifier`, its parameters drawn from `config.seed`.

    Args:
      config: settings.
      sde: the noising process.
      source: examples of the shape of data, with the model's classes.
      network: in place of the config's: a Linen or NNX module, or `adapters.plain`.
      parameterization: in place of the config's.
      initial: in place of parameters that are drawn.
      parts: that the state of a training is cut into.

    Raises:
      InputError: also of more parameters than there is memory to train.
    """
    key = jax.random.key(config.seed)
    if network is not None or own.is_own(config.network.name):
        _require_no_options_of_others(config)
    if classifies(config):
        _check_classifier(config, source)
    module = _network(config, sde, source, key) if network is None else network
    _require_told(config, module)
    apply = _adapted(module)
    apply = adapters.uncertain(apply) if config.weighting.learned else apply
    told = source.num_classes and not classifies(config)
    example = jnp.zeros((1, *source.shape)), jnp.ones(1), jnp.zeros(1, jnp.int32) if told else None
    stands_for = output(config, sde) if parameterization is None else parameterization
    first = partial(_first_variables, config, parts) if initial is None else initial
    made_of = (first(apply, key, *example), sde, apply, stands_for, condition(config, sde))
    if not classifies(config):
        return ScoreModel(*made_of)
    made = NoisedClassifier(*made_of)
    _require_logits(made, example[0], source.num_classes)
    return made


def _require_logits(made: NoisedClassifier, x: Array, classes: int) -> None:
    found = jax.eval_shape(network_output, made, x, jnp.asarray(made.sde.t_max)).shape
    if found != (1, classes):
        raise InputError(
            f"the network of objective 'classification' must return a number for each of {classes} classes, "
            f"{(1, classes)} of one example, got shape {found}"
        )


def _require_no_options_of_others(config: ConfigDict) -> None:
    """Refuses what is done to the networks of the settings alone."""
    for name, off in (("conservative", False), ("dtype", "float32")):
        if config.network[name] != off:
            raise InputError(
                f"network.{name} is of the networks of the settings, not of your own: leave it {off}, and "
                "build it into your network"
            )


def _network(config: ConfigDict, sde: SDE, source: Source, key: Key) -> Any:
    """The config's module, or the user's own, which gets the shape of an example, classes and rngs where it asks.

    A classifier asks for its number of `logits`, a score network for `num_classes`.
    """
    name = config.network.name
    if not own.is_own(name):
        return classifier_network(config, source) if classifies(config) else network(config, sde, source)
    from flax import nnx

    given: dict[str, Any] = {"shape": source.shape, "rngs": nnx.Rngs(key, params=key)}
    given |= {"logits" if classifies(config) else "num_classes": source.num_classes, "dropout": config.network.dropout}
    return own.made("network.name", name, OWN["network"], names.options(config.network), **given)


def _adapted(module: Any) -> Network:
    if isinstance(module, nn.Module):
        return adapters.linen(module)
    return adapters.nnx(module) if adapters.is_nnx(module) else module


def _first_variables(config: ConfigDict, parts: int, apply: Network, key: Key, *example: Any) -> PyTree:
    parameters = memory.of_parameters(jax.eval_shape(apply.init, key, *example), parts)
    memory.require({f"the parameters of network.{config.network.name}": parameters})
    traced = isinstance(key, jax.core.Tracer)  # by whom only shapes are asked for
    return apply.init(key, *example) if traced else _INIT(apply, key, *example)


# One program for all seeds. It runs once, and at XLA's second level takes half as long to compile for the same numbers.
_INIT = jax.jit(
    lambda apply, key, *example: apply.init(key, *example),
    static_argnums=0,
    compiler_options={"xla_backend_optimization_level": 1},
)
