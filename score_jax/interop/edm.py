"""Checkpoints of `NVlabs/edm`: preconditioned SongUNet (DDPM++, NCSN++) and DhariwalUNet (ADM).

A published .pkl holds {ema, loss_fn, augment_pipe, dataset_kwargs}, modules with their source code and the arguments of
their constructors (`persistence` reads it, and executes nothing). A state dict, .safetensors or .npz, will do as well,
with those arguments as the config. Labels are class indices, −1 for none, in place of one-hot vectors. The augmentation
path is for training only and is left out.

Karras et al. 2022, appendix F.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from score_jax import networks, parameterization
from score_jax.interop import files, persistence
from score_jax.interop.conditions import NoiseLevel
from score_jax.interop.files import Contents
from score_jax.interop.mapping import Tensors, named
from score_jax.interop.preconditioned import EDMPrecond, Preconditioned, VEPrecond, VPPrecond, iDDPMPrecond
from score_jax.interop.settings import MOST_LEVELS, Config, Examples, choice, number, value, whole, wholes
from score_jax.interop.torch_files import Tensor
from score_jax.networks import GaussianFourier, ResidualUNet, positional
from score_jax.parameterization import Parameterization
from score_jax.score import Condition
from score_jax.sde import EDM, SDE
from score_jax.types import InputError

SPARE = r"u|model\.(.*\.resample_filter|map_augment\.weight)"  # u: iDDPM's noise levels, which its constants give
_PATHS = {"standard": "none", "skip": "skip", "residual": "residual"}


def read(path: str | os.PathLike) -> Contents:
    """Returns the weights of a .pkl, .safetensors or .npz, and the constructor's arguments that a .pkl has."""
    with open(path, "rb") as file:
        start = file.read(9)
    # The length of a header, with which safetensors begins, may have the first byte of a pickle.
    if start[:1] != b"\x80" or start[8:] == b"{":
        return files.read(path)
    contents = persistence.read(path)
    module = contents.get("ema") if isinstance(contents, dict) else contents
    if not isinstance(module, persistence.Module):
        raise InputError("has no network ema: expected a dict with one, as EDM publishes")
    config = module.arguments | {"class_name": module.kind}
    return Contents(persistence.state_dict(module), config, os.stat(path).st_size)


def state_dict(contents: Any, use_ema: bool) -> dict[str, Tensor | np.ndarray]:
    """Returns the tensors; a published file has averages only."""
    del use_ema
    return named(contents, "state dict")


def network(tensors: Tensors, config: Config) -> Preconditioned:
    """Returns the network inside its preconditioner, as the constructor's arguments describe them."""
    coefficients, default, outputs, _ = _PRECONDITIONERS[_kind(config)]
    net = _NETWORKS[choice(config, "model_type", _NETWORKS, default)](tensors, config)
    return Preconditioned(net.clone(outputs=outputs), coefficients(config), whole(config, "img_resolution"))


def _kind(config: Config) -> str:
    name = value(config, "class_name", "EDMPrecond")  # of a pickle, or "training.networks.EDMPrecond" in a config
    short = name.rsplit(".", 1)[-1] if isinstance(name, str) else name
    return choice({"class_name": short}, "class_name", _PRECONDITIONERS)


# Coefficients, network unless given, its outputs in multiples of the image's channels, and range of noise to sample,
# of the coefficients.
_PRECONDITIONERS: dict[str, tuple[Any, str, int, Callable[[Any], EDM]]] = {
    "EDMPrecond": (lambda c: EDMPrecond(number(c, "sigma_data", 0.5)), "DhariwalUNet", 1, lambda _: EDM()),
    "VPPrecond": (
        lambda c: VPPrecond(number(c, "beta_d", 19.9), number(c, "beta_min", 0.1), number(c, "M", 1000)),
        "SongUNet",
        1,
        lambda _: EDM(),
    ),
    "VEPrecond": (lambda c: VEPrecond(), "SongUNet", 1, lambda _: EDM(0.02, 100.0)),
    "iDDPMPrecond": (
        lambda c: iDDPMPrecond(number(c, "C_1", 0.001), number(c, "C_2", 0.008), whole(c, "M", 1000, most=MOST_LEVELS)),
        "DhariwalUNet",
        2,  # the second half is the learned variance, which D does without
        lambda iddpm: EDM(float(iddpm.levels[-2])),  # from the last level above 0, up to what EDM samples from
    ),
}


def _shared(config: Config, channels: int, multipliers: tuple[int, ...], blocks: int, attended: list[int]) -> dict:
    choice(config, "channel_mult_emb", [4], 4)
    levels, side = wholes(config, "channel_mult", multipliers), whole(config, "img_resolution")
    resolutions = wholes(config, "attn_resolutions", attended)
    return {
        "channels": whole(config, "model_channels", channels, most=4096),
        "multipliers": levels,
        "blocks": whole(config, "num_blocks", blocks, most=64),
        "attention": tuple(level for level in range(len(levels)) if side >> level in resolutions),
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


def examples(tensors: Tensors, config: Config) -> Examples:
    """Returns what the network is given."""
    del tensors
    return Examples(
        whole(config, "img_resolution"), whole(config, "img_channels"), whole(config, "label_dim", 0, low=0)
    )


def score(module: Preconditioned, config: Config) -> tuple[SDE, Parameterization, Condition]:
    """Returns SDE, parameterization and condition of a denoiser at σ."""
    *_, noise = _PRECONDITIONERS[_kind(config)]
    return noise(module.coefficients), parameterization.as_given(parameterization.x0), NoiseLevel()
