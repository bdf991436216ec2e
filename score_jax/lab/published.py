"""Samples of published checkpoints, drawn as their authors drew them, or with any other sampler.

| source            | sampler                                                                                     |
|-------------------|---------------------------------------------------------------------------------------------|
| ncsn, ncsnv2      | annealed Langevin dynamics on the network's own levels, from U[0, 1]                        |
| score_sde_pytorch | what its config names, or else VE: reverse diffusion and a Langevin step; VP, sub-VP:       |
|                   | Euler–Maruyama down to 1e-3; discrete VP: ancestral sampling                                |
| diffusers         | ancestral sampling on all steps of the table, with the scheduler's variance and clipping,   |
|                   | or DDIM where that is the scheduler; NCSN++ as VE                                           |
| edm               | Heun's method on Karras's noise levels, the last step a denoise: 18 steps; 40 for 64 pixels |
|                   | and more; 256 and noise added for ADM                                                       |

NCSN's number of steps, and their size, are its config's, or belong to the data set, which its number of levels tells
apart. What diffusers' other schedulers would make of the table is not followed: `--sampler` and `--steps` choose. Score
SDE's samplers have N times from t_max to the end, at each of which the network is called: N − 1 steps here, and the
denoise.

Where this differs, unless told otherwise: the authors of score SDE, and diffusers, take one Langevin step size for a
batch, from its mean norms. Here each example has its own, so that it does not depend on the others;
`sampler.langevin_corrector.norm=batch` takes it of the batch. They correct before they predict, at t_max too
(`sampler.first=corrector`), and score SDE on VP with a step shorter by 1 − β (`langevin_corrector.num_scales=N`). Score
SDE's predictors take N steps of a size of their own, of which the last is the denoise:
`sampler.euler_maruyama.num_scales=N` with `sampler.steps=N` and `sampler.denoise=False`.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from score_jax import noise_levels
from score_jax.conditions import KnotIndex, LevelIndex
from score_jax.interop import files
from score_jax.interop.diffusers import is_told_sigma
from score_jax.interop.files import naming
from score_jax.interop.folders import is_hub_id
from score_jax.interop.mapping import unwrapped
from score_jax.interop.persistence import Module
from score_jax.interop.preconditioned import Preconditioned
from score_jax.interop.settings import choice, flag, number, value, whole, word
from score_jax.interop.sources import Checkpoint, as_score, open_checkpoint
from score_jax.interop.strangers import Stranger
from score_jax.networks import ResidualUNet
from score_jax.score import ScoreModel
from score_jax.types import InputError, require_at_least


class ReleasedSampling(NamedTuple):
    """How a network was sampled: side of its images, T and ε at the smallest level (released step_lr = ε/2)."""

    size: int
    n_steps: int
    step_size: float
    denoise: bool


# By source and number of levels. NCSN's is of CIFAR-10 and CelebA, its MNIST network takes 28 pixels.
SAMPLING = {
    ("ncsn", 10): ReleasedSampling(32, 100, 4e-5, False),
    ("ncsnv2", 232): ReleasedSampling(32, 5, 1.24e-5, True),  # CIFAR-10
    ("ncsnv2", 500): ReleasedSampling(64, 5, 6.6e-6, True),  # CelebA
    ("ncsnv2", 788): ReleasedSampling(64, 4, 9.8e-6, True),  # LSUN church; 96 pixels in the paper
    ("ncsnv2", 1086): ReleasedSampling(128, 3, 3.6e-6, True),  # LSUN bedroom and tower
    ("ncsnv2", 2311): ReleasedSampling(256, 3, 1.8e-6, True),  # FFHQ
}


class Defaults(NamedTuple):
    """How a checkpoint was sampled.

    Args:
      settings: by dotted key, that differ from those of `lab.settings`.
      size: height and width of the images; None where the checkpoint doesn't say.
    """

    settings: dict[str, Any]
    size: tuple[int, int] | None


class Published(NamedTuple):
    """A checkpoint as it was read.

    Attributes:
      model: the score function.
      settings: those that its authors sampled it with, by dotted key, that differ from `lab.settings`.
      shape: of an example.
      num_classes: of a class-conditional network, else 0.
      null_class: whether the network was trained without a class, −1, too.
      checkpoint: the path it was read from.
      averaged: whether the moving average of the parameters was asked for.
    """

    model: ScoreModel
    settings: Mapping[str, Any]
    shape: tuple[int, ...]
    num_classes: int = 0
    null_class: bool = False
    checkpoint: str = ""
    averaged: bool = True

    @property
    def origin(self) -> dict[str, Any]:
        """What sets this model apart from others."""
        return {"checkpoint": self.checkpoint, "ema": self.averaged, "shape": list(self.shape)}


def usual_source(path: str | os.PathLike[str]) -> str:
    """Returns whose checkpoint it is, by its looks: a folder or hub id diffusers', a .pkl EDM's, else by its names."""
    if Path(path).is_dir() or is_hub_id(path):
        return "diffusers"
    if Path(path).suffix == ".pkl":
        return "edm"
    try:
        names = _names(files.read(path).value)
    except (InputError, OSError):  # which reading it says, with the file's name in front
        return "ncsnv2"
    return next((source for start, source in _STARTS.items() if any(n.startswith(start) for n in names)), "ncsn")


_STARTS = {  # of names, and whose they are; NCSN's own have nothing that NCSNv2's don't
    "all_modules.": "score_sde_pytorch",
    "down_blocks.": "diffusers",
    "model.": "edm",
    "sigmas": "ncsnv2",
}


def _names(contents: Any) -> list[str]:
    """The names of a file's tensors: of a list, the dict of score SDE or EDM, a module or a bare state dict."""
    found = contents[0] if isinstance(contents, list | tuple) and contents else contents
    if isinstance(found, dict):
        found = next(
            (found[key] for key in ("model", "ema", "net") if isinstance(found.get(key), dict | Module)), found
        )
    if isinstance(found, Module):
        return ["model."]
    return [unwrapped(str(name)) for name in found] if isinstance(found, dict) else []


