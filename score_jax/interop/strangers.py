"""Files that are no source's here, by their looks: a message says what they are rather than what they lack."""

import re
from collections.abc import Collection
from typing import Any

from score_jax.interop.mapping import unwrapped
from score_jax.types import InputError


class Stranger(InputError):
    """A file of a kind that is known, and not read."""


_KINDS = {  # the first bytes, as a regular expression
    rb"\x89HDF": "an HDF5 file, as Keras writes them",
    rb"GGUF": "a GGUF file",
    rb"\x93NUMPY": "one array of numpy.save: expected numpy.savez's arrays by name",
    rb"\x1f\x8b|\xfd7zXZ|BZh": "compressed: unpack it first",
    rb"version https://git-lfs": "a Git LFS pointer in place of the file: fetch the file itself, git lfs pull",
    rb"(?i)\s*<(!doctype )?html": "a web page in place of the file: fetch it anew, signed in if its host asks for it",
    rb"[\x81-\x8f][\xa0-\xbf][a-z]": "msgpack, as Flax writes it: only checkpoints of PyTorch are read",
}
_LIGHTNING = (
    "a checkpoint of PyTorch Lightning, whose names are its module's: save the network by itself, "
    "torch.save(module.network.state_dict(), ...), and give its source"
)
_KEYS = [  # of the dict that a file holds: what it has among others, and what it is then
    ({"state", "param_groups"}, "an optimizer's state, which has no network in it: give the model's file"),
    (
        {"base_lrs", "last_epoch"},
        "a learning-rate scheduler's state, which has no network in it: give the model's file",
    ),
    (
        {"growth_factor", "backoff_factor"},
        "a gradient scaler's state, which has no network in it: give the model's file",
    ),
    ({"state_dict", "pytorch-lightning_version"}, _LIGHTNING),
    ({"state_dict", "global_step"}, _LIGHTNING),
    ({"model", "opt", "step", "scaler"}, "a checkpoint of lucidrains' denoising-diffusion-pytorch, which is not read"),
]
_NAMES = [  # of tensors, as regular expressions of which each must be there, and whose they are
    (
        [r"time_embed\.0\.weight", r"input_blocks\.0\."],
        "a UNet of OpenAI's (improved-diffusion, guided-diffusion, consistency models)",
    ),
    ([r"(model|model_ema)\.diffusion_model"], "a latent diffusion model (CompVis, Stable Diffusion)"),
    ([r".*\battn2\.to_k\."], "a text-conditioned UNet of diffusers"),
    ([r".*(\blora_|\.lora\.)"], "LoRA's additions to another network"),
    ([r"(post_)?quant_conv\.weight", r"decoder\."], "an autoencoder, which is no diffusion model"),
    ([r"inner_model\."], "a model of k-diffusion"),
    ([r"x_embedder\.", r"blocks\.0\."], "a diffusion transformer (DiT)"),
    ([r"unet\.enc\.", r"unet\.dec\."], "a network of EDM2"),
    ([r"temb\.dense\.0\.", r"down\.0\.block\."], "a UNet of ermongroup/ddim or pesser/pytorch_diffusion"),
    (
        [r"(ema_model\.|online_model\.)?(model\.)?init_conv\.weight", r".*\bdowns\.0\."],
        "a UNet of lucidrains' denoising-diffusion-pytorch",
    ),
]


def refuse_kind(start: bytes) -> None:
    """Raises `Stranger` for a file that begins like one of another kind."""
    for pattern, what in _KINDS.items():
        if re.match(pattern, start):
            raise Stranger(f"is {what}")


def refuse(contents: Any) -> None:
    """Raises `Stranger` for what a file holds if it is known to be another's."""
    whole = contents[0] if isinstance(contents, list | tuple) and contents else contents
    if not isinstance(whole, dict):
        return
    for state in [whole, *(part for part in whole.values() if isinstance(part, dict))]:
        _refuse_names([unwrapped(name) for name in state if isinstance(name, str)])
    for keys, what in _KEYS:
        if keys <= whole.keys():
            raise Stranger(f"is {what}")


def _refuse_names(names: Collection[str]) -> None:
    for patterns, whose in _NAMES:
        if all(any(re.match(pattern, name) for name in names) for pattern in patterns):
            raise Stranger(f"is {whose}, which is not read: no source here has its layers (--source lists them)")
