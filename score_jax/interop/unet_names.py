"""What three sources call the arrays of a `ResidualUNet`, and how they lay them out.

A network here is the same wherever its weights come from; a source differs in the names of layers and in what it makes
of some of them. Each `…_entries` lists, for every array, its name and axes there.
"""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from score_jax.interop.mapping import Entry, shapes
from score_jax.interop.preconditioned import Preconditioned
from score_jax.networks import ResidualUNet

# A layer's form in the source: name of an array here -> (name there, axes here, axes there)
_FORMS = {
    "conv": {"kernel": (".weight", "HWIO", "OIHW"), "bias": (".bias", "O", "O")},
    "dense": {"kernel": (".weight", "IO", "OI"), "bias": (".bias", "O", "O")},
    "dense_as_conv": {"kernel": (".weight", "IO", "OI11"), "bias": (".bias", "O", "O")},
    "nin": {"kernel": (".W", "IO", "IO"), "bias": (".b", "O", "O")},
    "conv_as_nin": {"kernel": (".W", "11IO", "IO"), "bias": (".b", "O", "O")},
    "norm": {"scale": (".weight", "1C", "C"), "bias": (".bias", "1C", "C")},
    "table": {"kernel": (".weight", "LC", "LC")},
    "array": {"frequencies": ("", "K", "K"), "sigmas": ("", "L", "L")},
}

Namer = Callable[[str, str], tuple[str, str]]  # (layer, layer inside it or "") -> its name there, its form


def _entries(module, channels: int, prefix: int, name: Namer) -> tuple[Entry, ...]:
    """Returns the entries of a module that is, `prefix` names deep, a `ResidualUNet`."""
    image = jax.ShapeDtypeStruct((1, 8, 8, channels), jnp.float32)
    found = []
    for path, shape in shapes(module, image, jax.ShapeDtypeStruct((1,), jnp.float32)).items():
        *layer, array = path[1 + prefix :]
        there, form = name(*_split(layer))
        suffix, ours, theirs = _FORMS[form][array]
        part = ("qkv".index(layer[-1]), 3) if there.endswith(".qkv") else (0, 1)
        found.append(Entry(path, shape, there + suffix, ours, theirs, part))
    return tuple(found)


def _split(layer: list[str]) -> tuple[str, str]:
    """Splits a path into the layer that sources list and what is inside it: ("down_0_1/attention", "q")."""
    depth = 2 if len(layer) > 1 and (layer[0] == "condition" or layer[1] == "attention") else 1
    return "/".join(layer[:depth]), "/".join(layer[depth:])


def _numbers(layer: str) -> tuple[str, list[int]]:
    """Splits "down_0_1" into what it is and where: ("down", [0, 1])."""
    kind, *numbers = layer.removesuffix("/attention").split("_")
    return kind, [int(n) for n in numbers]


# score SDE: all_modules.{i}, in the order of construction

_BLOCK = {
    "norm_0": ("GroupNorm_0", "norm"),
    "conv_0": ("Conv_0", "conv"),
    "embedding": ("Dense_0", "dense"),
    "norm_1": ("GroupNorm_1", "norm"),
    "conv_1": ("Conv_1", "conv"),
}
_ATTENTION = {
    "norm": ("GroupNorm_0", "norm"),
    **{name: (f"NIN_{i}", "nin") for i, name in enumerate(["q", "k", "v", "out"])},
}


