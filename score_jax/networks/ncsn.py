"""The published networks: NCSN (Song & Ermon 2019) and NCSNv2 (Song & Ermon 2020), parameter for parameter.

Both see 2x − 1 of data in [0, 1] through residual stages and a RefineNet head (`refinenet`), then InstanceNorm++, ELU
and a convolution. They differ in how they know the noise level i of L:

    NCSN      F = net_i(x): every InstanceNorm++ has its own [γ, α, β] for each level; average pools.
    NCSNv2    F = net(x)/σ_i: one unconditional network, no norms in the head, max pools.

F is the score. `cond` is the level's index, 0 the noisiest, as in the released code. Between two indices the numbers
that depend on i are interpolated, [γ, α, β] linearly and σ geometrically, so the networks are defined at any noise
level: on a geometric ladder NCSNv2 is net(x)/σ at every σ of it.

Without a table, `num_levels=None`, NCSN is the single-noise baseline of its paper. Fields have no defaults where the
published values differ from data set to data set; `depth` is "base" up to 64 pixels, "deeper" for 96 and 128, "deepest"
for 256, but any network takes any size.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype

from score_jax.arrays import expand_right, per_example
from score_jax.networks.embeddings import at_least_float32
from score_jax.networks.layers import require_images
from score_jax.networks.norms import InstanceNormPlus, LevelInstanceNormPlus
from score_jax.networks.refinenet import LAYOUTS, Pool, average_pool, conv, max_pool, refine_net
from score_jax.types import Array, InputError, require_at_least


def level_weights(cond: Array, num_levels: int, x: Array) -> Array:
    """Returns the weights `(B, L)` of linear interpolation at the indices `cond` `()` or `(B,)`: one-hot at integers.

    An index outside 0 … L − 1 cannot be refused under `jit`; it gives NaN rather than some other level.
    """
    cond = per_example(jnp.asarray(cond), x).astype(at_least_float32(x))
    cond = jnp.where((cond >= 0) & (cond <= num_levels - 1), cond, jnp.nan)
    return jnp.maximum(0, 1 - abs(cond[:, None] - jnp.arange(num_levels, dtype=cond.dtype)[None]))


class NCSN(nn.Module):
    """NCSN `(x (B, H, W, C), cond (B,)) -> score (B, H, W, C)`, conditioned on the level's index.

    Attributes:
      features: of the first stage; 128 as published, 64 for MNIST.
      channels: of the images.
      num_levels: L; None for the single-noise baseline, which ignores cond.
      depth: "base", "deeper" or "deepest".
      rescale: see 2x − 1; False for data that are rescaled or logit-transformed already.
      dtype: of the computation; None follows x. Parameters are float32 and the output at least that.
    """

    features: int
    channels: int
    num_levels: int | None
    depth: str = "base"
    rescale: bool = True
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Array, cond: Array, label: Array | None = None, *, train: bool = False) -> Array:
        """Returns the score at level `cond`; there is no dropout, so `train` changes nothing."""
        del train
        if self.num_levels is None:
            return _network(self, x, None, label, InstanceNormPlus, InstanceNormPlus, average_pool)
        require_at_least("NCSN", 1, num_levels=self.num_levels)
        weights = level_weights(cond, self.num_levels, x)
        return _network(self, x, weights, label, LevelInstanceNormPlus, LevelInstanceNormPlus, average_pool)


class NCSNv2(nn.Module):
    """NCSNv2 `(x (B, H, W, C), cond (B,)) -> score (B, H, W, C)`: an unconditional network over σ.

    Attributes:
      features: of the first stage; 128 as published.
      channels: of the images.
      sigmas: the noise levels, L numbers or an array; the network keeps them in the collection "fixed".
      depth: "base", "deeper" or "deepest".
      rescale: see 2x − 1; False for data that are rescaled or logit-transformed already.
      dtype: of the computation; None follows x. Parameters are float32 and the output at least that.
    """

    features: int
    channels: int
    sigmas: tuple[float, ...]
    depth: str = "base"
    rescale: bool = True
    dtype: Dtype | None = None

    def __post_init__(self) -> None:
        # Modules are static arguments of jit and must be hashable: arrays become tuples. The numbers are those of the
        # variables and of published tables, float32, so that a network equals its checkpoint's.
        sigmas = np.asarray(self.sigmas, np.float32)
        if sigmas.ndim != 1 or not sigmas.size or not (sigmas > 0).all():
            raise InputError(f"NCSNv2: sigmas must be positive noise levels, got an array of shape {sigmas.shape}")
        object.__setattr__(self, "sigmas", tuple(sigmas.tolist()))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, cond: Array, label: Array | None = None, *, train: bool = False) -> Array:
        """Returns the score at level `cond`; there is no dropout, so `train` changes nothing."""
        del train
        sigmas = self.variable("fixed", "sigmas", lambda: jnp.asarray(self.sigmas, jnp.float32)).value
        weights = level_weights(cond, len(self.sigmas), x)
        log_sigma = jnp.matmul(weights, jnp.log(sigmas).astype(weights.dtype), precision=jax.lax.Precision.HIGHEST)
        out = _network(self, x, None, label, InstanceNormPlus, None, max_pool)
        return out / expand_right(jnp.exp(log_sigma), out)


def _network(
    module: NCSN | NCSNv2,
    x: Array,
    cond: Array | None,
    label: Array | None,
    norm: type[nn.Module],
    head_norm: type[nn.Module] | None,
    pool: Pool,
) -> Array:
    """The body that both share, called in their compact methods."""
    _check(module, x, label)
    dtype, layout = module.dtype, LAYOUTS[module.depth]
    make = functools.partial(norm, dtype)
    make_in_head = head_norm and functools.partial(head_norm, dtype)
    h = conv(module.features, 2 * x - 1 if module.rescale else x, dtype=dtype, name="in")
    h = refine_net(h, cond, module.features, layout, make, head_norm=make_in_head, pool=pool, dtype=dtype)
    h = nn.elu(make(name="norm")(h, cond))
    return conv(module.channels, h, dtype=dtype, name="out").astype(at_least_float32(x))


def _check(module: NCSN | NCSNv2, x: Array, label: Array | None) -> None:
    owner = type(module).__name__
    require_images(x, owner)
    require_at_least(owner, 1, features=module.features)
    if x.shape[-1] != module.channels:
        raise InputError(f"{owner}: images have {x.shape[-1]} channels, the network was built for {module.channels}")
    if module.depth not in LAYOUTS:
        raise InputError(f"{owner}: depth {module.depth!r} does not exist: choose one of {', '.join(LAYOUTS)}")
    if label is not None:
        raise InputError(f"labels were given to {owner}, which has no classes; CompactNCSN takes labels")
