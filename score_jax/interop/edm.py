"""Checkpoints of `NVlabs/edm`: preconditioned SongUNet (DDPM++, NCSN++) and DhariwalUNet (ADM).

A published .pkl holds {ema, loss_fn, augment_pipe, dataset_kwargs}, modules with their source code and the arguments of
their constructors (`persistence` reads it, and executes nothing), and a training-state-….pt {net, optimizer_state}, the
raw weights. A state dict, of safetensors, .npz or torch.save, will do as well, with those arguments as the config.
Labels are class indices, −1 for none, in place of one-hot vectors. The augmentation path is for training only and is
left out.

Karras et al. 2022, appendix F.
"""

import math
import os
from collections.abc import Callable
from typing import Any

from score_jax import networks, parameterization
from score_jax.conditions import NoiseLevel
from score_jax.interop import files, persistence
from score_jax.interop.files import Contents
from score_jax.interop.kind import CheckpointKind
from score_jax.interop.mapping import Tensors, named
from score_jax.interop.preconditioned import EDMPrecond, Preconditioned, VEPrecond, VPPrecond, iDDPMPrecond
from score_jax.interop.settings import MOST_LEVELS, Config, Images, choice, number, side, value, whole, wholes
from score_jax.interop.unet_names import edm_entries
from score_jax.networks import GaussianFourier, ResidualUNet, positional
from score_jax.parameterization import Parameterization
from score_jax.score import Condition
from score_jax.sde import EDM, SDE
from score_jax.types import InputError

_SPARE = r"u|model\.(.*\.resample_filter|map_augment\.weight)"  # u: iDDPM's noise levels, which its constants give
_PATHS = {"standard": "none", "skip": "skip", "residual": "residual"}


_KNOWN = (
    *("class_name", "model_type", "img_resolution", "img_channels", "label_dim", "label_dropout", "dropout"),
    *("sigma_data", "sigma_min", "sigma_max", "beta_d", "beta_min", "epsilon_t", "M", "C_1", "C_2"),
    *("model_channels", "channel_mult", "channel_mult_emb", "channel_mult_noise", "num_blocks", "attn_resolutions"),
    *("embedding_type", "encoder_type", "decoder_type", "resample_filter"),
    *("use_fp16", "augment_dim"),  # what it computes in, and what is seen in training only
)


def _read(path: str | os.PathLike[str], use_ema: bool) -> Contents:
    """Returns the weights of a file, and the constructor's arguments where it has modules."""
    contents = files.read(path)
    found = _chosen(contents.value, use_ema)
    if not isinstance(found, persistence.Module):
        return contents._replace(value=named(found, "state dict"))
    config = found.arguments | {"class_name": found.kind}
    return contents._replace(value=named(persistence.state_dict(found), "state dict"), config=config)


def _chosen(value: Any, use_ema: bool) -> Any:
    """The module or state dict with the weights that are asked for: "ema" and "net" of a dict that has one of them."""
    if not isinstance(value, dict) or not {"ema", "net", "loss_fn"} & value.keys():
        return value
    if not use_ema and value.get("net") is None:
        raise InputError(
            "has averages only (ema): the raw weights are in training-state-….pt; or leave use_ema as it is"
        )
    found = value.get("net") if not use_ema or value.get("ema") is None else value["ema"]
    if not isinstance(found, persistence.Module | dict):
        raise InputError("has no network ema: expected a dict with one, as EDM publishes")
    return found


def _network(tensors: Tensors, config: Config) -> Preconditioned:
    """Returns the network inside its preconditioner, as the constructor's arguments describe them."""
    coefficients, default, outputs, _ = _PRECONDITIONERS[_kind(config)]
    net = _NETWORKS[choice(config, "model_type", _NETWORKS, default)](tensors, config)
    return Preconditioned(net.clone(outputs=outputs), coefficients(config), side(config, "img_resolution"))


def _kind(config: Config) -> str:
    name = value(config, "class_name", "EDMPrecond")  # of a pickle, or "training.networks.EDMPrecond" in a config
    short = name.rsplit(".", 1)[-1] if isinstance(name, str) else name
    return choice({"class_name": short}, "class_name", _PRECONDITIONERS)


