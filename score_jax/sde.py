"""Gaussian noising processes p(x_t | x_0) = N(α(t) x_0, σ(t)² I) and the linear SDEs they are the marginals of.

An author writes two functions, `log_alpha(t)` and `variance(t)`; everything else follows. Differentiating the
moments of  dx = f(t) x dt + g(t) dw  gives

    f(t) = d log α / dt,        g(t)² = dσ²/dt − 2 f(t) σ²,

the reverse process is  dx = (f x − g² score) dt + g dw̄  and the probability flow  dx = (f x − ½ g² score) dt
(Anderson 1982; Song et al. 2021, eqs. 6 and 13). `variance` rather than `sigma` is what is written and
differentiated: at t = 0, 2σσ′ is 0·∞ where d(σ²)/dt is exact.

Time runs from `t_min` (data) to `t_max` (prior). `log_snr(t) = log α²/σ²` decreases; `time` inverts it, so
`time(-2 log s)` is the time whose variance-exploding equivalent σ/α is s.
"""

from dataclasses import InitVar
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import DTypeLike

from score_jax import arrays, pytrees
from score_jax.types import Array, ArrayLike, InputError, Key, require_at_least, require_positive, require_range


def _as_time(t: ArrayLike) -> Array:
    """Time as an array of float32 or wider: schedules are never evaluated in half precision."""
    t = jnp.asarray(t)
    return t.astype(arrays.wide(t.dtype))


def _index(t: ArrayLike, n: int) -> Array:
    """⌊t (n − 1)⌋, from 0 to n − 1; a time that is a rounding below that of an index is that of it."""
    t = _as_time(t)
    return jnp.clip(jnp.floor(t * (n - 1) * (1 + 4 * jnp.finfo(t.dtype).eps)), 0, n - 1)


_SMALLEST_LOG_ALPHA = -40.0  # where α² is still a number in float32


def _require_below_one(owner: str, t_max: ArrayLike) -> None:
    """Raises InputError for a time at which α is 0, t = 1 to float32."""
    if isinstance(t_max, int | float | np.floating) and np.float32(t_max) >= 1:
        raise InputError(f"{owner}: α vanishes at t = 1, so t_max stops short of it, as 0.999 does; got {t_max}")


def require_ends(sde: "SDE") -> None:
    """Raises InputError unless α and σ are positive and finite at both ends, where sampling divides by them.

    Examples:
      >>> sde.require_ends(sde.SubVP(t_min=1e-30))
      Traceback (most recent call last):
          ...
      score_jax.types.InputError: SubVP: σ(t_min) = 0, where samples start and end with positive, finite numbers: ...
    """
    with jax.ensure_compile_time_eval():
        found = {
            f"{letter}({end}) = {float(value):.3g}": float(value)
            for end, t in (("t_min", sde.t_min), ("t_max", sde.t_max))
            for letter, value in (("α", sde.alpha(t)), ("σ", sde.sigma(t)))
        }
    wrong = [said for said, value in found.items() if not 0 < value < np.inf]
    if wrong:
        raise InputError(
            f"{type(sde).__name__}: {', '.join(wrong)}, where samples start and end with positive, finite numbers: "
            "choose a larger t_min, a smaller t_max, or less noise"
        )


def _derivative(fn, t: ArrayLike) -> Array:
    t = _as_time(t)
    return jax.jvp(fn, (t,), (jnp.ones_like(t),))[1]


