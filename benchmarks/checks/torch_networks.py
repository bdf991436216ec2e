"""The published U-Nets in PyTorch, from the fields of `networks.ResidualUNet`: the peer in comparisons of speed.

Equations, options and names are those of `networks.residual_unet` and `networks.residual_blocks`; the code is plain
PyTorch: NCHW, `nn.Conv2d`, `nn.GroupNorm`, `F.scaled_dot_product_attention`, filters as depthwise convolutions. It
compiles to one graph, and runs under autocast and in `channels_last`. Sizes are divisible by 2^(resolutions − 1).

A submodule is called what its Flax counterpart is called, and so `load` is one walk over the variables:

    Flax                                     PyTorch
    kernel (3, 3, in, out)                   weight (out, in, 3, 3)
    kernel (3, 3, in, out), transposed       weight (in, out, 3, 3), turned by 180°
    kernel (in, out)                         weight (out, in)
    scale, bias (1, C)                       weight, bias (C,)
    frequencies (K,), in "fixed"             frequencies (K,), a buffer

Parameters start as PyTorch starts them, whatever `initialization` says.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from score_jax.networks import DivideBySigma, ResidualUNet, embeddings
from score_jax.networks.layers import attended_resolutions
from score_jax.networks.norms import num_groups
from score_jax.types import InputError, PyTree

TRANSFORMS = {None: torch.positive, jnp.log: torch.log}  # `GaussianFourier.of`
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "frequencies": "frequencies"}


def unet(module: ResidualUNet, channels: int) -> nn.Module:
    """Returns the network in PyTorch: `(x (B, C, H, W), cond (B,), label (B,) or None) -> F (B, outputs·C, H, W)`.

    Labels are integers, negative for no class; out-of-range ones are no class either, where Flax returns NaN.

    Args:
      module: the Flax network, whose fields are read.
      channels: C, of the images.

    Raises:
      InputError: for a field that has no counterpart here.
    """
    supported = {
        "dtype": module.dtype is None,
        "remat": not module.remat,
        "fir": module.fir is None or len(module.fir) % 2 == 0,
        "embedding": isinstance(module.embedding, embeddings.Sinusoidal)
        or (isinstance(module.embedding, embeddings.GaussianFourier) and module.embedding.of in TRANSFORMS),
        "output_scale": module.output_scale in (None, DivideBySigma()),
    }
    refused = [name for name, can in supported.items() if not can]
    if refused:
        raise InputError(
            f"the PyTorch network takes no such {', '.join(refused)}: leave these as the presets have them"
        )
    return UNet(module, channels)


def load(network: nn.Module, variables: PyTree) -> None:
    """Copies the Flax `variables` `{"params": …, "fixed": …}` into the network that `unet` made of the same module.

    Raises:
      InputError: if a parameter is missing, left over or of another shape; the network is then unchanged.
    """
    transposed = {name for name, layer in network.named_modules() if isinstance(layer, nn.ConvTranspose2d)}
    given = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        _, *names, kind = (key.key for key in path)
        name = ".".join([*names, LEAVES.get(kind, kind)])
        given[name] = _torch_layout(np.asarray(leaf), kind, ".".join(names) in transposed)
    expected = network.state_dict()
    _require_none("missing", expected.keys() - given.keys())
    _require_none("left over", given.keys() - expected.keys())
    _require_none("of another shape", {name for name in given if given[name].shape != expected[name].shape})
    network.load_state_dict(given)


def _torch_layout(value: np.ndarray, kind: str, transposed: bool) -> Tensor:
    if kind == "kernel" and value.ndim == 4:
        value = value[::-1, ::-1].transpose(2, 3, 0, 1) if transposed else value.transpose(3, 2, 0, 1)
    elif kind == "kernel":
        value = value.T
    else:
        value = value.reshape(-1)
    return torch.from_numpy(value.copy())


def _require_none(fault: str, names: set[str]) -> None:
    if names:
        raise InputError(f"{len(names)} parameters are {fault}, such as {min(names)}: load those of the same module")


class UNet(nn.ModuleDict):
    """The network; its layers are items, since `in` is no attribute's name."""

    def __init__(self, net: ResidualUNet, channels: int):
        super().__init__()
        self.resolutions, self.blocks, self.skip_scale = len(net.multipliers), net.blocks, net.skip_scale
        self.resampling, self.rescale = net.resampling, net.rescale
        self.input_path, self.input_combine, self.output_path = net.input_path, net.input_combine, net.output_path
        self.divide_by_sigma = net.output_scale is not None
        self["embedding"] = _embedding(net.embedding)
        self["condition"] = Condition(net)
        width, skips = self._add_down(net, channels)
        self["middle_0"] = ResidualBlock(net, width, width, attention=True)
        self["middle_1"] = ResidualBlock(net, width, width)
        self._add_up(net, width, skips, net.outputs * channels)

    def forward(self, x: Tensor, cond: Tensor, label: Tensor | None = None) -> Tensor:
        emb = self["condition"](self["embedding"](cond), label)
        h, skips = self._down(2 * x - 1 if self.rescale else x, emb)
        h = self["middle_1"](self["middle_0"](h, emb), emb)
        out = self._up(h, skips, emb).to(x.dtype)
        return out / cond[:, None, None, None] if self.divide_by_sigma else out

    def _add_down(self, net: ResidualUNet, channels: int) -> tuple[int, list[int]]:
        """Adds the layers of the way down; returns the features at its end, and those of all its outputs."""
        attended, width, image = attended_resolutions(net.attention, self.resolutions), net.channels, channels
        self["in"] = nn.Conv2d(channels, width, 3, padding=1)
        skips = [width]
        for resolution, multiplier in enumerate(net.multipliers):
            for i in range(self.blocks):
                features = net.channels * multiplier
                self[f"down_{resolution}_{i}"] = ResidualBlock(net, width, features, attention=resolution in attended)
                width = features
                skips.append(width)
            if resolution < self.resolutions - 1:
                self[f"downsample_{resolution}"] = _resampling(net, width, _conv_down, _downsample)
                width, image = self._add_input(net, resolution, width, image)
                skips.append(width)
        return width, skips

    def _add_input(self, net: ResidualUNet, resolution: int, width: int, image: int) -> tuple[int, int]:
        """Adds what joins the image to h; returns the features of h and of the image then."""
        if self.input_path == "none":
            return width, image
        if self.input_path == "residual":
            self[f"input_{resolution}"] = _conv_down(net, image, width)
            return width, width
        self[f"shrink_{resolution}"] = _downsample(net, image)
        self[f"input_{resolution}"] = nn.Conv2d(image, width, 1)
        return (width if self.input_combine == "sum" else 2 * width), image

    def _add_up(self, net: ResidualUNet, width: int, skips: list[int], channels: int) -> None:
        attended = attended_resolutions(net.attention, self.resolutions)
        for resolution in reversed(range(self.resolutions)):
            features = net.channels * net.multipliers[resolution]
            for i in range(self.blocks + 1):
                attention = resolution in attended and (net.attention_up == "every" or i == self.blocks)
                self[f"up_{resolution}_{i}"] = ResidualBlock(net, width + skips.pop(), features, attention=attention)
                width = features
            self._add_output(net, resolution, width, channels)
            if resolution:
                self[f"upsample_{resolution}"] = _resampling(net, width, _conv_up, _upsample)
        if self.output_path != "skip":
            self._add_head(net, width, channels, "")

    def _add_output(self, net: ResidualUNet, resolution: int, width: int, channels: int) -> None:
        if self.output_path == "skip":
            self._add_head(net, width, channels, f"_{resolution}" if resolution else "")
            self[f"enlarge_{resolution}"] = _upsample(net, channels)
        elif self.output_path == "residual" and resolution == self.resolutions - 1:
            self._add_head(net, width, width, f"_{resolution}")
        elif self.output_path == "residual":
            self[f"out_{resolution}"] = _conv_up(net, net.channels * net.multipliers[resolution + 1], width)

    def _add_head(self, net: ResidualUNet, width: int, channels: int, suffix: str) -> None:
        self[f"norm{suffix}"] = _norm(net, width)
        self[f"out{suffix}"] = nn.Conv2d(width, channels, 3, padding=1)

    def _down(self, image: Tensor, emb: Tensor) -> tuple[Tensor, list[Tensor]]:
        h = self["in"](image)
        skips = [h]
        for resolution in range(self.resolutions):
            for i in range(self.blocks):
                h = self[f"down_{resolution}_{i}"](h, emb)
                skips.append(h)
            if resolution < self.resolutions - 1:
                h, image = self._with_input(self._resampled(f"downsample_{resolution}", h, emb), image, resolution)
                skips.append(h)
        return h, skips

    def _up(self, h: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        output = None
        for resolution in reversed(range(self.resolutions)):
            for i in range(self.blocks + 1):
                h = self[f"up_{resolution}_{i}"](torch.cat([h, skips.pop()], dim=1), emb)
            h, output = self._with_output(h, output, resolution)
            if resolution:
                h = self._resampled(f"upsample_{resolution}", h, emb)
        return output if self.output_path == "skip" else self._head(h, "")

    def _resampled(self, name: str, h: Tensor, emb: Tensor) -> Tensor:
        return self[name](h) if self.resampling == "conv" else self[name](h, emb)

    def _with_input(self, h: Tensor, image: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
        if self.input_path == "none":
            return h, image
        if self.input_path == "residual":
            h = _residual(self[f"input_{resolution}"](image), h, self.skip_scale)
            return h, h
        image = self[f"shrink_{resolution}"](image)
        features = self[f"input_{resolution}"](image)
        return (features + h if self.input_combine == "sum" else torch.cat([features, h], dim=1)), image

    def _with_output(self, h: Tensor, output: Tensor | None, resolution: int) -> tuple[Tensor, Tensor | None]:
        if self.output_path == "none":
            return h, None
        if self.output_path == "skip":
            head = self._head(h, f"_{resolution}" if resolution else "")
            return h, head if output is None else self[f"enlarge_{resolution}"](output) + head
        if output is None:
            return h, self._head(h, f"_{resolution}")
        h = _residual(self[f"out_{resolution}"](output), h, self.skip_scale)
        return h, h

    def _head(self, h: Tensor, suffix: str) -> Tensor:
        return self[f"out{suffix}"](F.silu(self[f"norm{suffix}"](h)))


class ResidualBlock(nn.Module):
    """A residual block `(x (B, C, H, W), emb (B, E)) -> (B, features, H', W')`, and attention where asked for."""

    def __init__(
        self,
        net: ResidualUNet,
        width: int,
        features: int,
        *,
        attention: bool = False,
        resample: nn.Module | None = None,
    ):
        super().__init__()
        self.modulate, terms = {"shift": (_shift, 1), "scale_shift": (_scale_shift, 2)}[net.modulation]
        self.skip_scale = net.skip_scale
        self.norm_0 = _norm(net, width)
        self.resample = resample or nn.Identity()
        self.conv_0 = nn.Conv2d(width, features, 3, padding=1)
        self.embedding = nn.Linear(4 * net.channels, terms * features)
        self.norm_1 = _norm(net, features)
        self.dropout = nn.Dropout(net.dropout)
        self.conv_1 = nn.Conv2d(features, features, 3, padding=1)
        projected = width != features or (resample is not None and net.project_resampled)
        self.shortcut = nn.Conv2d(width, features, 1) if projected else nn.Identity()
        self.attention = Attention(net, features) if attention else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv_0(self.resample(F.silu(self.norm_0(x))))
        h = self.modulate(self.norm_1, h, self.embedding(emb)[:, :, None, None])
        h = self.conv_1(self.dropout(F.silu(h)))
        return self.attention(_residual(self.shortcut(self.resample(x)), h, self.skip_scale))


def _shift(norm: nn.Module, h: Tensor, shift: Tensor) -> Tensor:
    return norm(h + shift)


def _scale_shift(norm: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
    scale, shift = emb.chunk(2, dim=1)
    return norm(h) * (1 + scale) + shift


def _residual(x: Tensor, h: Tensor, scale: float) -> Tensor:
    return x + h if scale == 1 else (x + h) * scale  # uncompiled, a product with one would be a kernel of its own


class Attention(nn.Module):
    """Residual self-attention between pixels, `(B, C, H, W)` to the same shape."""

    def __init__(self, net: ResidualUNet, channels: int):
        super().__init__()
        most = channels // net.head_channels if net.head_channels else 1
        self.heads = num_groups(channels, most, 1)
        self.skip_scale = net.skip_scale
        self.norm = _norm(net, channels)
        self.q, self.k, self.v, self.out = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = (layer(h).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return _residual(x, self.out(mixed).transpose(1, 2).reshape(x.shape), self.skip_scale)


class Condition(nn.Module):
    """Embeds noise `(B, K)` and label `(B,)` together, `(B, 4 channels)`; the label enters at `label_layer`."""

    def __init__(self, net: ResidualUNet):
        super().__init__()
        noise, features = net.embedding.features, 4 * net.channels
        self.num_classes = net.num_classes
        self.label_layer = net.label_layer if net.num_classes else "none"
        self.inner, self.outer = nn.Linear(noise, features), nn.Linear(features, features)
        if self.label_layer == "inner":
            self.label = nn.Linear(self.num_classes, noise)
        elif self.label_layer == "outer":
            self.label = nn.Linear(self.num_classes, features, bias=False)

    def forward(self, noise: Tensor, label: Tensor | None) -> Tensor:
        if label is not None and not self.num_classes:
            raise InputError("labels were given to a network without classes; build it with num_classes > 0")
        if self.label_layer == "inner":
            noise = noise + self.label(self._one_hot(label, noise) * self.num_classes**0.5)
        h = self.outer(F.silu(self.inner(noise)))
        if self.label_layer == "outer":
            h = h + self.label(self._one_hot(label, noise))
        return F.silu(h)

    def _one_hot(self, label: Tensor | None, noise: Tensor) -> Tensor:
        if label is None:
            return noise.new_zeros(len(noise), self.num_classes)
        # Unlike `F.one_hot`, zeros for a negative label.
        return (label[:, None] == torch.arange(self.num_classes, device=label.device)).to(noise.dtype)


class Sinusoidal(nn.Module):
    """Sines and cosines of `cond` `(B,)` at geometrically spaced frequencies, `(B, features)`."""

    def __init__(self, embedding: embeddings.Sinusoidal):
        super().__init__()
        frequencies = np.geomspace(embedding.lowest, embedding.highest, embedding.features // 2)
        self.register_buffer("frequencies", torch.tensor(frequencies, dtype=torch.float32), persistent=False)
        self.cosine_first = embedding.cosine_first

    def forward(self, cond: Tensor) -> Tensor:
        angles = cond[:, None] * self.frequencies
        return torch.cat([angles.cos(), angles.sin()] if self.cosine_first else [angles.sin(), angles.cos()], dim=1)


class GaussianFourier(nn.Module):
    """Sines and cosines of `cond` `(B,)`, or its logarithm, at normally distributed frequencies, `(B, features)`."""

    def __init__(self, embedding: embeddings.GaussianFourier):
        super().__init__()
        self.register_buffer("frequencies", embedding.scale * torch.randn(embedding.features // 2))
        self.of = TRANSFORMS[embedding.of]

    def forward(self, cond: Tensor) -> Tensor:
        angles = self.of(cond)[:, None] * (2 * np.pi * self.frequencies)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Filter(nn.Module):
    """Convolves every channel with `gain f ⊗ f`, sum f = 1, between zeros, and takes every `stride`-th result."""

    def __init__(self, taps: tuple[float, ...], channels: int, padding: int, *, stride: int = 1, gain: float = 1.0):
        super().__init__()
        self.register_buffer("kernel", _depthwise(taps[::-1], channels, gain), persistent=False)
        self.padding, self.stride = padding, stride

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(x, self.kernel, bias, self.stride, self.padding, groups=x.shape[1])


class Spread(nn.Module):
    """Inserts a zero after every number and convolves every channel with `4 f ⊗ f`: twice the resolution."""

    def __init__(self, taps: tuple[float, ...], channels: int):
        super().__init__()
        self.register_buffer("kernel", _depthwise(taps, channels, 4.0), persistent=False)
        self.padding = len(taps) // 2 - 1

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.kernel, stride=2, padding=self.padding, groups=x.shape[1])


class ConvAfter(nn.Conv2d):
    """A 3×3 convolution of what `before` makes of x."""

    def __init__(self, before: nn.Module, width: int, features: int, **options):
        super().__init__(width, features, 3, **options)
        self.before = before

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.before(x))


class FilteredTransposedConv(nn.ConvTranspose2d):
    """A transposed 3×3 convolution of stride 2, then the filter with gain 4, then the bias."""

    def __init__(self, taps: tuple[float, ...], width: int, features: int):
        super().__init__(width, features, 3, stride=2)
        self.after = Filter(taps, features, len(taps) // 2 - 1, gain=4.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(F.conv_transpose2d(x, self.weight, stride=2), self.bias)


def _depthwise(taps: tuple[float, ...], channels: int, gain: float) -> Tensor:
    kernel = gain * np.outer(taps, taps) / np.sum(taps) ** 2
    return torch.tensor(kernel, dtype=torch.float32).repeat(channels, 1, 1, 1)


def _embedding(embedding: embeddings.Sinusoidal | embeddings.GaussianFourier) -> nn.Module:
    return GaussianFourier(embedding) if embedding.keeps_arrays else Sinusoidal(embedding)


def _norm(net: ResidualUNet, channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(num_groups(channels, net.groups, net.group_channels), channels, net.epsilon)


def _downsample(net: ResidualUNet, channels: int) -> nn.Module:
    return Filter(net.fir, channels, len(net.fir) // 2 - 1, stride=2) if net.fir else nn.AvgPool2d(2)


def _upsample(net: ResidualUNet, channels: int) -> nn.Module:
    return Spread(net.fir, channels) if net.fir else nn.Upsample(scale_factor=2)


def _conv_down(net: ResidualUNet, width: int, features: int) -> nn.Module:
    if net.fir:
        return ConvAfter(Filter(net.fir, width, len(net.fir) // 2), width, features, stride=2)
    if net.stride_padding == "SAME":
        return ConvAfter(nn.ZeroPad2d((0, 1, 0, 1)), width, features, stride=2)
    return nn.Conv2d(width, features, 3, stride=2, padding=net.stride_padding)


def _conv_up(net: ResidualUNet, width: int, features: int) -> nn.Module:
    if net.fir:
        return FilteredTransposedConv(net.fir, width, features)
    return ConvAfter(nn.Upsample(scale_factor=2), width, features, padding=1)


def _resampling(
    net: ResidualUNet,
    width: int,
    conv: Callable[[ResidualUNet, int, int], nn.Module],
    resample: Callable[[ResidualUNet, int], nn.Module],
) -> nn.Module:
    """Returns a change of resolution by a convolution, or inside a residual block."""
    if net.resampling == "conv":
        return conv(net, width, width)
    return ResidualBlock(net, width, width, resample=resample(net, width))
