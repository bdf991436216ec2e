"""Blocks of the NCSN family: dilated residual blocks and the RefineNet head (Lin et al. 2017; Song & Ermon 2019).

All of them take the activations `x` and a `cond` that only the norms look at: an embedding, weights of levels, or None.
A norm is a factory, `norm(name=...)` giving a module called as `(x, cond)`; None leaves the normalization out. With
a conditional InstanceNorm++ everywhere and an average pool these are NCSN's blocks; with `InstanceNormPlus` in the
residual blocks, None in the head and a max pool, NCSNv2's.

A stage is two residual blocks. The first changes the width and halves the size, unless it is dilated: then it keeps the
size and sees further instead. The head goes back, a RefineNet block for each stage from the last to the first. How many
stages there are and how wide is a `Layout`; the three published ones are in `LAYOUTS`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from score_jax.networks.convolution import Conv
from score_jax.networks.layers import downsample, fan_in_uniform, resize_aligned
from score_jax.types import Array

NormFactory: TypeAlias = Callable[..., Any]  # norm(name=...) -> module, called as (x, cond)
Pool: TypeAlias = Callable[[Array], Array]


class Stage(NamedTuple):
    """Two residual blocks of `width` times the network's features, the first with `down`; see `StageBlock`."""

    width: int
    down: bool = True
    dilation: int = 1

    @property
    def halves(self) -> bool:
        """Whether the output has half the size of the input."""
        return self.down and self.dilation == 1


class Layout(NamedTuple):
    """Stages from fine to coarse, and the widths of the head's blocks from coarse to fine, as many."""

    stages: tuple[Stage, ...]
    head: tuple[int, ...]


LAYOUTS = {
    "base": Layout((Stage(1, False), Stage(2), Stage(2, dilation=2), Stage(2, dilation=4)), (2, 2, 1, 1)),
    "deeper": Layout(
        (Stage(1, False), Stage(2), Stage(2), Stage(4, dilation=2), Stage(4, dilation=4)), (4, 2, 2, 1, 1)
    ),
    "deepest": Layout(
        (Stage(1, False), Stage(2), Stage(2), Stage(2), Stage(4, dilation=2), Stage(4, dilation=4)), (4, 2, 2, 2, 1, 1)
    ),
}


def average_pool(x: Array) -> Array:
    """Means over 5×5 pixels with stride 1; padding counts, so borders are divided by 25 too."""
    return _windows(_windows(x, 1, jnp.add, 0), 2, jnp.add, 0) / 25


def max_pool(x: Array) -> Array:
    """Maxima over 5×5 pixels with stride 1, padded with −∞."""
    return _windows(_windows(x, 1, jnp.maximum, -jnp.inf), 2, jnp.maximum, -jnp.inf)


def _windows(x: Array, axis: int, combine: Callable[[Array, Array], Array], fill: float) -> Array:
    """Combines every pixel with its two neighbours on either side along one axis.

    Shifted slices, which compilers fuse: on CPUs a window reduction takes three to six times as long, gradients more.
    """
    padding = [(2, 2) if i == axis else (0, 0) for i in range(x.ndim)]
    padded, size = jnp.pad(x, padding, constant_values=fill), x.shape[axis]
    return functools.reduce(combine, (jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(5)))


def conv(
    features: int,
    x: Array,
    *,
    size: int = 3,
    dilation: int = 1,
    bias: bool = True,
    dtype: Dtype | None = None,
    name: str,
) -> Array:
    """Convolves `x`, padded to keep its size, with PyTorch's default initialization of kernel and bias."""
    init = fan_in_uniform(size * size * x.shape[-1])
    padding = dilation * (size // 2)
    return Conv(
        features, (size, size), padding=padding, kernel_dilation=dilation, use_bias=bias, dtype=dtype,
        kernel_init=init, bias_init=init, name=name,
    )(x)  # fmt: skip


class StageBlock(nn.Module):
    """`shortcut(x) + conv(elu(norm(conv(elu(norm(x))))))`, all 3×3.

    `down` changes the width: without dilation both branches are followed by 2×2 means and the shortcut is 1×1; with
    dilation the size stays, and the shortcut is dilated and 3×3 like the rest. Without `down` the width stays.
    """

    features: int
    norm: NormFactory
    down: bool = False
    dilation: int = 1
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Array, cond: Any) -> Array:
        """Maps `(B, H, W, C)` to `(B, H', W', features)`."""
        same = functools.partial(conv, dilation=self.dilation, dtype=self.dtype)
        h = nn.elu(self.norm(name="norm_0")(x, cond))
        h = same(x.shape[-1] if self.down else self.features, h, name="conv_0")
        h = nn.elu(self.norm(name="norm_1")(h, cond))
        h = same(self.features, h, name="conv_1")
        if not self.down:
            return x + h
        if self.dilation > 1:
            return same(self.features, x, name="shortcut") + h
        return downsample(conv(self.features, x, size=1, dtype=self.dtype, name="shortcut") + h)


