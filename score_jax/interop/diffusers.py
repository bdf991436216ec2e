"""Networks of diffusers, `UNet2DModel` of the DDPM kind and of the NCSN++ kind; `folders` finds their files.

A scheduler's config says what the betas are and what the network predicts; without one they are DDPM's. Blocks are
named after their kind,

    DownBlock2D, UpBlock2D              resolution changes by convolutions: DDPM; "Attn" in front: with attention
    SkipDownBlock2D, SkipUpBlock2D      by filtered residual blocks, the image and the output at all resolutions: NCSN++

and whatever else a `UNet2DModel` can be is refused by the name of the setting. Settings that a config lacks have the
defaults that diffusers documents. Twice the channels are of a variance between two bounds, its scheduler's
"learned_range"; a table of zero terminal SNR is sampled from its second knot (`Tabulated`).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from score_jax import parameterization
from score_jax.conditions import KnotIndex, NoiseLevel
from score_jax.interop.folders import read_folder
from score_jax.interop.kind import CheckpointKind
from score_jax.interop.mapping import Tensors
from score_jax.interop.settings import Config, Images, choice, flag, number, shown, size, value, whole, wholes
from score_jax.interop.unet_names import diffusers_entries
from score_jax.networks import DivideBySigma, GaussianFourier, ResidualUNet, positional
from score_jax.networks.presets import FIR
from score_jax.parameterization import Parameterization
from score_jax.pickles import printable
from score_jax.score import Condition
from score_jax.sde import SDE, VE, Tabulated, ddpm_schedule, zero_terminal_snr
from score_jax.types import InputError

_SPARE = r"time_proj\.W"  # written beside time_proj.weight by some versions
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


_KNOWN = (
    *("scheduler", "sample_size", "in_channels", "out_channels", "center_input_sample", *_ONLY),
    *("time_embedding_type", "freq_shift", "flip_sin_to_cos", "num_class_embeds"),
    *("down_block_types", "up_block_types", "block_out_channels", "layers_per_block", "mid_block_scale_factor"),
    *("downsample_padding", "dropout", "attention_head_dim", "norm_num_groups", "norm_eps"),
    *(f"scheduler.{key}" for key in ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end")),
    *(f"scheduler.{key}" for key in ("trained_betas", "prediction_type", "predict_epsilon", "rescale_betas_zero_snr")),
    *(f"scheduler.{key}" for key in ("use_flow_sigmas", "timestep_type", "variance_type", "set_alpha_to_one")),
    *(f"scheduler.{key}" for key in ("clip_sample", "clip_sample_range", "thresholding", "sample_max_value")),
    *(f"scheduler.{key}" for key in ("sigma_min", "sigma_max", "snr", "correct_steps")),
    # Who wrote it, and how it was averaged; steps are told by their index ("learned" embeddings, which have a number
    # of them, are refused)
    *("_*", "scheduler._*", "decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup"),
    *("inv_gamma", "power", "num_train_timesteps"),
    # Which steps other solvers make of the table, and how: those here are chosen by --sampler and --steps. The dynamic
    # threshold is the static one where sample_max_value is 1.
    *(
        f"scheduler.{key}"
        for key in ("timestep_spacing", "steps_offset", "skip_prk_steps", "dynamic_thresholding_ratio")
    ),
    *(f"scheduler.{key}" for key in ("solver_order", "solver_type", "solver_p", "algorithm_type", "lower_order_final")),
    *(f"scheduler.{key}" for key in ("euler_at_final", "final_sigmas_type", "lambda_min_clipped", "predict_x0")),
    *(f"scheduler.{key}" for key in ("disable_corrector", "interpolation_type", "noise_sampler_seed", "sampling_eps")),
    *(f"scheduler.use_{key}" for key in ("karras_sigmas", "exponential_sigmas", "beta_sigmas", "lu_lambdas")),
    *(f"scheduler.{key}" for key in ("tensor_format", "timestep_values")),  # before version 0.3
    # of flows, which are refused
    *(f"scheduler.{key}" for key in ("flow_shift", "use_dynamic_shifting", "time_shift_type", "shift_terminal")),
)


# The network


def _network(tensors: Tensors, config: Config) -> ResidualUNet:
    """Returns the `UNet2DModel` that the config describes."""
    del tensors
    choice(config, "_class_name", ["UNet2DModel"], "UNet2DModel")
    for key, (read_values, default) in _ONLY.items():
        choice(config, key, read_values, default)
    features = wholes(config, "block_out_channels", (224, 448, 672, 896))
    if not features or any(n % features[0] for n in features) or features[-1] > 2**16:
        raise InputError(f"the config's block_out_channels is {features}, expected multiples of the first")
    skip, attention = _blocks(config, len(features))
    _require_scale(config, skip)
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
        **_groups(config, skip, features, attention),
        epsilon=number(config, "norm_eps", 1e-5),
        outputs=_outputs(config),
    )


def _positional(config: Config, features: int):
    shift, flip = number(config, "freq_shift", 0.0, low=0.0), flag(config, "flip_sin_to_cos", True)
    return positional(features, shift=shift, cosine_first=flip)


def _blocks(config: Config, n: int) -> tuple[bool, tuple[int, ...]]:
    """Returns whether the blocks are those of NCSN++, and the resolutions with attention."""
    down = _names(config, "down_block_types", ["DownBlock2D"] + 3 * ["AttnDownBlock2D"], n)
    up = _names(config, "up_block_types", 3 * ["AttnUpBlock2D"] + ["UpBlock2D"], n)
    kinds = {re.sub(r"^(Attn)?(Skip)?(Down|Up)Block2D$", r"\2", name) for name in [*down, *up]}
    if len(kinds) > 1 or not kinds <= {"", "Skip"}:
        strange = next((n for n in [*down, *up] if not re.fullmatch(r"(Attn)?(Skip)?(Down|Up)Block2D", n)), "a mixture")
        raise InputError(
            f"the config's block types have {printable(strange)}: read are (Attn)DownBlock2D or (Attn)SkipDownBlock2D"
        )
    attended = [tuple(i for i, name in enumerate(way) if name.startswith("Attn")) for way in (down, up[::-1])]
    if attended[0] != attended[1]:
        raise InputError(
            f"the config has attention at resolutions {attended[0]} down and {attended[1]} up: must be equal"
        )
    return kinds == {"Skip"}, attended[0]


def _names(config: Config, key: str, default: list[str], n: int) -> list[str]:
    found = value(config, key, default)
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found) or len(found) != n:
        raise InputError(f"the config's {key} is not the names of {n} blocks, one for each of block_out_channels")
    return list(found)


def _require_scale(config: Config, skip: bool) -> None:
    scale = number(config, "mid_block_scale_factor", 1.0)
    if abs(scale - (2**0.5 if skip else 1.0)) > 1e-3:
        raise InputError(f"the config's mid_block_scale_factor is {scale}, unlike that of the other blocks: not read")


def _groups(config: Config, skip: bool, features: Sequence[int], attention: Sequence[int]) -> dict[str, Any]:
    """Returns the numbers of groups of the network's norms.

    Skip blocks have up to 32 groups of four channels or more, but for attention and the first norm of blocks with
    attention on the way up, which have 32. norm_num_groups is that of all other norms; null, of Skip blocks alone: as
    these.
    """
    given = value(config, "norm_num_groups", 32)
    groups = None if given is None else whole(config, "norm_num_groups", 32)
    if not skip:
        if groups is None:
            raise InputError("the config has norm_num_groups null, which no network without Skip blocks has: not read")
        return {"groups": groups, "group_channels": 1}
    if any(features[i] % 32 for i in attention):
        raise InputError("the config has attention of Skip blocks where block_out_channels is no multiple of 32")
    exceptions = []
    if any(features[i] < 128 for i in attention):
        attended = "|".join(map(str, attention))
        exceptions += [(r"(down|up)_\d+_\d+/attention/norm", 32, 1), (rf"up_({attended})_\d+/norm_0", 32, 1)]
    if groups is not None and any(groups != min(n // 4, 32) for n in (features[0], features[-1])):
        exceptions.append((r"middle_.*|norm", groups, 1))
    return {"groups": 32, "group_channels": 4, "groups_of": tuple(exceptions)}


def _examples(tensors: Tensors, config: Config) -> Images:
    """Returns what the network is given."""
    del tensors
    channels = whole(config, "in_channels", 3)
    _outputs(config)
    classes = 0 if value(config, "num_class_embeds", None) is None else whole(config, "num_class_embeds")
    return Images(size(config, "sample_size", None), channels, classes)


def _outputs(config: Config) -> int:
    """Channels of the output in multiples of the input's: 2 where a range of variances was learned."""
    channels, out = whole(config, "in_channels", 3), whole(config, "out_channels", 3)
    scheduler = value(config, "scheduler", {})
    learned = isinstance(scheduler, Mapping) and value(scheduler, "variance_type", None) == "learned_range"
    if out == channels * (1 + learned):
        return 1 + learned
    if out in (channels, 2 * channels):
        what = "read are as many, or twice as many where scheduler.variance_type is 'learned_range'"
    elif out < channels:
        what = f"{channels - out} channels of a condition beside its image, which is not read"
    else:
        what = "no image alone, which is not read"
    raise InputError(f"the config has in_channels = {channels} and out_channels = {out}: {what}")


