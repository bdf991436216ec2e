"""Where diffusers puts the weights, the config and the scheduler of a `UNet2DModel`, here or on the hub.

    FOLDER/config.json, FOLDER/diffusion_pytorch_model.safetensors       save_pretrained of a network
    FOLDER/unet/…, FOLDER/scheduler/scheduler_config.json                of a pipeline
    FOLDER/unet/…, FOLDER/unet_ema/…                                     a checkpoint in training: raw weights, averages

Weights are NAME.safetensors or NAME.bin, in one file or in parts that NAME.safetensors.index.json lists, and of a
variant, NAME.fp16.safetensors. The variants "ema" and "non_ema" are averages and raw weights; of others there must be
one, and which is meant can be said by giving the file itself in place of the folder. A folder named unet or unet_ema
is taken for what it is, whatever lies beside it.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from score_jax.interop import files
from score_jax.interop.files import Contents
from score_jax.interop.mapping import named
from score_jax.pickles import printable
from score_jax.types import InputError

_NAME = "diffusion_pytorch_model"
_KINDS = ("safetensors", "bin")
_WEIGHTS = rf"{_NAME}(?:\.(\w+))??\.({'|'.join(_KINDS)})(\.index(?:\.(\w+))?\.json)?"  # the variant is in either place
_OTHERS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".pkl", ".npz", ".msgpack", ".h5", ".onnx")

_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # attention before version 0.17


def read_folder(path: str | os.PathLike[str], use_ema: bool) -> Contents:
    """Returns the weights of a folder, of a file, or of a model of the hub, and its config.

    The config is config.json's, with that of the scheduler, if there is one, as "scheduler".
    """
    if Path(path).is_file():
        return _read_file(Path(path))
    folder = Path(path) if Path(path).is_dir() else _fetched(os.fspath(path))
    network = _network_of(folder, use_ema)
    weights = _choose(network, use_ema) if (network / "config.json").is_file() else None
    if weights is None:
        there = sorted(p.name for p in network.iterdir() if p.suffix in _OTHERS)[:3]
        found = f"; there is {printable(', '.join(there))}" if there else ""
        expected = " or ".join(f"{_NAME}.{kind}" for kind in _KINDS)
        raise InputError(f"is no UNet2DModel's folder: expected config.json and {expected} in {network}{found}")
    return _with_config(weights)


def _read_file(path: Path) -> Contents:
    """Reads a file that `interop.save` wrote, with its config inside, or one of a folder, with it beside."""
    part = re.fullmatch(rf"({_NAME}.*)-\d+-of-\d+(\..*)", path.name)
    if part:
        raise InputError("is one part of a network: give the folder, or the index (….index.json) of all parts")
    beside = re.fullmatch(_WEIGHTS, path.name) and (path.parent / "config.json").is_file()
    return _with_config(path) if beside else _named(files.read(path))


def _with_config(weights: Path) -> Contents:
    network = weights.parent
    config: dict[str, Any] = dict(files.read_source_config(network / "config.json"))
    scheduler = next((path for path in _schedulers(network) if path.is_file()), None)
    if scheduler:
        config["scheduler"] = files.read_source_config(scheduler)
    return _named(files.read(weights))._replace(config=config)


def _schedulers(network: Path) -> Iterator[Path]:
    """Yields where the config of a network's scheduler can be."""
    yield from (network / name for name in ("scheduler_config.json", "scheduler/scheduler_config.json"))
    pipeline = network.resolve().parent
    if network.resolve().name in ("unet", "unet_ema"):
        yield pipeline / "scheduler/scheduler_config.json"
        if pipeline.name.startswith("checkpoint-"):  # beside which a training saves its pipeline at the end
            yield pipeline.parent / "scheduler/scheduler_config.json"


def _named(contents: Contents) -> Contents:
    """Gives the tensors today's names."""
    old = re.compile(rf"(attentions\.\d+)\.({'|'.join(_OLD)})\.")
    state = named(contents.value, "state dict")
    renamed = {old.sub(lambda m: f"{m[1]}.{_OLD[m[2]]}.", name): tensor for name, tensor in state.items()}
    if "time_proj.W" in renamed:
        renamed.setdefault("time_proj.weight", renamed["time_proj.W"])
    return contents._replace(value=renamed)


def _network_of(folder: Path, use_ema: bool) -> Path:
    """Returns the folder of the network: this one, or unet/ or unet_ema/ inside."""
    raw, averages = folder / "unet", folder / "unet_ema"
    if not raw.is_dir() and not averages.is_dir():
        _require_raw(folder.name if folder.name == averages.name else "", use_ema)
        return folder
    codec = next((name for name in ("vqvae", "vae") if (folder / name).is_dir()), None)
    if codec:
        raise InputError(
            f"is a latent diffusion pipeline: its network makes codes of {codec}/, which is not read, and no images "
            "(the network alone is in unet/)"
        )
    if averages.is_dir() and (use_ema or not raw.is_dir()):
        _require_raw("unet_ema/", use_ema)
        return averages
    return raw


def _require_raw(averages: str, use_ema: bool) -> None:
    if averages and not use_ema:
        raise InputError(f"has averages only ({averages}), where the raw weights are asked for")


def _choose(network: Path, use_ema: bool) -> Path | None:
    """Returns the file of weights, or the index of its parts, that is meant; None where there is none."""
    found: dict[str, Path] = {}
    for path in sorted(network.iterdir(), key=_preference):
        match = re.fullmatch(_WEIGHTS, path.name)
        if match:
            found.setdefault(match[1] or match[4] or "", path)
    preferred = ["ema", ""] if use_ema else ["non_ema", ""]
    others = sorted(found.keys() - {"", "ema", "non_ema"})
    if len(others) > 1 and not found.keys() & set(preferred):
        raise InputError(f"has the variants {' and '.join(others)}: give the file of the one that is meant")
    variant = next((name for name in [*preferred, *others, *found] if name in found), None)
    _require_raw("the variant ema" if variant == "ema" else "", use_ema)
    return None if variant is None else found[variant]


def _preference(path: Path) -> tuple[bool, bool, str]:
    """One file before an index of several, safetensors before pickles: first of the same variant."""
    return f".{_KINDS[0]}" not in path.name, path.suffix == ".json", path.name


def is_hub_id(path: str | os.PathLike[str]) -> bool:
    """Returns whether this, not being here, can be the name of a model of the hub: owner/name."""
    name = os.fspath(path)
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not Path(name).exists() and not name.endswith(_OTHERS)


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

    def fetch(weights: Sequence[str]) -> Path:
        wanted = ["config.json", *weights]
        places = [f"{folder}{file}" for folder in ("", "unet/", "unet_ema/") for file in wanted]
        settings = ["scheduler_config.json", "scheduler/scheduler_config.json"]
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=[*places, *settings]))

    try:
        usual = f"{_NAME}.{_KINDS[0]}"
        folder = fetch([usual])
        # Parts and variants, and only where there are none of these, pickles: each a second copy of the same numbers.
        for more in (f"{_NAME}*.{_KINDS[0]}*", f"{_NAME}*.{_KINDS[1]}*"):
            if not any(folder.rglob(f"{_NAME}*")):
                folder = fetch([more])
    except (OSError, ValueError) as error:  # what the hub raises for no network, no such model and no permission
        raise InputError(f"cannot be fetched from the hub: {' '.join(str(error).split())[:300]}") from error
    return folder
