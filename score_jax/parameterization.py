"""What a network's raw output F means: a fixed linear combination of data and noise.

Every parameterization in use regresses on  F = p(t) x_0 + q(t) ε  with x_t = α x_0 + σ ε. The pair (p, q) is all an
author writes; solving for ε gives the hub that everything passes through,

    ε̂ = (α F − p x)/(α q − p σ),        score = −ε̂/σ.

| name  | F                    | p, q                         |
|-------|----------------------|------------------------------|
| Score | −ε/σ                 | 0, −1/σ                      |
| Eps   | ε                    | 0, 1                         |
| X0    | x_0                  | 1, 0                         |
| V     | α̂ ε − σ̂ x_0          | −σ̂, α̂ (normalised: α̂² + σ̂² = 1) |
| Flow  | ε − x_0              | −1, 1                        |
| EDM   | (x_0 − c_skip x/α)/c_out | see `EDM`                |

`learned` adds to any of them the variance of sampling steps, as further channels.

`inputs` gives what the network sees: c_in x with c_in = 1/√(α² + σ²), and c_noise = log(σ/α). Both are functions of
the signal-to-noise ratio alone up to the scale of x, so a trained backbone keeps working when the SDE is swapped.
"""

import jax.numpy as jnp
from flax import struct

from score_jax import arrays, pytrees
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, InputError, require_positive


class Parameterization:
    """Maps raw network outputs to scores; subclasses write `coefficients`.

    Examples:
      One of one's own, F = σ ε of p = 0 and q = σ: at σ = 2 an F of 1 is ε = 1/2, of which the score is −ε/σ.

      >>> class ScaledNoise(parameterization.Parameterization):
      ...     coefficients = lambda self, sde, t: (jnp.zeros_like(sde.sigma(t)), sde.sigma(t))
      >>> x = jnp.ones((1, 1))
      >>> print(ScaledNoise().to_score(sde.EDM(), x, 2.0, x))
      [[-0.25]]
    """

    def coefficients(self, sde: SDE, t: ArrayLike) -> tuple[Array, Array]:
        """Returns (p, q) of F = p x_0 + q ε, each of the shape of t."""
        raise NotImplementedError

    def inputs(self, sde: SDE, t: ArrayLike) -> tuple[Array, Array]:
        """Returns (c_in, c_noise): the factor of the network's input and its conditioning number, shaped as t."""
        return 1 / jnp.sqrt(sde.alpha(t) ** 2 + sde.variance(t)), -0.5 * sde.log_snr(t)

    def to_score(self, sde: SDE, x: Array, t: ArrayLike, F: Array) -> Array:
        """Returns the score at x `(B, *S)` that the network's output F stands for; t is `()` or `(B,)`."""
        p, q = self.coefficients(sde, t)
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        scale = -1 / (sigma * (alpha * q - p * sigma))
        return arrays.expand_right(scale * alpha, x) * F - arrays.expand_right(scale * p, x) * x

    def variance(self, sde: SDE, t: ArrayLike, s: ArrayLike, F: Array) -> Array:
        """Returns the variance of a step from t to s that the network learned: `learned` has one."""
        raise InputError(f"parameterization {self} has no learned variance: use learned({self}) and twice the channels")

    def target(self, sde: SDE, x: Array, t: ArrayLike, x0: Array) -> Array:
        """Returns the F whose score is the kernel's, −ε/σ with ε = (x − α x_0)/σ: what F regresses on."""
        p, q = self.coefficients(sde, t)
        alpha, sigma = arrays.expand_right(sde.alpha(t), x), arrays.expand_right(sde.sigma(t), x)
        return arrays.expand_right(p, x) * x0 + arrays.expand_right(q, x) * ((x - alpha * x0) / sigma)