class ResidualConvUnit(nn.Module):
    """RCU: `blocks` times, x + [(norm) → elu → conv 3×3 without bias] × `stages`."""

    norm: NormFactory | None
    blocks: int = 2
    stages: int = 2
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Array, cond: Any) -> Array:
        for i in range(self.blocks):
            h = x
            for j in range(self.stages):
                h = nn.elu(_maybe(self.norm, f"norm_{i}_{j}")(h, cond))
                h = conv(x.shape[-1], h, bias=False, dtype=self.dtype, name=f"conv_{i}_{j}")
            x = x + h
        return x


class MultiScaleFusion(nn.Module):
    """MSF: sum over the inputs of (norm) → conv 3×3 → bilinear resize, corners aligned, to the first input's size."""

    features: int
    norm: NormFactory | None
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, xs: Sequence[Array], cond: Any) -> Array:
        scales = []
        for i, x in enumerate(xs):
            h = conv(self.features, _maybe(self.norm, f"norm_{i}")(x, cond), dtype=self.dtype, name=f"conv_{i}")
            scales.append(resize_aligned(h, xs[0]))
        return functools.reduce(jnp.add, scales)


class ChainedResidualPooling(nn.Module):
    """CRP: x = elu(x), then per stage path = conv(pool((norm)(path))), without bias, and x += path."""

    norm: NormFactory | None
    pool: Pool
    stages: int = 2
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Array, cond: Any) -> Array:
        x = path = nn.elu(x)
        for i in range(self.stages):
            path = self.pool(_maybe(self.norm, f"norm_{i}")(path, cond))
            path = conv(x.shape[-1], path, bias=False, dtype=self.dtype, name=f"conv_{i}")
            x = x + path
        return x


class RefineBlock(nn.Module):
    """An RCU for each input → MSF, for two inputs or more → CRP → RCU (three blocks at the `end`, else one)."""

    features: int
    norm: NormFactory | None
    pool: Pool = average_pool
    end: bool = False
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, xs: Sequence[Array], cond: Any) -> Array:
        """Fuses inputs `(B, H_i, W_i, C_i)`, the largest first, to `(B, H_0, W_0, features)`."""
        unit = functools.partial(ResidualConvUnit, self.norm, dtype=self.dtype)
        xs = [unit(name=f"adapt_{i}")(x, cond) for i, x in enumerate(xs)]
        h = xs[0] if len(xs) == 1 else MultiScaleFusion(self.features, self.norm, self.dtype, name="fuse")(xs, cond)
        h = ChainedResidualPooling(self.norm, self.pool, dtype=self.dtype, name="pool")(h, cond)
        return unit(blocks=3 if self.end else 1, name="out")(h, cond)


def refine_net(
    x: Array,
    cond: Any,
    features: int,
    layout: Layout,
    norm: NormFactory,
    *,
    head_norm: NormFactory | None,
    pool: Pool,
    dtype: Dtype | None = None,
) -> Array:
    """Applies the stages of `layout` and the head to `x` `(B, H, W, features)`: the same size and width come out.

    To be called in a compact method, to which it adds the submodules stage_i_j (block j of stage i) and refine_i.

    Args:
      x: activations.
      cond: what the norms take.
      features: the unit of the layout's widths.
      layout: which stages there are.
      norm: of the stages.
      head_norm: of the head; None for a head without norms.
      pool: of the head.
      dtype: of the computation.
    """
    outputs = []
    for i, (width, down, dilation) in enumerate(layout.stages):
        block = functools.partial(StageBlock, width * features, norm, dilation=dilation, dtype=dtype)
        x = block(down=down, name=f"stage_{i}_0")(x, cond)
        x = block(name=f"stage_{i}_1")(x, cond)
        outputs.append(x)
    inputs = [outputs.pop()]
    for i, width in enumerate(layout.head):
        end = not outputs
        refine = RefineBlock(width * features, head_norm, pool, end=end, dtype=dtype, name=f"refine_{i}")
        x = refine(inputs, cond)
        inputs = [] if end else [outputs.pop(), x]
    return x


def _maybe(norm: NormFactory | None, name: str) -> Callable[[Array, Any], Array]:
    return norm(name=name) if norm is not None else lambda x, cond: x
