"""Weights over noise levels: `(sde, t) -> (B,)`, multiplying ½‖score − target‖².

In noise units ½‖score − target‖² is ½‖σ·score + ε‖²/σ², so `sigma2` puts every level on one scale.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp

from score_jax.sde import SDE
from score_jax.types import Array, require_positive

Weighting: TypeAlias = Callable[[SDE, Array], Array]


def sigma2(sde: SDE, t: Array) -> Array:
    """Returns σ²: ½‖σ·score + ε‖², the loss of NCSN and DDPM's L_simple (Song & Ermon 2019; Ho et al. 2020).

    Examples:
      >>> print(losses.weighting.sigma2(sde.EDM(), jnp.array([0.5, 2.0])))  # t is σ
      [0.25 4.  ]
    """
    return sde.variance(t)


def likelihood(sde: SDE, t: Array) -> Array:
    """Returns g²: bounds the log-likelihood of the generative SDE (Song et al. 2021, "Maximum likelihood training").

    Examples:
      >>> print(losses.weighting.likelihood(sde.EDM(), jnp.array([0.5, 2.0])))  # g² = dσ²/dt = 2t
      [1. 4.]
    """
    return sde.diffusion(t) ** 2


def edm(sigma_data: float = 0.5) -> Weighting:
    """Returns σ²((σ/α)² + σ_data²)/σ_data²: EDM's λ(σ) in terms of scores (Karras et al. 2022, table 1).

    Examples:
      The paper's λ(σ) = (σ² + σ_data²)/(σ σ_data)² is of the error of D, which is σ² times that of the score.

      >>> print(losses.weighting.edm(0.5)(sde.EDM(), jnp.array([1.0])))  # λ(1)
      [5.]
    """
    require_positive("weighting.edm", sigma_data=sigma_data)

    def weight(sde: SDE, t: Array) -> Array:
        return sde.variance(t) * (jnp.exp(-sde.log_snr(t)) / sigma_data**2 + 1)

    return weight


def min_snr(gamma: float = 5.0) -> Weighting:
    """Returns σ² min(SNR, γ)/SNR: noise prediction with clipped signal-to-noise weight (Hang et al. 2023, eq. 8).

    Examples:
      Over σ² it is the weight of the noise's prediction: γ/SNR above SNR = γ, 1 below.

      >>> sigma = jnp.array([0.1, 1.0])  # SNR 100 and 1
      >>> print(np.array(losses.weighting.min_snr(5.0)(sde.EDM(), sigma) / sigma**2).round(2))
      [0.05 1.  ]
    """
    require_positive("weighting.min_snr", gamma=gamma)

    def weight(sde: SDE, t: Array) -> Array:
        return sde.variance(t) * jnp.minimum(1.0, gamma * jnp.exp(-sde.log_snr(t)))

    return weight


def small_noise(scale: float = 0.1) -> Weighting:
    """Returns v/(v + (σ/α)²) with v = scale²: 1 where the noise is small beside detail of that scale, else near 0.

    No weight but the coefficient of a control variate (`diffusion_loss(control=...)`): for data N(m, v I) and their
    exact score it is the one that removes all of the term s(x_0)·ε.

    Examples:
      >>> print(np.array(losses.weighting.small_noise(0.1)(sde.EDM(), jnp.array([0.001, 0.1, 10.0]))).round(2))
      [1.  0.5 0. ]
    """
    require_positive("weighting.small_noise", scale=scale)

    def coefficient(sde: SDE, t: Array) -> Array:
        return 1 / (1 + jnp.exp(-sde.log_snr(t)) / scale**2)

    return coefficient