class SDE:
    """A Gaussian noising process; subclasses are frozen dataclasses with `t_min`, `t_max` and numeric leaves.

    Examples:
      One of one's own, the straight line: f = d log α/dt is −2 at t = 1/2, where log SNR is 0.

      >>> class Line(sde.SDE):
      ...     t_min, t_max = 1e-3, 0.999
      ...     log_alpha = lambda self, t: jnp.log1p(-t)
      ...     variance = lambda self, t: t**2
      >>> print(f"{Line().drift(0.5):.2f} {Line().time(0.0):.2f}")
      -2.00 0.50
    """

    t_min: ArrayLike
    t_max: ArrayLike

    def log_alpha(self, t: ArrayLike) -> Array:
        """Returns log α(t)."""
        raise NotImplementedError

    def variance(self, t: ArrayLike) -> Array:
        """Returns σ(t)²."""
        raise NotImplementedError

    def time(self, log_snr: ArrayLike) -> Array:
        """Returns the t at which `log_snr(t)` has the given value; bisection to float precision unless overridden.

        Closed forms go on beyond [t_min, t_max]; bisection, and a table, end there.
        """
        target = _as_time(log_snr)
        low, high = jnp.full_like(target, self.t_min), jnp.full_like(target, self.t_max)

        def halve(_, bounds):
            low, high = bounds
            middle = 0.5 * (low + high)
            too_clean = self.log_snr(middle) > target
            return jnp.where(too_clean, middle, low), jnp.where(too_clean, high, middle)

        return 0.5 * sum(jax.lax.fori_loop(0, jnp.finfo(target.dtype).bits, halve, (low, high)))

    def alpha(self, t: ArrayLike) -> Array:
        """Returns α(t), the factor of the data."""
        return jnp.exp(self.log_alpha(t))

    def sigma(self, t: ArrayLike) -> Array:
        """Returns σ(t), the standard deviation of the noise."""
        return jnp.sqrt(self.variance(t))

    def log_snr(self, t: ArrayLike) -> Array:
        """Returns log α(t)²/σ(t)²."""
        return 2 * self.log_alpha(t) - jnp.log(self.variance(t))

    def drift(self, t: ArrayLike) -> Array:
        """Returns f(t) of dx = f(t) x dt + g(t) dw."""
        return _derivative(self.log_alpha, t)

    def diffusion(self, t: ArrayLike) -> Array:
        """Returns g(t) of dx = f(t) x dt + g(t) dw."""
        return jnp.sqrt(_derivative(self.variance, t) - 2 * self.drift(t) * self.variance(t))

    def transition(self, t: ArrayLike, s: ArrayLike) -> tuple[Array, Array]:
        """Returns (α_{t|s}, σ²_{t|s}) of x_t = α_{t|s} x_s + σ_{t|s} z, without cancellation for small steps."""
        alpha = jnp.exp(self.log_alpha(t) - self.log_alpha(s))
        return alpha, -self.variance(t) * jnp.expm1(jnp.minimum(self.log_snr(t) - self.log_snr(s), 0))

    def posterior_variance(self, t: ArrayLike, s: ArrayLike) -> Array:
        """Returns σ²_{t|s} σ_s²/σ_t², the variance of x_s given x_t and x_0."""
        return self.transition(t, s)[1] * self.variance(s) / self.variance(t)

    def interpolated_variance(self, t: ArrayLike, s: ArrayLike, v: Array, *, floor: ArrayLike) -> Array:
        """Returns the variance of a step between its two bounds, by v in [−1, 1] (Nichol & Dhariwal 2021, eq. 15).

            log variance = u log σ²_{t|s} + (1 − u) log σ²_{t|s} σ_s²/σ_t²,        u = (v + 1)/2

        It is 0 where nothing is added, s = t. s = 0 stands for the data, without any noise: there the first is σ_t²,
        and the second, which would vanish, `floor`.

        Args:
          t: `()` or `(B,)`.
          s: likewise.
          v: `(B, *S)`.
          floor: the lower bound at s = 0.
        """
        high = jnp.where(s == 0, self.variance(t), self.transition(t, s)[1])
        low = jnp.where(s == 0, floor, self.posterior_variance(t, s))
        adds = (high > 0) & (low > 0)
        # A logarithm that exists all the same where nothing is added: its NaN would enter the gradient.
        high, low = (jnp.log(jnp.where(adds, bound, 1)) for bound in (high, low))
        between = jnp.exp(arrays.expand_right(low, v) + 0.5 * (v + 1) * arrays.expand_right(high - low, v))
        return jnp.where(arrays.expand_right(adds, v) > 0, between, 0)

    def discretize(self, t: ArrayLike, n: int) -> tuple[Array, Array]:
        """Returns (α, σ²) of x_t = α x_s + σ z for the step at t of n, whose size is its own whatever s (score SDE).

        Euler–Maruyama with dt = 1/n, 1 + f/n and g²/n, unless an SDE has another: as released, `SDE.discretize`.
        """
        return 1 + self.drift(t) / n, self.diffusion(t) ** 2 / n

    def perturb(self, key: Key, x0: Array, t: ArrayLike) -> tuple[Array, Array]:
        """Draws x_t = α(t) x_0 + σ(t) ε and returns `(x_t, eps)`.

        Args:
          key: `()` or `(B,)`.
          x0: `(B, *S)`.
          t: `()` or `(B,)`.
        """
        eps = arrays.normal(key, x0)
        return arrays.expand_right(self.alpha(t), x0) * x0 + arrays.expand_right(self.sigma(t), x0) * eps, eps

    def prior_sample(self, key: Key, shape: tuple[int, ...], dtype: DTypeLike | None = None) -> Array:
        """Draws `shape` = `(B, *S)` from the prior N(0, σ(t_max)² I); `dtype` None is JAX's default float."""
        z = arrays.draw(jax.random.normal, key, shape, dtype)
        return arrays.expand_right(self.sigma(self.t_max), z) * z

    def prior_log_prob(self, x: Array, t: ArrayLike | None = None) -> Array:
        """Returns log N(x; 0, σ(t)² I) in nats, `(B,)`; t is t_max unless given."""
        scale = arrays.expand_right(self.sigma(self.t_max if t is None else t), x)
        return arrays.sum_dims(jax.scipy.stats.norm.logpdf(x, scale=scale))

    def denoise(self, x: Array, t: ArrayLike, score: Array) -> Array:
        """Returns E[x_0 | x_t = x] = (x + σ² score)/α (Tweedie; Efron 2011)."""
        return (x + arrays.expand_right(self.variance(t), x) * score) / arrays.expand_right(self.alpha(t), x)


