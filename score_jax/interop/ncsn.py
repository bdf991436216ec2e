"""Checkpoints of `ermongroup/ncsn` and `ermongroup/ncsnv2`.

A file is a list [state_dict, optimizer] (NCSN) or [state_dict, optimizer, epoch, step, ema] (NCSNv2), where ema has the
averages of parameters and neither the "module." in front of names nor the table of sigmas. A bare state dict will do as
well. The network's features, channels, levels and depth are those of the tensors; what cannot be seen in them, whether
the data were rescaled and NCSN's noise levels, is as published unless the source's config says otherwise.
"""

import math
import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from score_jax import parameterization
from score_jax.conditions import LevelIndex
from score_jax.interop import files
from score_jax.interop.files import Contents
from score_jax.interop.kind import CheckpointKind
from score_jax.interop.mapping import Tensors, named, read_array
from score_jax.interop.ncsn_names import ncsn_entries
from score_jax.interop.settings import MOST_LEVELS, Config, Images, agree, choice, flag, number, shown, size, value
from score_jax.interop.torch_files import Tensor
from score_jax.networks import NCSN, NCSNv2
from score_jax.parameterization import Parameterization
from score_jax.pickles import printable
from score_jax.sde import SDE, VE
from score_jax.types import InputError

_MOST_FEATURES = 4096  # of networks that anyone has; more is damage
_KNOWN = (
    *("data.channels", "data.image_size", "data.logit_transform", "data.rescaled"),
    *("model.name", "model.ngf", "model.num_classes", "model.normalization", "model.nonlinearity", "model.spec_norm"),
    *("model.sigma_begin", "model.sigma_end", "model.sigma_dist"),  # NCSNv2's are in its table
    *("sampling.step_lr", "sampling.n_steps_each", "sampling.denoise", "sampling.data_init"),
    # What it was trained on and how, and what else its commands did
    *("data.dataset", "data.category", "data.random_flip", "data.num_workers"),
    *("data.uniform_dequantization", "data.gaussian_dequantization"),
    *("model.ema", "model.ema_rate", "model.batch_norm", "optim.*", "test.*", "fast_fid.*", "device", "seed"),
    *(f"training.{key}" for key in ("batch_size", "n_epochs", "n_iters", "ngpu", "snapshot_freq", "snapshot_sampling")),
    *(f"training.{key}" for key in ("algo", "anneal_power", "n_particles", "noise_std", "log_all_sigmas")),
    *(f"sampling.{key}" for key in ("batch_size", "ckpt_id", "final_only", "fid", "num_samples4fid", "inpainting")),
    *("sampling.interpolation", "sampling.n_interpolations"),
)


def _read(path: str | os.PathLike[str], use_ema: bool) -> Contents:
    """Returns the weights of a file, averages where there are some."""
    contents = files.read(path)
    return contents._replace(value=_state_dict(contents.value, use_ema))


def _state_dict(contents: Any, use_ema: bool) -> dict[str, Tensor | np.ndarray]:
    states = contents if isinstance(contents, list | tuple) else [contents]
    state = named(states[0] if states else None, "state dict")
    if not use_ema or len(states) < 5:
        return state
    ema = named(states[4], "moving average")
    without = state.keys() - ema.keys() - {"sigmas"}
    if without:
        raise InputError(f"has no moving average of {printable(min(without))}: load the raw weights with use_ema=False")
    return state | ema


def _ncsn_module(tensors: Tensors, config: Config) -> NCSN:
    """Returns the NCSN that the tensors belong to."""
    if "sigmas" in tensors:
        raise InputError('has a table of sigmas, as NCSNv2 has: give source="ncsnv2" (--source=ncsnv2)')
    tables = [(name, 2, 0) for name in tensors if name.endswith("embed.weight")]
    num_levels = _vote("levels", tensors, tables, MOST_LEVELS) if tables else None
    if num_levels is not None:
        agree(config, "model.num_classes", num_levels)
    return NCSN(*_width(tensors, config), num_levels, _depth(tensors), _rescale(config))


def _ncsnv2_module(tensors: Tensors, config: Config) -> NCSNv2:
    """Returns the NCSNv2 that the tensors belong to."""
    if "sigmas" not in tensors:
        raise InputError(
            'lacks sigmas, the table of noise levels; an NCSN has none: give source="ncsn" (--source=ncsn)'
        )
    agree(config, "model.num_classes", _vote("levels", tensors, [("sigmas", 1, 0)], MOST_LEVELS))
    sigmas = np.asarray(read_array("sigmas", tensors["sigmas"]))
    if not jnp.issubdtype(sigmas.dtype, jnp.floating) or not (sigmas > 0).all() or not np.isfinite(sigmas).all():
        raise InputError("sigmas are not noise levels: expected positive numbers")
    for key, found in [("model.sigma_begin", sigmas[0]), ("model.sigma_end", sigmas[-1])]:
        if not math.isclose(number(config, key, float(found)), found, rel_tol=1e-3):
            raise InputError(f"has levels from {sigmas[0]:.5g} to {sigmas[-1]:.5g}, unlike the config's {key}")
    width = _width(tensors, config)
    return NCSNv2(*width, tuple(sigmas), _depth(tensors), _rescale(config))