@pytrees.dataclass
class Score(Parameterization):
    """F is the score itself (NCSN); the input is not rescaled.

    Examples:
      >>> x, F = jnp.array([[6.0]]), jnp.array([[-1.0]])
      >>> print(parameterization.Score().to_score(sde.EDM(), x, 2.0, F))
      [[-1.]]
    """

    def coefficients(self, sde: SDE, t: ArrayLike) -> tuple[Array, Array]:
        return jnp.zeros_like(sde.sigma(t)), -1 / sde.sigma(t)

    def inputs(self, sde: SDE, t: ArrayLike) -> tuple[Array, Array]:
        c_in, c_noise = super().inputs(sde, t)
        return jnp.ones_like(c_in), c_noise


@pytrees.dataclass
class Eps(Parameterization):
    """F is the noise ε (DDPM): score = −F/σ.

    Examples:
      >>> x, F = jnp.array([[6.0]]), jnp.array([[1.0]])
      >>> print(parameterization.Eps().to_score(sde.EDM(), x, 2.0, F))  # −1/2
      [[-0.5]]
    """

    def coefficients(self, sde: SDE, t: ArrayLike) -> tuple[Array, Array]:
        return jnp.zeros_like(sde.sigma(t)), jnp.ones_like(sde.sigma(t))


@pytrees.dataclass
class X0(Parameterization):
    """F is the clean data x_0: score = (α F − x)/σ².

    Examples:
      >>> x, F = jnp.array([[6.0]]), jnp.array([[2.0]])
      >>> print(parameterization.X0().to_score(sde.EDM(), x, 2.0, F))  # (2 − 6)/2²
      [[-1.]]
    """

    def coefficients(self, sde: SDE, t: ArrayLike) -> tuple[Array, Array]:
        return jnp.ones_like(sde.sigma(t)), jnp.zeros_like(sde.sigma(t))


@pytrees.dataclass
class V(Parameterization):
    """F is v = α̂ ε − σ̂ x_0 with (α̂, σ̂) = (α, σ)/√(α² + σ²) (Salimans & Ho 2022, on any SDE).

    Examples:
      At α = σ = √½ a v of 0 says x_0 = ε, so that x is √2 of it: x = √2 has the score −1/σ = −√2.

      >>> x, cosine = jnp.array([[2**0.5]]), sde.Cosine()
      >>> print(f"{parameterization.V().to_score(cosine, x, 0.5, 0 * x)[0, 0]:.2f}")
      -1.41
    """

    def coefficients(self, sde: SDE, t: ArrayLike) -> tuple[Array, Array]:
        norm = jnp.sqrt(sde.alpha(t) ** 2 + sde.variance(t))
        return -sde.sigma(t) / norm, sde.alpha(t) / norm


@pytrees.dataclass
class Flow(Parameterization):
    """F is the velocity ε − x_0 of the straight path from data to noise (Lipman et al. 2023).

    Examples:
      On the straight line a velocity of 0 says x_0 = ε = x, whose score at t = 1/2 is −x/t.

      >>> x = jnp.array([[3.0]])
      >>> print(f"{parameterization.Flow().to_score(sde.Flow(), x, 0.5, 0 * x)[0, 0]:.2f}")
      -6.00
    """

    def coefficients(self, sde: SDE, t: ArrayLike) -> tuple[Array, Array]:
        one = jnp.ones_like(sde.sigma(t))
        return -one, one


@pytrees.dataclass
class EDM(Parameterization):
    """D(x; σ) = c_skip x + c_out F at x/α and σ/α, for data of std `sigma_data` (Karras et al. 2022, table 1).

    With r² = (σ/α)² + σ_data²: c_skip = σ_data²/r², c_out = (σ/α) σ_data/r, c_in = 1/(α r), c_noise = log(σ/α)/4.

    Examples:
      An F of 0 is the best linear denoiser, c_skip x: the score −x/(σ_data² + σ²) of data N(0, σ_data²).

      >>> x = jnp.array([[5.0]])
      >>> print(f"{parameterization.EDM(0.5).to_score(sde.EDM(), x, 1.0, 0 * x)[0, 0]:.2f}")
      -4.00
    """

    sigma_data: ArrayLike = 0.5

    def __post_init__(self) -> None:
        require_positive("parameterization.EDM", sigma_data=self.sigma_data)

    def _sigma_and_norm(self, sde: SDE, t: ArrayLike) -> tuple[Array, Array]:
        sigma = jnp.exp(-0.5 * sde.log_snr(t))
        return sigma, jnp.sqrt(sigma**2 + self.sigma_data**2)

    def coefficients(self, sde: SDE, t: ArrayLike) -> tuple[Array, Array]:
        # (x_0 − c_skip (x_0 + σ ε))/c_out, simplified by 1 − c_skip = σ²/r²: no difference of near-equal numbers.
        sigma, norm = self._sigma_and_norm(sde, t)
        return sigma / (self.sigma_data * norm), jnp.divide(-self.sigma_data, norm)

    def inputs(self, sde: SDE, t: ArrayLike) -> tuple[Array, Array]:
        sigma, norm = self._sigma_and_norm(sde, t)
        return 1 / (sde.alpha(t) * norm), jnp.log(sigma) / 4


