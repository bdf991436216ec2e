"""Networks inside the preconditioners that EDM publishes them in: D(x; σ) = c_skip x + c_out F(c_in x; c_noise, label).

| preconditioner | c_skip         | c_out       | c_in         | c_noise              |
|----------------|----------------|-------------|--------------|----------------------|
| EDMPrecond     | σ_d²/(σ²+σ_d²) | σ σ_d/√(σ²+σ_d²) | 1/√(σ²+σ_d²) | log(σ)/4        |
| VPPrecond      | 1              | −σ          | 1/√(σ²+1)    | (M − 1) t(σ)         |
| VEPrecond      | 1              | σ           | 1            | log(σ/2)             |
| iDDPMPrecond   | 1              | −σ          | 1/√(σ²+1)    | M − 1 − j(σ)         |

with t(σ) the time of a VP process whose σ/α is σ, and j(σ) the place of the nearest of iDDPM's M noise levels, the
first the largest. Karras et al. 2022, table 1.

`parameterization.EDM` trains with the first of them. It knows F of a score function, not D of a network, and needs a
process to say so; four numbers of σ are shorter than a conversion of it.
"""

import dataclasses
import math
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from score_jax.arrays import expand_right, per_example
from score_jax.networks import ResidualUNet
from score_jax.sde import VP
from score_jax.types import Array

Coefficients = tuple[Array, Array, Array, Array]


@dataclasses.dataclass(frozen=True)
class EDMPrecond:
    """Input and target of unit variance, for data of standard deviation `sigma_data`."""

    sigma_data: float = 0.5

    def __call__(self, sigma: Array) -> Coefficients:
        """Returns (c_skip, c_out, c_in, c_noise), each of the shape of sigma."""
        norm = jnp.sqrt(sigma**2 + self.sigma_data**2)
        return (self.sigma_data / norm) ** 2, sigma * self.sigma_data / norm, 1 / norm, jnp.log(sigma) / 4


@dataclasses.dataclass(frozen=True)
class VPPrecond:
    """Predicts ε from a variance-preserving input, told M − 1 times the time of β_min t + β_d t²/2 = log(1 + σ²)."""

    beta_d: float = 19.9
    beta_min: float = 0.1
    M: float = 1000.0

    def __call__(self, sigma: Array) -> Coefficients:
        """Returns (c_skip, c_out, c_in, c_noise), each of the shape of sigma."""
        t = VP(self.beta_min, self.beta_min + self.beta_d).time(-2 * jnp.log(sigma))
        return jnp.ones_like(sigma), -sigma, 1 / jnp.sqrt(sigma**2 + 1), (self.M - 1) * t

    def sigma(self, t: float) -> float:
        """Returns σ/α at a time."""
        return math.sqrt(math.expm1(min(self.beta_min * t + 0.5 * self.beta_d * t**2, 700.0)))  # e^710 overflows


@dataclasses.dataclass(frozen=True)
class VEPrecond:
    """Predicts −ε from x itself, told log(σ/2): score SDE's network of data in [0, 1], given data in [−1, 1]."""

    def __call__(self, sigma: Array) -> Coefficients:
        """Returns (c_skip, c_out, c_in, c_noise), each of the shape of sigma."""
        one = jnp.ones_like(sigma)
        return one, sigma, one, jnp.log(0.5 * sigma)


@dataclasses.dataclass(frozen=True)
class iDDPMPrecond:
    """Predicts ε from a variance-preserving input, told the step of the nearest level of `levels`."""

    C_1: float = 0.001
    C_2: float = 0.008
    M: int = 1000

    @property
    def levels(self) -> np.ndarray:
        """Returns u_0 > … > u_M = 0, `(M + 1,)`.

        1 + u_{j−1}² = (1 + u_j²)/max(ᾱ_{j−1}/ᾱ_j, C₁) with ᾱ_j = sin²(πj/(2M(C₂ + 1))).
        """
        alphas_bar = np.sin(np.pi / 2 * np.arange(self.M + 1) / self.M / (self.C_2 + 1)) ** 2
        ratios = np.maximum(alphas_bar[:-1] / alphas_bar[1:], self.C_1)
        return np.append(np.sqrt(1 / np.cumprod(ratios[::-1])[::-1] - 1), 0.0)

    def __call__(self, sigma: Array) -> Coefficients:
        """Returns (c_skip, c_out, c_in, c_noise), each of the shape of sigma."""
        distance = jnp.abs(jnp.subtract.outer(sigma, jnp.asarray(self.levels, sigma.dtype)))
        step = self.M - 1 - distance.argmin(-1).astype(sigma.dtype)
        return jnp.ones_like(sigma), -sigma, 1 / jnp.sqrt(sigma**2 + 1), step


class Preconditioned(nn.Module):
    """The denoiser D(x; σ, label), `(x (B, H, W, C), σ (B,), label) -> (B, H, W, C)`.

    Attributes:
      network: F; of more channels than x, such as those of a learned variance, the first are taken.
      coefficients: σ -> (c_skip, c_out, c_in, c_noise), hashable.
      resolution: side of the images, which the source's names of layers have in them.
    """

    network: ResidualUNet
    coefficients: Callable[[Array], Coefficients]
    resolution: int

    @nn.compact
    def __call__(self, x: Array, cond: Array, label: Array | None = None, *, train: bool = False) -> Array:
        """Returns the estimate of the clean images."""
        c_skip, c_out, c_in, c_noise = self.coefficients(per_example(cond, x))
        F = self.network(expand_right(c_in, x) * x, c_noise, label, train=train)
        return expand_right(c_skip, x) * x + expand_right(c_out, x) * F[..., : x.shape[-1]]