# Coefficients, network unless given, its outputs in multiples of the image's channels, and the range of noise that it
# supports, of the config and the coefficients.
_PRECONDITIONERS: dict[str, tuple[Any, str, int, Callable[[Config, Any], tuple[float, float]]]] = {
    "EDMPrecond": (
        lambda c: EDMPrecond(number(c, "sigma_data", 0.5)),
        "DhariwalUNet",
        1,
        lambda c, edm: (number(c, "sigma_min", 0.0, low=0.0), _most_noise(c, math.inf)),
    ),
    "VPPrecond": (
        lambda c: VPPrecond(number(c, "beta_d", 19.9), number(c, "beta_min", 0.1), number(c, "M", 1000)),
        "SongUNet",
        1,
        lambda c, vp: (vp.sigma(number(c, "epsilon_t", 1e-5)), vp.sigma(1.0)),
    ),
    "VEPrecond": (
        lambda c: VEPrecond(),
        "SongUNet",
        1,
        lambda c, ve: (number(c, "sigma_min", 0.02), _most_noise(c, 100.0)),
    ),
    "iDDPMPrecond": (
        lambda c: iDDPMPrecond(number(c, "C_1", 0.001), number(c, "C_2", 0.008), whole(c, "M", 1000, most=MOST_LEVELS)),
        "DhariwalUNet",
        2,  # the second half is the learned variance, which D does without
        lambda c, iddpm: (float(iddpm.levels[-2]), float(iddpm.levels[0])),
    ),
}
_SAMPLED = {"VEPrecond": (0.02, 100.0)}  # the noise that is sampled, as far as the network supports it: table 1
_USUAL = (0.002, 80.0)


def _most_noise(config: Config, default: float) -> float:
    """σ_max, which is infinite where it is not bounded."""
    unbounded = value(config, "sigma_max", default) == math.inf
    return math.inf if unbounded else number(config, "sigma_max", default)


def _shared(
    config: Config, channels: int, multipliers: tuple[int, ...], blocks: int, attended: list[int]
) -> dict[str, Any]:
    choice(config, "channel_mult_emb", [4], 4)
    multipliers, height = wholes(config, "channel_mult", multipliers), side(config, "img_resolution")
    resolutions = wholes(config, "attn_resolutions", attended)
    return {
        "channels": whole(config, "model_channels", channels, most=4096),
        "multipliers": multipliers,
        "blocks": whole(config, "num_blocks", blocks, most=64),
        "attention": tuple(i for i in range(len(multipliers)) if height >> i in resolutions),
        "num_classes": whole(config, "label_dim", 0, low=0),
        "dropout": number(config, "dropout", 0.1, low=0.0),
    }


def _song(tensors: Tensors, config: Config) -> ResidualUNet:
    shared = _shared(config, 128, (1, 2, 2, 2), 4, [16])
    taps = wholes(config, "resample_filter", [1, 1])
    _require_filter(tensors, len(taps))
    into, out = (choice(config, f"{way}_type", _PATHS, "standard") for way in ("encoder", "decoder"))
    fourier = choice(config, "embedding_type", ["positional", "fourier"], "positional") == "fourier"
    width = shared["channels"] * whole(config, "channel_mult_noise", 1)
    if out == "residual":
        raise InputError("the config's decoder_type is 'residual', expected standard or skip")
    return networks.ddpmpp(
        **shared,
        # Repeated pixels and means are the same as the taps (1, 1), but where a convolution shares the filter's stride.
        fir=None if taps == (1, 1) and into != "residual" else tuple(map(float, taps)),
        input_path=_PATHS[into],
        output_path=_PATHS[out],
        embedding=GaussianFourier(width, 16.0) if fourier else positional(width),
    )


def _require_filter(tensors: Tensors, taps: int) -> None:
    for name, tensor in tensors.items():
        if name.endswith(".resample_filter") and tuple(tensor.shape) != (1, 1, taps, taps):
            shape, expected = tuple(tensor.shape), (1, 1, taps, taps)
            raise InputError(f"{name} has shape {shape} where the config's resample_filter means {expected}")


def _adm(tensors: Tensors, config: Config) -> ResidualUNet:
    del tensors
    shared = _shared(config, 192, (1, 2, 3, 4), 3, [32, 16, 8])
    return networks.adm(**shared)


_NETWORKS = {"SongUNet": _song, "DhariwalUNet": _adm}


def _examples(tensors: Tensors, config: Config) -> Images:
    """Returns what the network is given."""
    del tensors
    height, classes = side(config, "img_resolution"), whole(config, "label_dim", 0, low=0)
    # A class was left out, its vector zero, in the share of the examples that label_dropout says.
    null_class = classes > 0 and number(config, "label_dropout", 0.0, low=0.0) > 0
    return Images((height, height), whole(config, "img_channels"), classes, null_class)


def _score(module: Preconditioned, config: Config) -> tuple[SDE, Parameterization, Condition]:
    """Returns SDE, parameterization and condition of a denoiser at σ."""
    kind = _kind(config)
    *_, supported = _PRECONDITIONERS[kind]
    (low, high), (least, most) = supported(config, module.coefficients), _SAMPLED.get(kind, _USUAL)
    low, high = max(low, least), min(high, most)
    if not low < high:
        raise InputError(f"the config's noise is from {low:.5g} to {high:.5g}: expected sigma_min below sigma_max")
    return EDM(low, high), parameterization.AsGiven(parameterization.X0()), NoiseLevel()


EDM_KIND = CheckpointKind(_read, _network, _examples, edm_entries, _score, _KNOWN, spare=_SPARE)
