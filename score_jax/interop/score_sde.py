"""Checkpoints of `yang-song/score_sde_pytorch`: DDPM, DDPM++ and NCSN++ on VE, VP and sub-VP.

A file is a dict {optimizer, model, ema, step}. `model` is a state dict whose layers are numbered in the order of their
construction; `ema` has the averages, shadow_params, as a list without names, in the order of the model's trained
parameters, which are all of its arrays but the table of sigmas and the frequencies of Fourier features. A bare state
dict will do as well. What the network is, and of which process, is in the source's config, which is needed: it is a
Python file there, whose `get_config().to_json_best_effort()` is one that can be given here.

| config             | score                | the network is told          |
|--------------------|----------------------|------------------------------|
| VP, sub-VP         | −F/σ(t)              | 999 t                        |
| VP, discrete       | −F/√(1 − ᾱ_i)        | i, as in DDPM                |
| VE                 | F                    | σ(t)                         |
| VE, discrete       | F                    | index of σ, 0 at the largest |

Song et al. 2021, appendices C and H.
"""

import os
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from score_jax import networks, parameterization
from score_jax.conditions import KnotIndex, LevelIndex, NoiseLevel, Timestep
from score_jax.interop import files
from score_jax.interop.files import Contents
from score_jax.interop.kind import CheckpointKind
from score_jax.interop.mapping import Tensors, named, read_array
from score_jax.interop.settings import MOST_LEVELS, Config, Images, choice, flag, number, side, whole, wholes
from score_jax.interop.torch_files import Tensor
from score_jax.interop.unet_names import score_sde_entries
from score_jax.networks import DivideBySigma, GaussianFourier, ResidualUNet, positional
from score_jax.parameterization import Parameterization
from score_jax.score import Condition
from score_jax.sde import SDE, VE, VP, SubVP, Tabulated
from score_jax.types import InputError

_SPARE = r"sigmas"  # a table that most networks have no use for
_UNTRAINED = ("sigmas", "all_modules.0.W")
_ONLY = {  # settings of which one value is read
    "model.normalization": "GroupNorm",
    "model.nonlinearity": "swish",
    "model.conditional": True,
    "model.conv_size": 3,
}
_KNOWN = (
    *_ONLY,
    *("data.image_size", "data.num_channels", "data.centered", "training.sde", "training.continuous"),
    *("model.name", "model.nf", "model.ch_mult", "model.num_res_blocks", "model.attn_resolutions", "model.dropout"),
    *("model.resamp_with_conv", "model.resblock_type", "model.fir", "model.fir_kernel", "model.skip_rescale"),
    *("model.progressive", "model.progressive_input", "model.progressive_combine", "model.embedding_type"),
    *("model.scale_by_sigma", "model.num_scales"),
    *("model.sigma_min", "model.sigma_max", "model.beta_min", "model.beta_max"),
    *("sampling.method", "sampling.predictor", "sampling.corrector", "sampling.probability_flow"),
    *("sampling.n_steps_each", "sampling.noise_removal", "sampling.snr"),
    # What it was trained on and how, initial values, and what other networks of that code have
    *("data.dataset", "data.category", "data.tfrecords_path", "data.root", "data.channels"),
    *("data.random_flip", "data.uniform_dequantization"),
    *("model.ema_rate", "model.init_scale", "model.fourier_scale", "model.attention_type", "model.interpolation"),
    "model.sigma_begin",  # of NCSN, and beside sigma_max in a config of NCSN++
    *(f"training.{key}" for key in ("batch_size", "n_iters", "n_jitted_steps", "snapshot_freq", "log_freq")),
    *(f"training.{key}" for key in ("eval_freq", "snapshot_freq_for_preemption", "snapshot_sampling", "loss")),
    *(f"training.{key}" for key in ("likelihood_weighting", "reduce_mean", "continuouse")),  # as one of them spells it
    *("eval.*", "optim.*", "seed", "device"),
)


def _read(path: str | os.PathLike[str], use_ema: bool) -> Contents:
    """Returns the weights of a file, averages where there are some."""
    contents = files.read(path)
    return contents._replace(value=_state_dict(contents.value, use_ema))


def _state_dict(contents: Any, use_ema: bool) -> dict[str, Tensor | np.ndarray]:
    parts = contents if isinstance(contents, dict) else {}
    state = named(parts.get("model", contents), "state dict")
    return state | _averages(parts["ema"], state) if use_ema and "ema" in parts else state


def _averages(ema: Any, state: Tensors) -> dict[str, Tensor | np.ndarray]:
    shadows = ema.get("shadow_params") if isinstance(ema, dict) else None
    if not isinstance(shadows, list) or not all(isinstance(shadow, Tensor | np.ndarray) for shadow in shadows):
        raise InputError("has no list of tensors ema.shadow_params: load the raw weights with use_ema=False")
    trained = [name for name in state if name not in _UNTRAINED]
    if len(shadows) != len(trained):
        raise InputError(
            f"has {len(shadows)} moving averages (ema.shadow_params) of {len(trained)} parameters: "
            "load the raw weights with use_ema=False"
        )
    for name, shadow in zip(trained, shadows, strict=True):
        if tuple(shadow.shape) != tuple(state[name].shape):
            expected = tuple(state[name].shape)
            raise InputError(f"has a moving average of shape {tuple(shadow.shape)} for {name}, expected {expected}")
    return dict(zip(trained, shadows, strict=True))


