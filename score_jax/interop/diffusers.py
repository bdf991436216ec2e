"""Checkpoints of diffusers: `UNet2DModel` folders, of the DDPM kind and of the NCSN++ kind, and hub ids.

A folder holds config.json and diffusion_pytorch_model.safetensors (or .bin), or is a pipeline's, with those in unet/. A
scheduler_config.json beside them says what the betas are and what the network predicts; without one they are DDPM's.
Blocks are named after their kind,

    DownBlock2D, UpBlock2D              resolution changes by convolutions: DDPM; "Attn" in front: with attention
    SkipDownBlock2D, SkipUpBlock2D      by filtered residual blocks, the image and the output on all levels: NCSN++

and whatever else a `UNet2DModel` can be is refused by the name of the setting. Settings that a config lacks have the
defaults that diffusers documents.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from score_jax import parameterization
from score_jax.interop import files
from score_jax.interop.conditions import KnotIndex, NoiseLevel
from score_jax.interop.files import Contents
from score_jax.interop.mapping import Tensors, named
from score_jax.interop.settings import Config, Examples, choice, flag, number, shown, value, whole, wholes
from score_jax.interop.torch_files import Tensor
from score_jax.networks import DivideBySigma, GaussianFourier, ResidualUNet, positional
from score_jax.networks.presets import FIR
from score_jax.parameterization import Parameterization
from score_jax.score import Condition
from score_jax.sde import SDE, VE, Tabulated, ddpm_schedule
from score_jax.types import InputError

SPARE = r"time_proj\.W"  # written beside time_proj.weight by some versions
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_SCHEDULERS = ("scheduler_config.json", "scheduler/scheduler_config.json", "../scheduler/scheduler_config.json")
_FILES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".pkl", ".npz")
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # attention before version 0.17
_ONLY: dict[str, tuple[list[Any], Any]] = {  # settings of which some values are read, and the default
    "act_fn": (["silu", "swish"], "silu"),
    "resnet_time_scale_shift": (["default"], "default"),
    "add_attention": ([True], True),
    "class_embed_type": ([None], None),
    "time_embedding_dim": ([None], None),
    "attn_norm_num_groups": ([None], None),
    "mid_block_type": (["UNetMidBlock2D"], "UNetMidBlock2D"),
    "downsample_type": (["conv"], "conv"),
    "upsample_type": (["conv"], "conv"),
}


# Reading


def read(path: str | os.PathLike) -> Contents:
    """Returns the weights of a folder, of a file that `save` wrote, or of a model of the hub, and its config.

    The config is config.json's, with that of the scheduler, if there is one, as "scheduler".
    """
    if Path(path).is_file():
        return files.read(path)
    folder = Path(path) if Path(path).is_dir() else _fetched(os.fspath(path))
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    weights = next((unet / name for name in _WEIGHTS if (unet / name).is_file()), None)
    if weights is None or not (unet / "config.json").is_file():
        raise InputError(f"is no UNet2DModel's folder: expected config.json and {' or '.join(_WEIGHTS)} in {unet}")
    config: dict[str, Any] = dict(files.read_config(unet / "config.json"))
    scheduler = next((unet / name for name in _SCHEDULERS if (unet / name).is_file()), None)
    if scheduler:
        config["scheduler"] = files.read_config(scheduler)
    return files.read(weights)._replace(config=config)


def is_hub_id(path: str | os.PathLike) -> bool:
    """Returns whether this, not being here, can be the name of a model of the hub: owner/name."""
    name = os.fspath(path)
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not Path(name).exists() and not name.endswith(_FILES)


def _fetched(name: str) -> Path:
    """Returns the folder of a model of the hub, fetched where it is not there yet."""
    if not is_hub_id(name):
        raise InputError("is neither a folder, nor a file, nor a hub id such as google/ddpm-cifar10-32")
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError(
            "is no folder here, and fetching it needs huggingface_hub: pip install huggingface_hub"
        ) from error
    wanted = ["config.json", "scheduler_config.json", *_WEIGHTS[:1]]
    places = [*wanted, "scheduler/scheduler_config.json", *(f"unet/{name}" for name in wanted)]
    try:
        folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=places))
        if not any(folder.rglob(_WEIGHTS[0])):
            old = [_WEIGHTS[1], f"unet/{_WEIGHTS[1]}"]
            folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=[*places, *old]))
    except (OSError, ValueError) as error:  # what the hub raises for no network, no such model and no permission
        raise InputError(f"cannot be fetched from the hub: {' '.join(str(error).split())[:300]}") from error
    return folder


def state_dict(contents: Any, use_ema: bool) -> dict[str, Tensor | np.ndarray]:
    """Returns the tensors under today's names; a folder has one set of weights, averages or not."""
    del use_ema
    old = re.compile(rf"(attentions\.\d+)\.({'|'.join(_OLD)})\.")
    state = named(contents, "state dict")
    renamed = {old.sub(lambda m: f"{m[1]}.{_OLD[m[2]]}.", name): tensor for name, tensor in state.items()}
    if "time_proj.W" in renamed:
        renamed.setdefault("time_proj.weight", renamed["time_proj.W"])
    return renamed