@pytrees.dataclass
class VE(SDE):
    """Variance exploding: σ(t) = σ_min (σ_max/σ_min)^t, α = 1 (Song et al. 2021, eq. 30).

    As released: σ(0) = σ_min, so t = 0 is the data blurred by σ_min and d(σ²)/dt = g² throughout.

    Examples:
      >>> print(np.array(sde.VE(0.01, 1.0).sigma(jnp.array([0.0, 0.5, 1.0]))).round(2))
      [0.01 0.1  1.  ]
    """

    sigma_min: ArrayLike = 0.01
    sigma_max: ArrayLike = 50.0
    t_min: ArrayLike = struct.field(default=1e-5, kw_only=True)
    t_max: ArrayLike = struct.field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        require_range("VE", "sigma_min", self.sigma_min, "sigma_max", self.sigma_max)
        require_range("VE", "t_min", self.t_min, "t_max", self.t_max)

    def _log_ratio(self) -> Array:
        return jnp.log(self.sigma_max) - jnp.log(self.sigma_min)

    def log_alpha(self, t: ArrayLike) -> Array:
        return jnp.zeros_like(_as_time(t))

    def variance(self, t: ArrayLike) -> Array:
        t = _as_time(t)
        return jnp.exp(2 * (jnp.log(self.sigma_min) + t * self._log_ratio())).astype(t.dtype)

    def time(self, log_snr: ArrayLike) -> Array:
        return (-0.5 * _as_time(log_snr) - jnp.log(self.sigma_min)) / self._log_ratio()

    def discretize(self, t: ArrayLike, n: int) -> tuple[Array, Array]:
        """Returns 1 and σ_i² − σ_{i−1}² of the n geometric levels, i = ⌊t (n − 1)⌋ and σ_{−1} = 0: SMLD's."""
        index = _index(t, n)
        lost = jnp.where(index > 0, -jnp.expm1(-2 * self._log_ratio() / (n - 1)).astype(index.dtype), 1)
        return jnp.ones_like(index), self.variance(index / (n - 1)) * lost