def open_published(
    path: str | os.PathLike[str],
    *,
    source: str | None = None,
    source_config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    use_ema: bool = True,
    size: int | tuple[int, int] | None = None,
) -> Published:
    """Reads a checkpoint and returns it with the settings its authors sampled it with.

    Args:
      path: of the checkpoint.
      source: see `interop.load`; None is `usual_source`.
      source_config: the source's own config, where the checkpoint doesn't say.
      use_ema: take the moving average of the parameters.
      size: side of the images, or height and width; None is what the source's config says, or that of the data set with
        as many levels.

    Raises:
      InputError: in one line, which says what the source was taken for where it wasn't given.
    """
    given, source = source, source or usual_source(path)
    try:
        checkpoint = open_checkpoint(path, source=source, config=source_config, use_ema=use_ema)
        with naming(path):
            model = as_score(checkpoint, source)
            defaults = DEFAULTS[source](source, checkpoint, model)
    except Stranger:
        raise
    except InputError as error:
        if given is None:
            raise InputError(f"{error}; read as {source}, --source=... if it is another's") from error
        raise
    height_width = defaults.size if size is None else (size, size) if isinstance(size, int) else size
    if height_width is None:
        raise InputError(f"{path}: does not say the side of its images (sample_size): give --size")
    require_at_least("size", 4, size=min(height_width))
    examples = checkpoint.examples
    shape = (*height_width, examples.channels)
    classes = examples.num_classes, examples.null_class
    return Published(model, defaults.settings, shape, *classes, os.fspath(path), use_ema)


# How they were sampled


def _ncsn(source: str, checkpoint: Checkpoint, model: ScoreModel) -> Defaults:
    config, levels = checkpoint.config, cast(LevelIndex, model.condition).sigmas
    known = SAMPLING.get((source, len(levels)))
    if known is None:
        known = ReleasedSampling(32, 5, noise_levels.step_size(levels[-1], levels[0] / levels[1], 5), True)
    choice(config, "sampling.data_init", [False], False)  # from noisy data, which a checkpoint comes without
    choice(config, "data.logit_transform", [False], False)  # samples would be logits
    settings = {
        "data.value_range": (-1.0, 1.0) if flag(config, "data.rescaled", False) else (0.0, 1.0),
        "sampler.name": "annealed_langevin",
        "sampler.annealed_langevin.step_size": 2 * number(config, "sampling.step_lr", known.step_size / 2),
        "sampler.annealed_langevin.n_steps": whole(config, "sampling.n_steps_each", known.n_steps),
        "sampler.grid": "levels",
        "sampler.steps": len(levels),
        "sampler.start": "uniform",
        "sampler.denoise": flag(config, "sampling.denoise", known.denoise),
    }
    return Defaults(settings, checkpoint.examples.size or (known.size, known.size))


_PREDICTORS = {
    "euler_maruyama": "euler_maruyama",
    "reverse_diffusion": "reverse_diffusion",
    "ancestral_sampling": "ancestral",
}


def _score_sde(source: str, checkpoint: Checkpoint, model: ScoreModel) -> Defaults:
    del source, model
    config = checkpoint.config
    exploding, continuous = value(config, "training.sde") == "vesde", flag(config, "training.continuous")
    usual = "reverse_diffusion" if exploding else "euler_maruyama" if continuous else "ancestral_sampling"
    corrector = word(config, "sampling.corrector", ["langevin", "none"], "langevin" if exploding else "none")
    on_table = value(config, "training.sde") == "vpsde" and not continuous
    flow = word(config, "sampling.method", ["pc", "ode"], "pc") == "ode"
    n = whole(config, "model.num_scales", 1000)
    settings = {
        "data.value_range": (-1.0, 1.0) if flag(config, "data.centered") else (0.0, 1.0),
        **({"sampler.name": "probability_flow"} if flow else _predictor(config, usual)),
        "sampler.ancestral.variance": "posterior" if exploding else "transition",
        "sampler.corrector": corrector == "langevin" and not flow,
        "sampler.langevin_corrector.snr": number(config, "sampling.snr", 0.16),
        "sampler.langevin_corrector.n_steps": whole(config, "sampling.n_steps_each", 1),
        "sampler.grid": "ddpm" if on_table else "uniform",
        "sampler.steps": n if on_table else n - 1,  # n times or levels, the first of which is t_max
        "sampler.denoise": flag(config, "sampling.noise_removal", True),
        "sampler.t_end": 0.0 if exploding or on_table else 1e-3,  # 0: at t_min
    }
    return Defaults(settings, checkpoint.examples.size)