def _examples(tensors: Tensors, config: Config) -> Images:
    """Returns what the network is given."""
    return Images(size(config, "data.image_size", None), _width(tensors, config)[1])


def _width(tensors: Tensors, config: Config) -> tuple[int, int]:
    outer = [("begin_conv.weight", 4, 0), ("begin_conv.bias", 1, 0), ("end_conv.weight", 4, 1)]
    inner = [("begin_conv.weight", 4, 1), ("end_conv.bias", 1, 0), ("end_conv.weight", 4, 0)]
    features = _vote("features", tensors, outer, _MOST_FEATURES)
    channels = _vote("channels", tensors, inner, _MOST_FEATURES)
    agree(config, "model.ngf", features)
    agree(config, "data.channels", channels)
    return features, channels


def _vote(what: str, tensors: Tensors, places: Sequence[tuple[str, int, int]], most: int) -> int:
    """Returns the size that most of the `(name, number of axes, axis)` have: the odd one out is reported later."""
    shapes = [(tensors[name].shape, ndim, axis) for name, ndim, axis in places if name in tensors]
    sizes = [shape[axis] for shape, ndim, axis in shapes if len(shape) == ndim]
    if not sizes:
        raise InputError(f"lacks a {places[0][0]} of {places[0][1]} axes: not a checkpoint of NCSN or NCSNv2")
    if not 1 <= statistics.mode(sizes) <= most:
        raise InputError(f"{places[0][0]} means {statistics.mode(sizes)} {what}, expected 1 to {most}: damaged")
    return statistics.mode(sizes)


def _depth(tensors: Tensors) -> str:
    parts = {name.split(".")[0] for name in tensors}
    return "deepest" if parts >= {"res31", "refine31"} else "deeper" if parts >= {"res5", "refine5"} else "base"


def _rescale(config: Config) -> bool:
    for name, only in [("nonlinearity", "elu"), ("normalization", "InstanceNorm++"), ("spec_norm", False)]:
        if value(config, f"model.{name}", only) != only:
            raise InputError(
                f"the config's model.{name} is {shown(value(config, f'model.{name}'))}; only {only} is read"
            )
    return not (flag(config, "data.logit_transform", False) or flag(config, "data.rescaled", False))


def _config_of(module: NCSN | NCSNv2) -> Config:
    """Returns what the tensors do not show, in the source's terms."""
    return {"data": {"rescaled": not module.rescale}}


def _ncsn_score(module: NCSN, config: Config) -> tuple[SDE, Parameterization, LevelIndex]:
    """Returns SDE, parameterization and condition with which an NCSN is a score function at every level's time."""
    if module.num_levels is None:
        advice = "use its score with sampling.langevin: module.apply(variables, x, cond), any cond"
        raise InputError(f"is NCSN's single-noise baseline, which knows no process; {advice}")
    return _on_levels(_published_levels(module.num_levels, config))


_SPACINGS: dict[str, Callable[..., np.ndarray]] = {"geometric": np.geomspace, "uniform": np.linspace}


def _published_levels(num_levels: int, config: Config) -> np.ndarray:
    kind = choice(config, "model.sigma_dist", _SPACINGS, "geometric")
    begin, end = number(config, "model.sigma_begin", 1.0), number(config, "model.sigma_end", 0.01)
    if not end < begin:
        raise InputError(f"the config's sigma_begin is {begin} and sigma_end {end}: expected positive, descending")
    return _SPACINGS[kind](begin, end, num_levels).astype(np.float32)


def _ncsnv2_score(module: NCSNv2, config: Config) -> tuple[SDE, Parameterization, LevelIndex]:
    """Returns SDE, parameterization and condition with which an NCSNv2 is a score function at any time."""
    del config
    return _on_levels(np.asarray(module.sigmas))


def _on_levels(sigmas: np.ndarray) -> tuple[SDE, Parameterization, LevelIndex]:
    levels = LevelIndex(tuple(sigmas.tolist()))
    return VE(levels.sigmas[-1], levels.sigmas[0]), parameterization.Score(), levels


_SHARED: dict[str, Any] = {
    "read": _read,
    "examples": _examples,
    "entries": lambda module, channels: ncsn_entries(module),
    "known": _KNOWN,
    "config": _config_of,
}
NCSN_KIND = CheckpointKind(module=_ncsn_module, score=_ncsn_score, **_SHARED)
NCSNV2_KIND = CheckpointKind(module=_ncsnv2_module, score=_ncsnv2_score, **_SHARED)