@functools.lru_cache(maxsize=8)
def score_sde_entries(module: ResidualUNet, channels: int) -> tuple[Entry, ...]:
    """Returns the entries of a network of `yang-song/score_sde_pytorch`."""
    places = {layer: i for i, layer in enumerate(construction(module))}
    # BigGAN's blocks have a convolution for a shortcut, DDPM's a dense layer of pixels ("network in network").
    shortcut = {"shortcut": ("Conv_2", "conv") if module.resampling == "block" else ("NIN_0", "conv_as_nin")}
    resampled = "Conv_0" if module.fir is None else "Conv2d_0"

    def name(layer: str, inner: str) -> tuple[str, str]:
        if layer == "output_scale":
            return "sigmas", "array"
        place, (kind, numbers) = f"all_modules.{places[layer]}", _numbers(layer)
        if inner:
            leaf, form = (_ATTENTION if layer.endswith("attention") else _BLOCK | shortcut)[inner]
            return f"{place}.{leaf}", form
        if kind == "embedding":
            return f"{place}.W", "array"
        if kind == "input":
            return f"{place}.{resampled if module.input_path == 'residual' else 'Conv_0'}", "conv"
        joins = (
            kind == "out" and module.output_path == "residual" and numbers not in ([], [len(module.multipliers) - 1])
        )
        if kind in ("downsample", "upsample") or joins:
            return f"{place}.{resampled}", "conv"
        return place, "dense" if kind.startswith("condition") else "norm" if kind == "norm" else "conv"

    return _entries(module, channels, 0, name)


def construction(net: ResidualUNet) -> Iterator[str]:
    """Yields the layers in the order in which score SDE makes them: their numbers in all_modules."""
    resolutions, last = range(len(net.multipliers)), len(net.multipliers) - 1
    attended = {resolution % len(resolutions) for resolution in net.attention}
    yield from ["embedding"] if net.embedding is not None and net.embedding.keeps_arrays else []
    yield from ["condition/inner", "condition/outer", "in"]
    for resolution in resolutions:
        for i in range(net.blocks):
            yield from [
                f"down_{resolution}_{i}",
                *([f"down_{resolution}_{i}/attention"] if resolution in attended else []),
            ]
        if resolution < last:
            yield from [f"downsample_{resolution}", *([f"input_{resolution}"] if net.input_path != "none" else [])]
    yield from ["middle_0", "middle_0/attention", "middle_1"]
    for resolution in reversed(resolutions):
        yield from [f"up_{resolution}_{i}" for i in range(net.blocks + 1)]
        yield from [f"up_{resolution}_{net.blocks}/attention"] if resolution in attended else []
        suffix = f"_{resolution}" if resolution else ""
        if net.output_path == "skip" or (net.output_path == "residual" and resolution == last):
            yield f"norm{suffix}"
        yield from [f"out{suffix}"] if net.output_path == "skip" else []
        yield from [f"out_{resolution}"] if net.output_path == "residual" else []
        yield from [f"upsample_{resolution}"] if resolution else []
    yield from [] if net.output_path == "skip" else ["norm", "out"]


# diffusers: down_blocks.{i}, mid_block, up_blocks.{i}, the last of which is the finest

_RESNET = {
    "norm_0": ("norm1", "norm"),
    "conv_0": ("conv1", "conv"),
    "embedding": ("time_emb_proj", "dense"),
    "norm_1": ("norm2", "norm"),
    "conv_1": ("conv2", "conv"),
    "shortcut": ("conv_shortcut", "conv"),
}
_ATTN = {
    "norm": ("group_norm", "norm"),
    **{name: (f"to_{name}", "dense") for name in "qkv"},
    "out": ("to_out.0", "dense"),
}
_SINGLE = {
    "embedding": ("time_proj.weight", "array"),
    "condition/inner": ("time_embedding.linear_1", "dense"),
    "condition/outer": ("time_embedding.linear_2", "dense"),
    "condition/label": ("class_embedding", "table"),
    "in": ("conv_in", "conv"),
    "norm": ("conv_norm_out", "norm"),
    "out": ("conv_out", "conv"),
}