# The network


def network(tensors: Tensors, config: Config) -> ResidualUNet:
    """Returns the `UNet2DModel` that the config describes."""
    del tensors
    choice(config, "_class_name", ["UNet2DModel"], "UNet2DModel")
    for key, (read_values, default) in _ONLY.items():
        choice(config, key, read_values, default)
    features = wholes(config, "block_out_channels", (224, 448, 672, 896))
    if not features or any(n % features[0] for n in features) or features[-1] > 2**16:
        raise InputError(f"the config's block_out_channels is {features}, expected multiples of the first")
    skip, attention = _blocks(config, len(features))
    groups = value(config, "norm_num_groups", 32)
    if groups is not None:
        groups = whole(config, "norm_num_groups", 32)
    _check_kind(config, skip, groups, [features[level] for level in attention])
    fourier = is_told_sigma(config)
    head = value(config, "attention_head_dim", 8)
    return ResidualUNet(
        features[0],
        tuple(n // features[0] for n in features),
        blocks=whole(config, "layers_per_block", 2, most=64),
        attention=attention,
        attention_up="last" if skip else "every",
        head_channels=None if head is None else whole(config, "attention_head_dim", 8),
        resampling="block" if skip else "conv",
        fir=FIR if skip else None,
        stride_padding=1 if choice(config, "downsample_padding", [0, 1], 1) and not skip else "SAME",
        skip_scale=0.5**0.5 if skip else 1.0,
        input_path="skip" if skip else "none",
        output_path="skip" if skip else "none",
        embedding=GaussianFourier(2 * features[0], 16.0, jnp.log) if fourier else _positional(config, features[0]),
        num_classes=0 if value(config, "num_class_embeds", None) is None else whole(config, "num_class_embeds"),
        label_layer="outer",
        rescale=flag(config, "center_input_sample", False),
        output_scale=DivideBySigma() if fourier else None,
        dropout=number(config, "dropout", 0.0, low=0.0),
        groups=groups or 32,
        group_channels=1 if groups else 4,
        epsilon=number(config, "norm_eps", 1e-5),
    )


def _positional(config: Config, features: int):
    shift, flip = number(config, "freq_shift", 0.0, low=0.0), flag(config, "flip_sin_to_cos", True)
    return positional(features, shift=shift, cosine_first=flip)


def _blocks(config: Config, levels: int) -> tuple[bool, tuple[int, ...]]:
    """Returns whether the blocks are those of NCSN++, and the levels with attention."""
    down = _names(config, "down_block_types", ["DownBlock2D"] + 3 * ["AttnDownBlock2D"], levels)
    up = _names(config, "up_block_types", 3 * ["AttnUpBlock2D"] + ["UpBlock2D"], levels)
    kinds = {re.sub(r"^(Attn)?(Skip)?(Down|Up)Block2D$", r"\2", name) for name in [*down, *up]}
    if len(kinds) > 1 or not kinds <= {"", "Skip"}:
        strange = next((n for n in [*down, *up] if not re.fullmatch(r"(Attn)?(Skip)?(Down|Up)Block2D", n)), "a mixture")
        raise InputError(
            f"the config's block types have {strange}: read are (Attn)DownBlock2D or (Attn)SkipDownBlock2D"
        )
    on_levels = [tuple(i for i, name in enumerate(way) if name.startswith("Attn")) for way in (down, up[::-1])]
    if on_levels[0] != on_levels[1]:
        raise InputError(f"the config has attention on levels {on_levels[0]} down and {on_levels[1]} up: must be equal")
    return kinds == {"Skip"}, on_levels[0]


def _names(config: Config, key: str, default: list[str], levels: int) -> list[str]:
    found = value(config, key, default)
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found) or len(found) != levels:
        raise InputError(f"the config's {key} is not the names of {levels} blocks, one for each of block_out_channels")
    return list(found)


def _check_kind(config: Config, skip: bool, groups: int | None, attended: list[int]) -> None:
    """Refuses what is particular to one kind of blocks and other than the network's."""
    scale = number(config, "mid_block_scale_factor", 1.0)
    if abs(scale - (2**0.5 if skip else 1.0)) > 1e-3:
        raise InputError(f"the config's mid_block_scale_factor is {scale}, unlike that of the other blocks: not read")
    if skip and (groups is not None or any(n < 128 for n in attended)):
        raise InputError(
            "the config has Skip blocks with norm_num_groups other than null or narrow attention: not read"
        )


