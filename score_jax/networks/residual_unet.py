"""The published U-Nets of DDPM, score SDE (DDPM++, NCSN++), EDM (SongUNet) and ADM: one family; `presets` names them.

Resolution l is 2^-l of that of the image, with `channels · multipliers[l]` features:

    down      at each: `blocks` residual blocks; then, but for the last, the step to the next coarser one
    middle    a block with attention, a block without
    up        at each: `blocks + 1` residual blocks, on [h, output of the way down]; then the step to the next finer one
    out       conv(swish(norm(h))), 3×3, starting at zero

and every output of the way down, the first convolution's and the resampled ones among them, returns once on the way
up. A second, progressive path may lead the image down the resolutions beside h, or the output up (Karras et al. 2020).

Ho et al. 2020, appendix B; Song et al. 2021, appendix H; Karras et al. 2022, appendix F; Dhariwal & Nichol 2021.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from score_jax.arrays import expand_right, per_example
from score_jax.networks.embeddings import at_least_float32, positional
from score_jax.networks.layers import attended_resolutions, require_images
from score_jax.networks.ncsn import level_weights
from score_jax.networks.residual_blocks import (
    Initialization,
    Layers,
    NoiseAndLabelEmbedding,
    ResidualBlock,
    Taps,
    fan_average,
    resample_down,
    resample_up,
)
from score_jax.types import Array, InputError, require_at_least

CHOICES = {
    "modulation": ("shift", "scale_shift"),
    "attention_up": ("every", "last"),
    "resampling": ("conv", "block", "plain"),
    "input_path": ("none", "skip", "residual"),
    "input_combine": ("sum", "concat"),
    "output_path": ("none", "skip", "residual"),
    "label_layer": ("inner", "outer"),
}


class DivideBySigma(nn.Module):
    """`F/σ`: the output of networks of variance-exploding processes, "scale_by_sigma".

    Without `sigmas`, cond is σ; with them it is an index, 0 the first, geometrically interpolated in between, and NaN
    comes out beyond. The levels are kept in the collection "fixed".
    """

    sigmas: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.sigmas is not None:
            # As in NCSNv2: hashable, and the float32 numbers of the variables.
            object.__setattr__(self, "sigmas", tuple(np.asarray(self.sigmas, np.float32).tolist()))
        super().__post_init__()

    @nn.compact
    def __call__(self, out: Array, cond: Array) -> Array:
        """Divides `out` `(B, …)` by the σ of `cond` `(B,)`."""
        if self.sigmas is None:
            return out / expand_right(cond, out)
        sigmas = self.variable("fixed", "sigmas", lambda: jnp.asarray(self.sigmas, jnp.float32)).value
        weights = level_weights(cond, len(self.sigmas), out)
        log_sigma = jnp.matmul(weights, jnp.log(sigmas).astype(weights.dtype), precision=jax.lax.Precision.HIGHEST)
        return out / expand_right(jnp.exp(log_sigma), out)


class ResidualUNet(nn.Module):
    """U-Net `(x (B, H, W, C), cond (B,), label) -> F (B, H, W, C)`; the output layer starts at zero, so F = 0 at first.

    Attributes:
      channels: features of the finest resolution.
      multipliers: of `channels`, one for each resolution; their number is the number of resolutions.
      blocks: residual blocks of each resolution on the way down; one more on the way up.
      attention: resolutions with self-attention after their blocks, 0 the finest; negative: from the coarsest.
      attention_up: on the way up after "every" block of those resolutions, or after the "last".
      head_channels: of an attention head; None for one head.
      attention_implementation: "xla", or "cudnn": see `attention.attend`.
      resampling: changes of resolution by a "conv", inside a residual "block" (BigGAN), or "plain", without parameters.
      fir: taps of the low-pass filter of changes of resolution, such as (1, 3, 3, 1); None: means and repeated pixels.
      stride_padding: of convolutions of stride 2 without a filter: "SAME", zeros behind where the size is even, as in
        DDPM, or the number of zeros on either side, 1 in diffusers' defaults.
      project_resampled: whether the shortcut of such a block has a 1×1 convolution.
      skip_scale: factor of residual sums, 1 or √½.
      modulation: the embedding is added, "shift", or also scales, "scale_shift".
      input_path: how the image reaches coarser resolutions: "none"; "skip", resampled and through a 1×1 convolution; or
        "residual", convolved with stride 2 and averaged with h.
      input_combine: of "skip" with h: "sum" or "concat".
      output_path: how the output is made: "none", by the finest resolution; "skip", as the sum of those of all; or
        "residual", the features of all being summed.
      embedding: module of `cond`, followed by two dense layers of `4 channels` features; None: cond is ignored.
      num_classes: number of labels; 0 for none.
      label_layer: where labels enter, see `residual_blocks.NoiseAndLabelEmbedding`.
      augmentation: numbers of an augmentation that it can be told, `embeddings.Told`; 0 for none.
      rescale: see 2x − 1, for data in [0, 1].
      outputs: channels of F, in multiples of those of x: 2 for `parameterization.learned`.
      output_scale: module `(F, cond) -> F` at the end, such as `DivideBySigma`; None for none.
      dropout: rate inside the blocks, active with `train=True` (rng "dropout").
      groups: most groups of a GroupNorm.
      group_channels: fewest channels of a group; 1 where all norms have 32 groups.
      groups_of: (regular expression, groups, group_channels) of norms that have others, by their layer's name such as
        "down_1_0/attention/norm"; the first that matches all of it counts.
      epsilon: of GroupNorm.
      initialization: of kernels and biases.
      dtype: of the computation; None follows x. Parameters are float32 and the output at least that.
      remat: recompute each block in the backward pass, for memory.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 4
    attention: tuple[int, ...] = (1,)
    attention_up: str = "last"
    head_channels: int | None = None
    attention_implementation: str = "xla"
    resampling: str = "block"
    fir: Taps = None
    stride_padding: str | int = "SAME"
    project_resampled: bool = True
    skip_scale: float = 0.5**0.5
    modulation: str = "shift"
    input_path: str = "none"
    input_combine: str = "sum"
    output_path: str = "none"
    embedding: nn.Module | None = positional(128)
    num_classes: int = 0
    label_layer: str = "inner"
    augmentation: int = 0
    rescale: bool = False
    outputs: int = 1
    output_scale: nn.Module | None = None
    dropout: float = 0.0
    groups: int = 32
    group_channels: int = 4
    groups_of: tuple[tuple[str, int, int], ...] = ()
    epsilon: float = 1e-6
    initialization: Initialization = fan_average
    dtype: Dtype | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, cond: Array, label: Array | None = None, *, train: bool = False) -> Array:
        """Returns F with the shape of `x`, or `outputs` times its channels."""
        self._check(x, label)
        cond = per_example(cond, x)
        block = self._block(cond, label, train)
        image = 2 * x - 1 if self.rescale else x
        h, skips = self._down(image, block)
        h = block(h, h.shape[-1], "middle_0", attention=True)
        h = block(h, h.shape[-1], "middle_1")
        out = self._up(h, skips, self.outputs * x.shape[-1], block).astype(at_least_float32(x))
        return out if self.output_scale is None else self.output_scale(out, cond)

    @property
    def _layers(self) -> Layers:
        return Layers(
            self.initialization,
            self.groups,
            self.group_channels,
            self.epsilon,
            self.dtype,
            self.stride_padding,
            self.attention_implementation,
            self.groups_of,
        )

    def _block(self, cond: Array, label: Array | None, train: bool):
        """Returns `(h, features, name, **options) -> h`, the application of a new residual block."""
        emb = None
        if self.embedding is not None:
            condition = NoiseAndLabelEmbedding(
                self._layers,
                4 * self.channels,
                self.num_classes,
                self.label_layer,
                self.augmentation,
                name="condition",
            )
            emb = condition(self.embedding(cond), label)
        # The third argument, `train`, is a Python bool, and remat must leave it one.
        kind = nn.remat(ResidualBlock, static_argnums=(3,)) if self.remat else ResidualBlock
        shared = (self.modulation, self.skip_scale, self.dropout, self.head_channels)

        def block(h: Array, features: int, name: str, **options) -> Array:
            return kind(self._layers.inside(name), features, *shared, name=name, **options)(h, emb, train)

        return block

    def _down(self, image: Array, block) -> tuple[Array, list[Array]]:
        """Returns the coarsest activations, and all outputs on the way there."""
        attended = attended_resolutions(self.attention, len(self.multipliers))
        h = self._layers.conv(image, self.channels, "in")
        skips, last = [h], len(self.multipliers) - 1
        for resolution, multiplier in enumerate(self.multipliers):
            for i in range(self.blocks):
                attention = resolution in attended
                h = block(h, self.channels * multiplier, f"down_{resolution}_{i}", attention=attention)
                skips.append(h)
            if resolution < last:
                h, image = self._with_input(self._coarser(h, resolution, block), image, resolution)
                skips.append(h)
        return h, skips

    def _up(self, h: Array, skips: list[Array], channels: int, block) -> Array:
        """Returns the output, `channels` wide, from the coarsest activations and all outputs of the way down."""
        attended, output = attended_resolutions(self.attention, len(self.multipliers)), None
        for resolution in reversed(range(len(self.multipliers))):
            for i in range(self.blocks + 1):
                attention = resolution in attended and (self.attention_up == "every" or i == self.blocks)
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, self.channels * self.multipliers[resolution], f"up_{resolution}_{i}", attention=attention)
            h, output = self._with_output(h, output, resolution, channels)
            if resolution:
                h = self._finer(h, skips[-1], resolution, block)
        return output if self.output_path == "skip" and output is not None else self._head(h, channels, "")

    def _coarser(self, h: Array, resolution: int, block) -> Array:
        name = f"downsample_{resolution}"
        if self.resampling == "conv":
            return self._layers.conv_down(h, h.shape[-1], name, self.fir)
        if self.resampling == "plain":
            return resample_down(h, self.fir)
        resample = functools.partial(resample_down, taps=self.fir)
        return block(h, h.shape[-1], name, resample=resample, project_resampled=self.project_resampled)

    def _finer(self, h: Array, like: Array, resolution: int, block) -> Array:
        name = f"upsample_{resolution}"
        if self.resampling == "conv":
            return self._layers.conv_up(h, like, h.shape[-1], name, self.fir)
        if self.resampling == "plain":
            return resample_up(h, like, self.fir)
        resample = functools.partial(resample_up, like=like, taps=self.fir)
        return block(h, h.shape[-1], name, resample=resample, project_resampled=self.project_resampled)

    def _with_input(self, h: Array, image: Array, resolution: int) -> tuple[Array, Array]:
        """Returns h, of the next coarser resolution, joined by the image, and that image."""
        if self.input_path == "none":
            return h, image
        name = f"input_{resolution}"
        if self.input_path == "residual":
            h = (self._layers.conv_down(image, h.shape[-1], name, self.fir) + h) * self.skip_scale
            return h, h
        image = resample_down(image, self.fir)
        features = self._layers.conv(image, h.shape[-1], name, size=1)
        return (features + h if self.input_combine == "sum" else jnp.concatenate([features, h], axis=-1)), image

    def _with_output(
        self, h: Array, output: Array | None, resolution: int, channels: int
    ) -> tuple[Array, Array | None]:
        """Returns h and the output so far, joined at this resolution."""
        suffix = f"_{resolution}" if resolution else ""
        if self.output_path == "none":
            return h, None
        if self.output_path == "skip":
            head = self._head(h, channels, suffix)
            return h, head if output is None else resample_up(output, head, self.fir) + head
        if output is None:
            return h, self._head(h, h.shape[-1], f"_{resolution}", scale=1.0)
        h = (self._layers.conv_up(output, h, h.shape[-1], f"out_{resolution}", self.fir) + h) * self.skip_scale
        return h, h

    def _head(self, h: Array, features: int, suffix: str, scale: float = 0.0) -> Array:
        h = nn.swish(self._layers.norm(f"norm{suffix}")(h))
        return self._layers.conv(h, features, f"out{suffix}", scale=scale)

    def _check(self, x: Array, label: Array | None) -> None:
        require_images(x, "ResidualUNet")
        require_at_least(
            "ResidualUNet", 1, channels=self.channels, blocks=self.blocks, resolutions=len(self.multipliers)
        )
        require_at_least("ResidualUNet", 1, multipliers=min(self.multipliers), outputs=self.outputs)
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(
                    f"ResidualUNet: {name} {getattr(self, name)!r} does not exist: choose one of {', '.join(choices)}"
                )
        if self.embedding is None and (self.num_classes or self.augmentation or label is not None):
            raise InputError(
                "ResidualUNet: labels and augmentations enter with the noise's embedding: give one, or num_classes=0 "
                "and augmentation=0"
            )
