"""The log variance of a network's errors as a function of the noise level, learned beside the network."""

import flax.linen as nn

from score_jax.networks.embeddings import GaussianFourier
from score_jax.types import Array


class Uncertainty(nn.Module):
    """u(c) = linear(Fourier features of c), `(B,)` (Karras et al. 2024, "training dynamics", appendix B.2).

    It starts at 0, so that the first steps are those of the weighting that it is beside. The released one is random at
    first, without a bias, its weights are normalised, and its features are cosines of random phases.

    Attributes:
      features: number of Fourier features; as published 128, of frequencies ~ N(0, 1) in c = log(σ/α)/4.
    """

    features: int = 128

    @nn.compact
    def __call__(self, cond: Array) -> Array:
        """Maps numbers of the noise `(B,)` to `(B,)`."""
        waves = GaussianFourier(self.features, 1.0, name="waves")(cond)
        return nn.Dense(1, kernel_init=nn.initializers.zeros, name="out")(waves)[:, 0]