def learned(mean: Parameterization, *, floor: ArrayLike) -> Parameterization:
    """Doubles the channels of F: first those of `mean`, then v of the step's variance (Nichol & Dhariwal 2021, eq. 15).

    `sde.interpolated_variance`: between the two that a fixed variance may have where v is in [−1, 1].

    Args:
      mean: what the first half of F means.
      floor: lower bound of the last step's variance, whose posterior one is 0; DDPM's is that of the step before,
        `ddpm_schedule().posterior_variance[1]`.

    Raises:
      InputError: for a floor that is not positive.

    Examples:
      Between the variances (4 − 1)/4 and 4 − 1 of a step from σ = 2 to 1; v = −1 is the lower one.

      >>> learned = parameterization.learned(parameterization.Eps(), floor=1e-4)
      >>> F = jnp.array([[1.0, -1.0]])  # of one channel: ε and v
      >>> print(learned.to_score(sde.EDM(), jnp.zeros((1, 1)), 2.0, F), learned.variance(sde.EDM(), 2.0, 1.0, F))
      [[-0.5]] [[0.75]]
    """
    return _Learned(mean, floor=floor)


@pytrees.dataclass
class _Learned(Parameterization):
    mean: Parameterization
    floor: ArrayLike = struct.field(kw_only=True)

    def __post_init__(self) -> None:
        require_positive("parameterization.learned", floor=self.floor)

    def inputs(self, sde: SDE, t: ArrayLike) -> tuple[Array, Array]:
        return self.mean.inputs(sde, t)

    def coefficients(self, sde: SDE, t: ArrayLike) -> tuple[Array, Array]:
        return self.mean.coefficients(sde, t)

    def to_score(self, sde: SDE, x: Array, t: ArrayLike, F: Array) -> Array:
        expected = (*x.shape[:-1], 2 * x.shape[-1])
        if F.shape != expected:
            raise InputError(
                f"parameterization.learned: for x {x.shape} the network must return mean and variance, {expected}; "
                f"it returned {F.shape}"
            )
        return self.mean.to_score(sde, x, t, F[..., : x.shape[-1]])

    def variance(self, sde: SDE, t: ArrayLike, s: ArrayLike, F: Array) -> Array:
        return sde.interpolated_variance(t, s, F[..., F.shape[-1] // 2 :], floor=self.floor)


@pytrees.dataclass
class AsGiven(Parameterization):
    """Another parameterization, of a network that is given x itself whatever its scale: c_in = 1.

    Published networks of sub-VP, whose x has not variance one, and denoisers D(x; σ) that scale x themselves.

    Examples:
      >>> eps = parameterization.Eps()
      >>> print(f"{eps.inputs(sde.EDM(), 3.0)[0]:.2f} {parameterization.AsGiven(eps).inputs(sde.EDM(), 3.0)[0]:.2f}")
      0.32 1.00
    """

    of: Parameterization

    def coefficients(self, sde: SDE, t: ArrayLike) -> tuple[Array, Array]:
        return self.of.coefficients(sde, t)

    def inputs(self, sde: SDE, t: ArrayLike) -> tuple[Array, Array]:
        c_in, c_noise = self.of.inputs(sde, t)
        return jnp.ones_like(c_in), c_noise
