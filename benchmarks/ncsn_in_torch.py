"""NCSN (Song & Ermon 2019) in PyTorch, as plainly as its paper has it, with the published names of parameters.

Of depth "base", for `against_torch`: weights of one network serve the other, through `score_jax.interop`.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, elu, instance_norm, interpolate


def conv(inputs: int, outputs: int, size: int = 3, dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    """Returns a convolution that keeps the size of its images."""
    return nn.Conv2d(inputs, outputs, size, padding=dilation * (size // 2), dilation=dilation, bias=bias)


class Norm(nn.Module):
    """InstanceNorm++ with [γ, α, β] for each noise level."""

    def __init__(self, features: int, levels: int):
        super().__init__()
        self.embed = nn.Embedding(levels, 3 * features)
        self.embed.weight.data[:, : 2 * features].normal_(1, 0.02)
        self.embed.weight.data[:, 2 * features :].zero_()

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Normalizes `x` `(B, C, H, W)`."""
        means = x.mean((2, 3))
        between = (means - means.mean(-1, keepdim=True)) / (means.var(-1, keepdim=True) + 1e-5).sqrt()
        gamma, alpha, beta = self.embed(level).chunk(3, -1)
        h = instance_norm(x) + (alpha * between)[..., None, None]
        return gamma[..., None, None] * h + beta[..., None, None]


class Halved(nn.Module):
    """A convolution and the means of 2×2 pixels."""

    def __init__(self, inputs: int, outputs: int, size: int):
        super().__init__()
        self.conv = conv(inputs, outputs, size)

    def forward(self, x: Tensor) -> Tensor:
        """Halves `x`."""
        return avg_pool2d(self.conv(x), 2)


class Residual(nn.Module):
    """Two convolutions and a shortcut; of other width it halves the size, unless it is dilated."""

    def __init__(self, inputs: int, outputs: int, levels: int, down: bool, dilation: int):
        super().__init__()
        halves = down and dilation == 1
        self.normalize1 = Norm(inputs, levels)
        self.conv1 = conv(inputs, inputs if down else outputs, dilation=dilation)
        self.normalize2 = Norm(inputs if down else outputs, levels)
        self.conv2 = Halved(inputs, outputs, 3) if halves else conv(inputs, outputs, dilation=dilation)
        if not down:
            self.shortcut: nn.Module = nn.Identity()
        else:
            self.shortcut = Halved(inputs, outputs, 1) if halves else conv(inputs, outputs, dilation=dilation)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Returns the block's output."""
        h = self.conv1(elu(self.normalize1(x, level)))
        return self.shortcut(x) + self.conv2(elu(self.normalize2(h, level)))


class Unit(nn.ModuleDict):
    """Residual convolution unit: blocks of two normalized convolutions."""

    def __init__(self, features: int, levels: int, blocks: int):
        self.names = [[f"{i}_1", f"{i}_2"] for i in range(1, blocks + 1)]
        names = [name for block in self.names for name in block]
        norms = {f"{name}_norm": Norm(features, levels) for name in names}
        super().__init__(norms | {f"{name}_conv": conv(features, features, bias=False) for name in names})

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Adds the blocks to `x`."""
        for block in self.names:
            h = x
            for name in block:
                h = self[f"{name}_conv"](elu(self[f"{name}_norm"](h, level)))
            x = x + h
        return x


class Layers(nn.Module):
    """Norms and convolutions, one of each for a branch."""

    def __init__(self, inputs: Sequence[int], outputs: int, levels: int, bias: bool):
        super().__init__()
        self.norms = nn.ModuleList(Norm(n, levels) for n in inputs)
        self.convs = nn.ModuleList(conv(n, outputs, bias=bias) for n in inputs)


class Refine(nn.Module):
    """A RefineNet block: units, fusion of several scales, chained pooling, a unit."""

    def __init__(self, inputs: Sequence[int], features: int, levels: int, end: bool):
        super().__init__()
        self.adapt_convs = nn.ModuleList(Unit(n, levels, 2) for n in inputs)
        self.msf = Layers(inputs, features, levels, bias=True) if len(inputs) > 1 else None
        self.crp = Layers([features] * 2, features, levels, bias=False)
        self.output_convs = Unit(features, levels, 3 if end else 1)

    def forward(self, xs: Sequence[Tensor], level: Tensor) -> Tensor:
        """Fuses `xs`, the largest first."""
        hs = [unit(x, level) for unit, x in zip(self.adapt_convs, xs, strict=True)]
        h, size = hs[0], hs[0].shape[2:]
        if self.msf is not None:
            h = sum(
                interpolate(conv(norm(one, level)), size, mode="bilinear", align_corners=True)
                for one, norm, conv in zip(hs, self.msf.norms, self.msf.convs, strict=True)
            )
        h = path = elu(h)
        for norm, layer in zip(self.crp.norms, self.crp.convs, strict=True):
            path = layer(avg_pool2d(norm(path, level), 5, 1, 2))
            h = h + path
        return self.output_convs(h, level)


class NCSN(nn.Module):
    """`(x (B, C, H, W) in [0, 1], level (B,)) -> score (B, C, H, W)`."""

    def __init__(self, features: int, channels: int, levels: int):
        super().__init__()
        f = features
        self.begin_conv, self.end_conv = conv(channels, f), conv(f, channels)
        self.normalizer = Norm(f, levels)
        stages = [(f, f, False, 1), (f, 2 * f, True, 1), (2 * f, 2 * f, True, 2), (2 * f, 2 * f, True, 4)]
        for i, (inputs, outputs, down, dilation) in enumerate(stages, 1):
            first = Residual(inputs, outputs, levels, down, dilation)
            self.add_module(f"res{i}", nn.ModuleList([first, Residual(outputs, outputs, levels, False, dilation)]))
        heads = [([2 * f], 2 * f), ([2 * f, 2 * f], 2 * f), ([2 * f, 2 * f], f), ([f, f], f)]
        for i, (widths, width) in enumerate(heads, 1):
            self.add_module(f"refine{i}", Refine(widths, width, levels, end=i == 4))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Returns the score at each row's noise level."""
        h, outputs = self.begin_conv(2 * x - 1), []
        for i in range(1, 5):
            for block in self.get_submodule(f"res{i}"):
                h = block(h, level)
            outputs.append(h)
        h = self.refine1([outputs.pop()], level)
        for i in range(2, 5):
            h = self.get_submodule(f"refine{i}")([outputs.pop(), h], level)
        return self.end_conv(elu(self.normalizer(h, level)))