def _network(tensors: Tensors, config: Config) -> ResidualUNet:
    """Returns the network that the config describes."""
    for key, only in _ONLY.items():
        choice(config, key, [only], only)
    kind = choice(config, "model.name", _FAMILIES)
    multipliers = wholes(config, "model.ch_mult")
    size, resolutions = side(config, "data.image_size"), wholes(config, "model.attn_resolutions")
    return _FAMILIES[kind](
        config,
        channels=whole(config, "model.nf", most=4096),
        multipliers=multipliers,
        blocks=whole(config, "model.num_res_blocks", most=64),
        attention=tuple(i for i in range(len(multipliers)) if size >> i in resolutions),
        rescale=not flag(config, "data.centered"),
        output_scale=_output_scale(tensors, config),
        dropout=number(config, "model.dropout", 0.0, low=0.0),
    )


def _resampling(config: Config) -> str:
    return "conv" if flag(config, "model.resamp_with_conv", True) else "plain"


def _ddpm(config: Config, **fields) -> ResidualUNet:
    return networks.ddpm(**fields, attention_up="last", resampling=_resampling(config))


def _ncsnpp(config: Config, *, channels: int, **fields) -> ResidualUNet:
    inside = choice(config, "model.resblock_type", ["biggan", "ddpm"]) == "biggan"
    paths = {"none": "none", "input_skip": "skip", "output_skip": "skip", "residual": "residual"}
    combine = {"sum": "sum", "cat": "concat"}
    into = choice(config, "model.progressive_input", ["none", "input_skip", "residual"])
    out = choice(config, "model.progressive", ["none", "output_skip", "residual"])
    return networks.ddpmpp(
        channels,
        **fields,
        resampling="block" if inside else _resampling(config),
        fir=tuple(map(float, wholes(config, "model.fir_kernel"))) if flag(config, "model.fir") else None,
        skip_scale=0.5**0.5 if flag(config, "model.skip_rescale") else 1.0,
        input_path=paths[into],
        input_combine=combine[choice(config, "model.progressive_combine", combine, "sum")],
        output_path=paths[out],
        embedding=GaussianFourier(2 * channels, 16.0, jnp.log) if _is_fourier(config) else positional(channels),
    )


_FAMILIES = {"ddpm": _ddpm, "ncsnpp": _ncsnpp}


def _is_fourier(config: Config) -> bool:
    found = choice(config, "model.embedding_type", ["fourier", "positional"], "positional")
    return found == "fourier" and config["model"]["name"] == "ncsnpp"


def _output_scale(tensors: Tensors, config: Config) -> DivideBySigma | None:
    if not flag(config, "model.scale_by_sigma"):
        return None
    if _is_fourier(config):
        return DivideBySigma()
    if "sigmas" not in tensors:
        raise InputError("lacks sigmas, the table of noise levels that model.scale_by_sigma divides by")
    sigmas = np.asarray(read_array("sigmas", tensors["sigmas"]))
    counted = sigmas.ndim == 1 and 1 <= len(sigmas) <= MOST_LEVELS
    if not counted or not jnp.issubdtype(sigmas.dtype, jnp.floating) or not ((sigmas > 0) & np.isfinite(sigmas)).all():
        raise InputError(f"sigmas are not noise levels: expected a vector of 1 to {MOST_LEVELS} positive numbers")
    return DivideBySigma(tuple(sigmas.tolist()))


def _examples(tensors: Tensors, config: Config) -> Images:
    """Returns what the network is given."""
    del tensors
    height = side(config, "data.image_size")
    return Images((height, height), whole(config, "data.num_channels", 3))


def _score(module: ResidualUNet, config: Config) -> tuple[SDE, Parameterization, Condition]:
    """Returns SDE, parameterization and condition of the process that the config names."""
    del module
    discrete = "" if flag(config, "training.continuous") else " discrete"
    return _PROCESSES[choice(config, "training.sde", ("vesde", "vpsde", "subvpsde")) + discrete](config)


def _ve(config: Config) -> VE:
    return VE(number(config, "model.sigma_min"), number(config, "model.sigma_max"))


def _betas(config: Config) -> tuple[float, float]:
    return number(config, "model.beta_min"), number(config, "model.beta_max")


def _table(config: Config) -> Tabulated:
    n = whole(config, "model.num_scales")
    low, high = _betas(config)
    return Tabulated(np.cumprod(1 - np.linspace(low / n, high / n, n)), t_min=1 / n)


def _levels(config: Config) -> LevelIndex:
    sde, n = _ve(config), whole(config, "model.num_scales", low=2)
    return LevelIndex(tuple(np.geomspace(sde.sigma_max, sde.sigma_min, n).tolist()))


def _sub_vp(config: Config) -> tuple[SDE, Parameterization, Condition]:
    return SubVP(*_betas(config)), parameterization.AsGiven(parameterization.Eps()), Timestep()


_PROCESSES: dict[str, Callable[[Config], tuple[SDE, Parameterization, Condition]]] = {
    "vesde": lambda config: (_ve(config), parameterization.Score(), NoiseLevel()),
    "vesde discrete": lambda config: (_ve(config), parameterization.Score(), _levels(config)),
    "vpsde": lambda config: (VP(*_betas(config)), parameterization.Eps(), Timestep()),
    "vpsde discrete": lambda config: (
        _table(config),
        parameterization.Eps(),
        KnotIndex(whole(config, "model.num_scales")),
    ),
    "subvpsde": _sub_vp,
    "subvpsde discrete": _sub_vp,  # the released code knows sub-VP in continuous time only
}


SCORE_SDE_KIND = CheckpointKind(_read, _network, _examples, score_sde_entries, _score, _KNOWN, spare=_SPARE)