# The process


def _score(module: ResidualUNet, config: Config) -> tuple[SDE, Parameterization, Condition]:
    """Returns SDE, parameterization and condition: a table of betas, or VE where the network is told σ."""
    if not isinstance(value(config, "scheduler", {}), Mapping):
        raise InputError("the config's scheduler holds no settings")
    if is_told_sigma(config):
        choice(config, "scheduler._class_name", ["ScoreSdeVeScheduler"], "ScoreSdeVeScheduler")
        ends = number(config, "scheduler.sigma_min", 0.01), number(config, "scheduler.sigma_max")
        return VE(*ends), parameterization.Score(), NoiseLevel()
    betas, meant = _betas(config), _prediction(config)
    alphas_bar = np.cumprod(1 - betas)
    if flag(config, "scheduler.rescale_betas_zero_snr", False):
        alphas_bar = zero_terminal_snr(alphas_bar)
    sde = Tabulated(alphas_bar, t_min=1 / len(betas))
    if module.outputs == 2:
        first, second = sde.knots()[:2]
        meant = parameterization.learned(meant, floor=sde.posterior_variance(second, first))
    return sde, meant, KnotIndex(len(betas))


def is_told_sigma(config: Config) -> bool:
    """Returns whether the network takes σ, as NCSN++ does, rather than the index of a step."""
    return choice(config, "time_embedding_type", ["positional", "fourier"], "positional") == "fourier"


def _prediction(config: Config) -> Parameterization:
    """What the network predicts, which before version 0.10 was said by predict_epsilon."""
    old = choice(config, "scheduler.predict_epsilon", [True, False, None], None)
    usual = "sample" if old is False else "epsilon"
    kind = choice(config, "scheduler.prediction_type", _PREDICTIONS, usual)
    if old is not None and kind != usual:
        raise InputError(f"the config's scheduler.predict_epsilon is {old} and prediction_type {kind}: which is meant?")
    return _PREDICTIONS[kind]


_PREDICTIONS = {
    "epsilon": parameterization.Eps(),
    "sample": parameterization.X0(),
    "v_prediction": parameterization.V(),
}
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
    for key, only in [("use_flow_sigmas", False), ("timestep_type", "discrete")]:
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


DIFFUSERS_KIND = CheckpointKind(read_folder, _network, _examples, diffusers_entries, _score, _KNOWN, spare=_SPARE)