class _LinearBeta(SDE):
    """α of β(t) = β_min + t (β_max − β_min): log α = −B/2 with B(t) = ∫₀ᵗ β."""

    beta_min: ArrayLike
    beta_max: ArrayLike

    def __post_init__(self) -> None:
        owner = type(self).__name__
        require_positive(owner, beta_min=self.beta_min, beta_max=self.beta_max)
        require_range(owner, "t_min", self.t_min, "t_max", self.t_max)
        numbers = self.beta_min, self.beta_max, self.t_max
        if all(isinstance(v, int | float | np.floating) for v in numbers):
            lost = self.t_max * (self.beta_min + 0.5 * self.t_max * (self.beta_max - self.beta_min)) / 2
            if not -lost > _SMALLEST_LOG_ALPHA:
                raise InputError(
                    f"{owner}: α(t_max) = exp(−{lost:.4g}) vanishes; beta_max = 20 leaves exp(−5), got "
                    f"beta_min = {self.beta_min}, beta_max = {self.beta_max}, t_max = {self.t_max}"
                )

    def integral(self, t: ArrayLike) -> Array:
        """Returns B(t) = β_min t + ½ (β_max − β_min) t²."""
        t = _as_time(t)
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def log_alpha(self, t: ArrayLike) -> Array:
        return -0.5 * self.integral(t)

    def _time_of_integral(self, integral: Array) -> Array:
        # The stable root of the quadratic: no cancellation for small B, and right for beta_min == beta_max.
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2 * slope * integral))


@pytrees.dataclass
class VP(_LinearBeta):
    """Variance preserving: σ² = 1 − α², β linear in t (Song et al. 2021, eq. 32): DDPM in continuous time.

    Examples:
      Of variance 1 stays variance 1, α² + σ² = 1, and at the end e⁻⁵ is left of the data.

      >>> vp = sde.VP()
      >>> print(f"{vp.alpha(0.5) ** 2 + vp.variance(0.5):.2f} {jnp.log(vp.alpha(1.0)):.1f}")
      1.00 -5.0
    """

    beta_min: ArrayLike = 0.1
    beta_max: ArrayLike = 20.0
    t_min: ArrayLike = struct.field(default=1e-5, kw_only=True)
    t_max: ArrayLike = struct.field(default=1.0, kw_only=True)

    def variance(self, t: ArrayLike) -> Array:
        return -jnp.expm1(-self.integral(t))

    def time(self, log_snr: ArrayLike) -> Array:
        return self._time_of_integral(jax.nn.softplus(-_as_time(log_snr)))

    def discretize(self, t: ArrayLike, n: int) -> tuple[Array, Array]:
        """Returns √(1 − β_i) and β_i of the n linear β from β_min/n to β_max/n, i = ⌊t (n − 1)⌋: DDPM's."""
        if isinstance(self.beta_max, int | float) and self.beta_max >= n:
            raise InputError(
                f"VP: β reaches {self.beta_max / n:.3g} in {n} steps; it needs more than {self.beta_max:g}"
            )
        beta = jnp.asarray(self.beta_min + (self.beta_max - self.beta_min) * _index(t, n) / (n - 1)) / n
        return jnp.sqrt(1 - beta), beta


@pytrees.dataclass
class SubVP(_LinearBeta):
    """Sub-VP: VP's α with σ = 1 − α², its variance squared (Song et al. 2021, eq. 33).

    Published runs train from t = 1e-5, where σ = 1e-6: 17 spacings of float32 numbers near 1. At 1e-3 it is 1.1e-4.

    Examples:
      Where α² = 1/2, its σ is 1/2, and VP's √(1/2).

      >>> t = sde.VP().time(0.0)  # of log-SNR 0
      >>> print(f"{sde.SubVP().sigma(t):.2f} {sde.VP().sigma(t):.2f}")
      0.50 0.71
    """

    beta_min: ArrayLike = 0.1
    beta_max: ArrayLike = 20.0
    t_min: ArrayLike = struct.field(default=1e-3, kw_only=True)
    t_max: ArrayLike = struct.field(default=1.0, kw_only=True)

    def variance(self, t: ArrayLike) -> Array:
        return jnp.expm1(-self.integral(t)) ** 2

    def time(self, log_snr: ArrayLike) -> Array:
        # σ/α = 2 sinh(B/2)
        return self._time_of_integral(2 * jnp.arcsinh(0.5 * jnp.exp(-0.5 * _as_time(log_snr))))