def _predictor(foreign: Mapping[str, Any], usual: str) -> dict[str, Any]:
    """The sampler that the config names, with its probability_flow: without noise."""
    name = word(foreign, "sampling.predictor", _PREDICTORS, usual)
    if not flag(foreign, "sampling.probability_flow", False):
        return {"sampler.name": _PREDICTORS[name]}
    if name == "ancestral_sampling":
        raise InputError(
            "the config's sampling.probability_flow is True with the predictor ancestral_sampling, which has none: "
            "take euler_maruyama or reverse_diffusion, or the flow integrated adaptively, sampling.method = ode"
        )
    return {"sampler.name": name, f"sampler.{name}.probability_flow": True}


def _diffusers(source: str, checkpoint: Checkpoint, model: ScoreModel) -> Defaults:
    del source
    scheduler, size = value(checkpoint.config, "scheduler", {}), checkpoint.examples.size
    if is_told_sigma(checkpoint.config):
        corrections = whole(scheduler, "correct_steps", 1, low=0)
        settings = {
            "data.value_range": (0.0, 1.0),
            "sampler.name": "reverse_diffusion",
            "sampler.corrector": corrections > 0,
            "sampler.langevin_corrector.n_steps": max(corrections, 1),
            "sampler.langevin_corrector.snr": number(scheduler, "snr", 0.15),
            "sampler.grid": "uniform",
            "sampler.steps": whole(scheduler, "num_train_timesteps", 2000, low=2) - 1,
        }
        return Defaults(settings, size)
    ddim = str(value(scheduler, "_class_name", "")).startswith("DDIM")
    learned = cast(ResidualUNet, checkpoint.module).outputs == 2
    variances = {"learned_range": "learned"} if learned else _VARIANCES
    variance = choice(scheduler, "variance_type", variances, "fixed_small")
    settings = {
        "data.value_range": (0.0, 1.0) if flag(checkpoint.config, "center_input_sample", False) else (-1.0, 1.0),
        "sampler.name": "ddim" if ddim else "ancestral",
        "sampler.ancestral.variance": variances[variance],
        **({"parameterization.name": "learned_eps"} if learned else {}),  # that it has a variance
        "sampler.grid": "ddpm",
        "sampler.steps": cast(KnotIndex, model.condition).n,
        # DDIM's last step is to ᾱ = 1, the denoise, or to ᾱ_0, which leaves x as it is.
        "sampler.denoise": not ddim or flag(scheduler, "set_alpha_to_one", True),
        **_thresholds(scheduler),
    }
    return Defaults(settings, size)


def _thresholds(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """Static clipping or none: diffusers' dynamic threshold, a quantile of |x_0| clamped to [1, maximum], is 1 at 1."""
    if flag(scheduler, "thresholding", False):
        choice(scheduler, "sample_max_value", [1.0], 1.0)
        return {"sampler.threshold": "static"}
    choice(scheduler, "clip_sample_range", [1.0], 1.0)
    clips = str(value(scheduler, "_class_name", "DDPMScheduler")).startswith(("DDPM", "DDIM"))  # unless told otherwise
    return {"sampler.threshold": "static" if flag(scheduler, "clip_sample", clips) else "none"}


_VARIANCES = {
    "fixed_small": "posterior",
    "fixed_small_log": "posterior",
    "fixed_large": "transition",
    "fixed_large_log": "transition",
    None: "posterior",  # of schedulers that add no noise
}


def _edm(source: str, checkpoint: Checkpoint, model: ScoreModel) -> Defaults:
    """Karras et al. 2022, tables 2 and 4: deterministic, but for ImageNet of 64 pixels, which ADM's network is for."""
    del source, model
    size = checkpoint.examples.size
    churn = {"churn": 40 / 256, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.003}  # S_churn of 40 over 256 steps
    adm = cast(Preconditioned, checkpoint.module).network.modulation != "shift"
    settings = {
        "data.value_range": (-1.0, 1.0),
        "sampler.name": "heun",
        "sampler.grid": "karras",
        "sampler.steps": 255 if adm else 39 if size is not None and size[0] >= 64 else 17,
        **({f"sampler.heun.{key}": number for key, number in churn.items()} if adm else {}),
    }
    return Defaults(settings, size)


DEFAULTS: dict[str, Callable[[str, Checkpoint, ScoreModel], Defaults]] = {
    "ncsn": _ncsn,
    "ncsnv2": _ncsn,
    "score_sde_pytorch": _score_sde,
    "diffusers": _diffusers,
    "edm": _edm,
}