def examples(tensors: Tensors, config: Config) -> Examples:
    """Returns what the network is given."""
    del tensors
    channels = whole(config, "in_channels", 3)
    if whole(config, "out_channels", 3) != channels:
        raise InputError(
            f"the config has in_channels = {channels} and other out_channels: a learned variance is not read"
        )
    side = value(config, "sample_size", None)
    classes = 0 if value(config, "num_class_embeds", None) is None else whole(config, "num_class_embeds")
    return Examples(side if type(side) is int and side > 0 else None, channels, classes)


# The process


def score(module: ResidualUNet, config: Config) -> tuple[SDE, Parameterization, Condition]:
    """Returns SDE, parameterization and condition: a table of betas, or VE where the network is told σ."""
    del module
    if not isinstance(value(config, "scheduler", {}), Mapping):
        raise InputError("the config's scheduler holds no settings")
    if is_told_sigma(config):
        choice(config, "scheduler._class_name", ["ScoreSdeVeScheduler"], "ScoreSdeVeScheduler")
        ends = number(config, "scheduler.sigma_min", 0.01), number(config, "scheduler.sigma_max")
        return VE(*ends), parameterization.score, NoiseLevel()
    kind = choice(config, "scheduler.prediction_type", _PREDICTIONS, "epsilon")
    betas = _betas(config)
    return Tabulated(np.cumprod(1 - betas), t_min=1 / len(betas)), _PREDICTIONS[kind], KnotIndex(len(betas))


def is_told_sigma(config: Config) -> bool:
    """Returns whether the network takes σ, as NCSN++ does, rather than the index of a step."""
    return choice(config, "time_embedding_type", ["positional", "fourier"], "positional") == "fourier"


_PREDICTIONS = {"epsilon": parameterization.eps, "sample": parameterization.x0, "v_prediction": parameterization.v}
_SCHEDULES = {
    "linear": lambda low, high, n: np.linspace(low, high, n),
    "scaled_linear": lambda low, high, n: np.linspace(low**0.5, high**0.5, n) ** 2,
    "squaredcos_cap_v2": lambda low, high, n: ddpm_schedule(n, "cosine").betas,
    "sigmoid": lambda low, high, n: (high - low) / (1 + np.exp(-np.linspace(-6, 6, n))) + low,
}


_DDPM, _STABLE = (1e-4, 0.02), (8.5e-4, 0.012)
_TABLES = {  # schedulers on a table of betas, and where the table begins and ends unless they say so
    "DDPMScheduler": _DDPM,
    "DDPMParallelScheduler": _DDPM,
    "DDIMScheduler": _DDPM,
    "DDIMParallelScheduler": _DDPM,
    "PNDMScheduler": _DDPM,
    "DPMSolverMultistepScheduler": _DDPM,
    "DPMSolverSinglestepScheduler": _DDPM,
    "DPMSolverSDEScheduler": _STABLE,
    "UniPCMultistepScheduler": _DDPM,
    "DEISMultistepScheduler": _DDPM,
    "EulerDiscreteScheduler": _DDPM,
    "EulerAncestralDiscreteScheduler": _DDPM,
    "HeunDiscreteScheduler": _STABLE,
    "LMSDiscreteScheduler": _DDPM,
    "KDPM2DiscreteScheduler": _STABLE,
    "KDPM2AncestralDiscreteScheduler": _STABLE,
}


def _betas(config: Config) -> np.ndarray:
    name = value(config, "scheduler._class_name", "DDPMScheduler")
    if not isinstance(name, str) or name not in _TABLES:
        raise InputError(f"the config's scheduler is {shown(name)}, which is not read: expected DDPM's or the like")
    for key, only in [("rescale_betas_zero_snr", False), ("use_flow_sigmas", False), ("timestep_type", "discrete")]:
        choice(config, f"scheduler.{key}", [only], only)
    trained = value(config, "scheduler.trained_betas", None)
    if trained is None:
        kind = choice(config, "scheduler.beta_schedule", _SCHEDULES, "linear")
        low, high = _TABLES[name]
        ends = number(config, "scheduler.beta_start", low), number(config, "scheduler.beta_end", high)
        betas = _SCHEDULES[kind](*ends, whole(config, "scheduler.num_train_timesteps", 1000))
    else:
        fits = isinstance(trained, list | tuple) and all(isinstance(beta, int | float) for beta in trained)
        betas = np.asarray(trained if fits else [], np.float64)
    if betas.ndim != 1 or len(betas) < 2 or not ((betas > 0) & (betas < 1)).all():
        raise InputError("the scheduler's betas are not two or more numbers between 0 and 1")
    return betas