@pytrees.dataclass
class EDM(SDE):
    """Time is the noise level itself: α = 1, σ(t) = t, from `sigma_min` to `sigma_max` (Karras et al. 2022).

    Examples:
      Data 0 noised to t = 3 have a standard deviation of 3; 1/σ² is their SNR.

      >>> xt, eps = sde.EDM().perturb(key, jnp.zeros((4096, 1)), 3.0)
      >>> print(f"{xt.std():.1f} {sde.EDM().time(jnp.log(1 / 3.0**2)):.1f}")
      3.0 3.0
    """

    sigma_min: ArrayLike = 0.002
    sigma_max: ArrayLike = 80.0

    def __post_init__(self) -> None:
        require_range("EDM", "sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    @property
    def t_min(self) -> ArrayLike:  # type: ignore[override]
        return self.sigma_min

    @property
    def t_max(self) -> ArrayLike:  # type: ignore[override]
        return self.sigma_max

    def log_alpha(self, t: ArrayLike) -> Array:
        return jnp.zeros_like(_as_time(t))

    def variance(self, t: ArrayLike) -> Array:
        return _as_time(t) ** 2

    def time(self, log_snr: ArrayLike) -> Array:
        return jnp.exp(-0.5 * _as_time(log_snr))


@pytrees.dataclass
class Cosine(SDE):
    """Variance preserving on a quarter circle: α = cos(πt/2), σ = sin(πt/2) (Salimans & Ho 2022).

    α vanishes at t = 1, so it stops short of it.

    Examples:
      A third of the way is an angle of 30°.

      >>> print(f"{sde.Cosine().alpha(1 / 3):.2f} {sde.Cosine().sigma(1 / 3):.2f}")
      0.87 0.50
    """

    t_min: ArrayLike = struct.field(default=1e-5, kw_only=True)
    t_max: ArrayLike = struct.field(default=1 - 1e-3, kw_only=True)

    def __post_init__(self) -> None:
        require_range("Cosine", "t_min", self.t_min, "t_max", self.t_max)
        _require_below_one("Cosine", self.t_max)

    def log_alpha(self, t: ArrayLike) -> Array:
        return jnp.log(jnp.cos(0.5 * jnp.pi * _as_time(t)))

    def variance(self, t: ArrayLike) -> Array:
        return jnp.sin(0.5 * jnp.pi * _as_time(t)) ** 2

    def time(self, log_snr: ArrayLike) -> Array:
        return 2 / jnp.pi * jnp.arctan(jnp.exp(-0.5 * _as_time(log_snr)))


@pytrees.dataclass
class Flow(SDE):
    """The straight line x_t = (1 − t) x_0 + t ε (Lipman et al. 2023; Liu et al. 2023); stops short of t = 1.

    Examples:
      Noised to t = 1/4 and denoised by the score of what was drawn, −ε/σ, data are what they were.

      >>> flow = sde.Flow()
      >>> xt, eps = flow.perturb(key, jnp.array([[3.0]]), 0.25)
      >>> print(f"{flow.denoise(xt, 0.25, -eps / flow.sigma(0.25))[0, 0]:.2f}")
      3.00
    """

    t_min: ArrayLike = struct.field(default=1e-5, kw_only=True)
    t_max: ArrayLike = struct.field(default=1 - 1e-3, kw_only=True)

    def __post_init__(self) -> None:
        require_range("Flow", "t_min", self.t_min, "t_max", self.t_max)
        _require_below_one("Flow", self.t_max)

    def log_alpha(self, t: ArrayLike) -> Array:
        return jnp.log1p(-_as_time(t))

    def variance(self, t: ArrayLike) -> Array:
        return _as_time(t) ** 2

    def time(self, log_snr: ArrayLike) -> Array:
        return jax.nn.sigmoid(-0.5 * _as_time(log_snr))


@pytrees.dataclass
class Tabulated(SDE):
    """A published discrete schedule, exactly: ᾱ_i at the knots t = (i+1)/N, log ᾱ linear in between and to 0 at t = 0.

    `alphas_bar` `(N,)` decreases (`ddpm_schedule(...).alphas_bar`); variance preserving. What is kept, the leaf, is
    its logarithm, taken in float64: near ᾱ = 1 the float32 of ᾱ itself has only three digits of 1 − ᾱ.

    A table of zero terminal SNR ends with ᾱ = 0, where there is no score to go by. It is sampled from the second knot:
    t_max is (N − 1)/N, and all other knots keep their times.

    Examples:
      DDPM's table: after the first of 1,000 steps σ² is β_1, and after 500 of them 1 − ᾱ_500.

      >>> schedule = sde.ddpm_schedule()
      >>> ddpm = sde.Tabulated(schedule.alphas_bar)
      >>> print(f"{ddpm.variance(1 / 1000):.4f} {ddpm.variance(0.5):.3f} {1 - schedule.alphas_bar[499]:.3f}")
      0.0001 0.921 0.921
    """

    alphas_bar: InitVar[ArrayLike | None] = None
    log_alphas_bar: ArrayLike = struct.field(default=None, kw_only=True)
    t_min: ArrayLike = struct.field(default=1e-5, kw_only=True)
    t_max: ArrayLike = struct.field(default=1.0, kw_only=True)

    def __post_init__(self, alphas_bar: ArrayLike | None):
        require_range("Tabulated", "t_min", self.t_min, "t_max", self.t_max)
        if alphas_bar is None:
            return  # rebuilt from its leaves
        if isinstance(alphas_bar, jax.core.Tracer):
            object.__setattr__(self, "log_alphas_bar", jnp.log(alphas_bar))
            return
        try:
            table = np.asarray(alphas_bar, np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"Tabulated: alphas_bar is an array (N,) of numbers, got {alphas_bar!r}") from error
        if table.ndim == 1 and len(table) > 1 and table[-1] == 0:
            # Never visited: the ratio before, once more.
            table = np.append(table[:-1], table[-2] * min(np.exp(np.diff(np.log([1.0, *table[:-1]]))[-1]), 0.5))
            if isinstance(self.t_max, int | float):
                object.__setattr__(self, "t_max", min(self.t_max, (len(table) - 1) / len(table)))
        if table.ndim != 1 or not table.size or not (np.diff([1.0, *table, 0.0]) < 0).all():
            shown = np.array2string(table, threshold=4)
            raise InputError(f"Tabulated: alphas_bar must decrease strictly inside (0, 1), got {shown}")
        if not np.log(table[-1]) > 2 * _SMALLEST_LOG_ALPHA:
            raise InputError(
                f"Tabulated: alphas_bar ends with {table[-1]:.3g}, where α vanishes: end the table before, or with "
                "exactly 0, which is sampled from the second knot"
            )
        object.__setattr__(self, "log_alphas_bar", np.log(table))

    def knots(self) -> Array:
        """Returns the times of the table, (i+1)/N, ascending `(N,)`."""
        n = jnp.size(self.log_alphas_bar)
        return jnp.arange(1, n + 1) / n

    def _table(self, dtype) -> tuple[Array, Array]:
        zero = jnp.zeros(1, dtype)
        values = jnp.asarray(self.log_alphas_bar, dtype)
        return jnp.append(zero, self.knots().astype(dtype)), jnp.append(zero, values)

    def _log_alpha_bar(self, t: ArrayLike) -> Array:
        t = _as_time(t)
        return arrays.piecewise_linear(t, *self._table(t.dtype))

    def log_alpha(self, t: ArrayLike) -> Array:
        return 0.5 * self._log_alpha_bar(t)

    def variance(self, t: ArrayLike) -> Array:
        return -jnp.expm1(self._log_alpha_bar(t))

    def time(self, log_snr: ArrayLike) -> Array:
        log_alpha_bar = jax.nn.log_sigmoid(_as_time(log_snr))
        times, values = self._table(log_alpha_bar.dtype)
        return arrays.piecewise_linear(-log_alpha_bar, -values, times)

    def discretize(self, t: ArrayLike, n: int) -> tuple[Array, Array]:
        """Returns √(1 − β_i) and β_i of the table, i = ⌊t (n − 1)⌋; n is its length."""
        if n != jnp.size(self.log_alphas_bar):
            raise InputError(f"Tabulated: the table has {jnp.size(self.log_alphas_bar)} steps of its own, not {n}")
        index = _index(t, n)
        return self.transition((index + 1) / n, index / n)


class DDPMSchedule(NamedTuple):
    """Tables of a discrete diffusion, `(n_steps,)` float64: β, α = 1 − β, ᾱ = ∏α, variance of q(x_{t−1}|x_t, x_0)."""

    betas: np.ndarray
    alphas: np.ndarray
    alphas_bar: np.ndarray
    posterior_variance: np.ndarray


def zero_terminal_snr(alphas_bar: np.ndarray) -> np.ndarray:
    """Returns ᾱ whose root is shifted to 0 at the end and scaled to what it was at the beginning (Lin et al. 2024).

    Examples:
      The roots 0.9, 0.7 and 0.5 are shifted by 0.5 and scaled by 0.9/0.4.

      >>> print(np.sqrt(sde.zero_terminal_snr(np.array([0.81, 0.49, 0.25]))).round(2))
      [0.9  0.45 0.  ]
    """
    root = np.sqrt(np.asarray(alphas_bar, np.float64))
    return ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2


def ddpm_schedule(n_steps: int = 1000, kind: str = "linear", *, terminal_snr: str = "published") -> DDPMSchedule:
    """Builds a published DDPM schedule in float64.

    `"linear"` and `"quadratic"` are Ho et al. 2020's (β from 1e-4 to 0.02 at 1,000 steps; for other counts β is
    scaled by 1000/n_steps, so that the limit is the same VP-SDE), `"cosine"` is Nichol & Dhariwal 2021, eq. 17,
    with β clipped at 0.999. `terminal_snr="zero"` rescales any of them by `zero_terminal_snr`.

    Raises:
      InputError: for an unknown word, or so few steps that some β reaches 1.

    Examples:
      >>> schedule = sde.ddpm_schedule()
      >>> print(f"{schedule.betas[0]:.4f} {schedule.betas[-1]:.2f} {schedule.alphas_bar[-1]:.0e}")
      0.0001 0.02 4e-05
    """
    require_at_least("ddpm_schedule", 1, n_steps=n_steps)
    scale, first, last = 1000 / n_steps, 1e-4, 0.02
    if kind == "linear":
        betas = scale * np.linspace(first, last, n_steps)
    elif kind == "quadratic":
        betas = scale * np.linspace(first**0.5, last**0.5, n_steps) ** 2
    elif kind == "cosine":
        alpha_bar = np.cos((np.arange(n_steps + 1) / n_steps + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    else:
        raise InputError(f'ddpm_schedule: kind must be "linear", "quadratic" or "cosine", got {kind!r}')
    if betas.max() >= 1:
        raise InputError(
            f"ddpm_schedule: {n_steps} {kind} steps make beta reach {betas.max():.3g}; it needs at least 21 steps"
        )
    if terminal_snr == "zero" and n_steps < 2:
        raise InputError("ddpm_schedule: a table of zero terminal SNR has at least 2 steps, got n_steps = 1")
    if terminal_snr not in ("published", "zero"):
        raise InputError(f'ddpm_schedule: terminal_snr must be "published" or "zero", got {terminal_snr!r}')
    alphas = 1 - betas
    alphas_bar = np.cumprod(alphas)
    if terminal_snr == "zero":
        alphas_bar = zero_terminal_snr(alphas_bar)
        alphas = alphas_bar / np.append(1.0, alphas_bar[:-1])
        betas = 1 - alphas
    previous = np.append(1.0, alphas_bar[:-1])
    return DDPMSchedule(betas, alphas, alphas_bar, betas * (1 - previous) / (1 - alphas_bar))


def geometric_sigmas(sigma_max: float, sigma_min: float, n: int) -> Array:
    """Returns n noise levels in geometric progression, descending from `sigma_max` to `sigma_min` (Song & Ermon 2019).

    Computed in float64 and then cast to JAX's default float.

    Examples:
      >>> print(np.array(sde.geometric_sigmas(10.0, 0.1, 3)).round(2))
      [10.   1.   0.1]
    """
    require_range("geometric_sigmas", "sigma_min", sigma_min, "sigma_max", sigma_max)
    return jnp.asarray(np.geomspace(sigma_max, sigma_min, n))