@functools.lru_cache(maxsize=8)
def diffusers_entries(module: ResidualUNet, channels: int) -> tuple[Entry, ...]:
    """Returns the entries of a `UNet2DModel` of diffusers."""
    last, block = len(module.multipliers) - 1, module.resampling == "block"

    def name(layer: str, inner: str) -> tuple[str, str]:
        if layer in _SINGLE:
            return _SINGLE[layer]
        (kind, (resolution, *place)), attention = _numbers(layer), layer.endswith("attention")
        i = 0 if attention and kind == "up" and module.attention_up == "last" else place[0] if place else 0
        list_ = f"attentions.{i}" if attention else f"resnets.{i}"
        prefix = {
            "down": f"down_blocks.{resolution}.{list_}",
            "up": f"up_blocks.{last - resolution}.{list_}",
            "middle": f"mid_block.{'attentions.0' if attention else f'resnets.{resolution}'}",
            "downsample": f"down_blocks.{resolution}.{'resnet_down' if block else 'downsamplers.0.conv'}",
            "upsample": f"up_blocks.{last - resolution}.{'resnet_up' if block else 'upsamplers.0.conv'}",
            "input": f"down_blocks.{resolution}.skip_conv",
            "norm": f"up_blocks.{last - resolution}.skip_norm",
            "out": f"up_blocks.{last - resolution}.skip_conv",
        }[kind]
        if not inner:
            return prefix, "norm" if kind == "norm" else "conv"
        leaf, form = (_ATTN if attention else _RESNET)[inner]
        return f"{prefix}.{leaf}", form

    return _entries(module, channels, 0, name)


# EDM: enc.{R}x{R}_{what} and dec.{R}x{R}_{what} for images of R pixels

_UNET_BLOCK = {
    "norm_0": ("norm0", "norm"),
    "conv_0": ("conv0", "conv"),
    "embedding": ("affine", "dense"),
    "norm_1": ("norm1", "norm"),
    "conv_1": ("conv1", "conv"),
    "shortcut": ("skip", "conv"),
    "norm": ("norm2", "norm"),
    **dict.fromkeys("qkv", ("qkv", "dense_as_conv")),
    "out": ("proj", "dense_as_conv"),
}
_MAPS = {
    "embedding": ("map_noise.freqs", "array"),
    "condition/inner": ("map_layer0", "dense"),
    "condition/outer": ("map_layer1", "dense"),
    "condition/label": ("map_label", "dense"),
}


@functools.lru_cache(maxsize=8)
def edm_entries(module: Preconditioned, channels: int) -> tuple[Entry, ...]:
    """Returns the entries of a preconditioned network of EDM."""
    net, side = module.network, module.resolution
    last, song = len(net.multipliers) - 1, net.modulation == "shift"
    joined = {"skip": "aux_skip", "residual": "aux_residual", "none": ""}[net.input_path]

    def part(way: str, resolution: int, what: str) -> str:
        return f"model.{way}.{side >> resolution}x{side >> resolution}_{what}"

    def name(layer: str, inner: str) -> tuple[str, str]:
        if layer in _MAPS:
            there, form = _MAPS[layer]
            return f"model.{there}", form
        kind, (resolution, *place) = _numbers(f"{layer}_0" if layer in ("in", "norm", "out") else layer)
        i = place[0] if place else 0
        if kind in ("norm", "out") and not song:
            return f"model.out_{'norm' if kind == 'norm' else 'conv'}", "norm" if kind == "norm" else "conv"
        prefix = {
            "in": lambda: part("enc", 0, "conv"),
            "down": lambda: part("enc", resolution, f"block{i}"),
            "downsample": lambda: part("enc", resolution + 1, "down"),
            "input": lambda: part("enc", resolution + 1, joined),
            "middle": lambda: part("dec", last, f"in{resolution}"),
            "up": lambda: part("dec", resolution, f"block{i}"),
            "upsample": lambda: part("dec", resolution - 1, "up"),
            "norm": lambda: part("dec", resolution, "aux_norm"),
            "out": lambda: part("dec", resolution, "aux_conv"),
        }[kind]()
        if not inner:
            return prefix, "norm" if kind == "norm" else "conv"
        leaf, form = _UNET_BLOCK[inner]
        return f"{prefix}.{leaf}", form

    return _entries(module, channels, 1, name)
