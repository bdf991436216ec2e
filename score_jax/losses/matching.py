"""Objectives of score matching at one density: `score_fn` is `x -> score`, results are nats per example, `(B,)`.

With J = ½ E‖s − ∇log p‖² the Fisher divergence,

    ESM   ½‖s − ∇log p‖²                         the definition; needs the target score
    ISM   ½‖s‖² + tr ∇s                          = ESM − ½E‖∇log p‖², when p·s vanishes at the boundary (Hyvärinen 2005)
    SSM   vᵀ∇s v + ½(vᵀs)²,  E[vvᵀ] = I          = ISM in expectation over v (Song et al. 2019)
    FD    SSM with vᵀ∇s v by a central difference: no second derivatives (Pang et al. 2020)
    DSM   ½‖s(x̃) − ∇log q(x̃|x)‖²                 = ESM of the noised density + a constant (Vincent 2011)

ISM and SSM are negative at their optimum, DSM's optimum is not zero. ISM, SSM and FD need a score whose Jacobian is
informative: smooth activations, above all for scores that are themselves gradients of an energy.
"""

import jax
import jax.numpy as jnp

from score_jax import arrays
from score_jax.kernels import Kernel
from score_jax.types import Array, ArrayLike, InputError, Key, StaticScoreFn, require_at_least, require_positive

PROJECTIONS = {"rademacher": arrays.rademacher, "gaussian": arrays.normal, "sphere": arrays.sphere}


def explicit_score_matching(score_fn: StaticScoreFn, x: Array, target_score_fn: StaticScoreFn) -> Array:
    """Returns ½‖s(x) − ∇log p(x)‖², `(B,)`.

    Args:
      score_fn: `(B, *S) -> (B, *S)`.
      x: samples of p, `(B, *S)`.
      target_score_fn: the true score of p.

    Examples:
      A score of 0 against that of N(0, I), −x, costs ½‖x‖².

      >>> x = jnp.array([[3.0, 4.0]])
      >>> print(losses.explicit_score_matching(lambda x: 0 * x, x, lambda x: -x))
      [12.5]
    """
    return 0.5 * arrays.sum_dims((score_fn(x) - target_score_fn(x)) ** 2)


def implicit_score_matching(score_fn: StaticScoreFn, x: Array, *, key: Key | None = None) -> Array:
    """Returns ½‖s(x)‖² + tr ∇s(x), `(B,)` (Hyvärinen 2005, eq. 4).

    Args:
      score_fn: `(B, *S) -> (B, *S)`.
      x: samples of p, `(B, *S)`.
      key: None for the exact trace (d Jacobian-vector products), a key `()` or `(B,)` for Hutchinson's estimate.

    Examples:
      Of N(0, 1) and its score −x it is ½x² − 1, whose mean over p is −½, and no score has less.

      >>> x = jax.random.normal(jax.random.key(1), (4096, 1))
      >>> print(f"{losses.implicit_score_matching(lambda x: -x, x).mean():.1f}")
      -0.5
    """
    return 0.5 * arrays.sum_dims(score_fn(x) ** 2) + arrays.divergence(score_fn, x, key=key)


def sliced_score_matching(
    key: Key,
    score_fn: StaticScoreFn,
    x: Array,
    *,
    n_projections: int = 1,
    projection: str = "rademacher",
    variance_reduced: bool = False,
) -> Array:
    """Returns the mean over projections of vᵀ∇s v + ½(vᵀs)², `(B,)` (Song et al. 2019, eqs. 8 and 9).

    `variance_reduced` replaces ½(vᵀs)² by its expectation ½‖s‖² (SSM-VR). Every projection satisfies E[vvᵀ] = I, so
    the expectation is ISM whatever the choice.

    Args:
      key: `()` or `(B,)`.
      score_fn: `(B, *S) -> (B, *S)`.
      x: samples of p, `(B, *S)`.
      n_projections: projections per example.
      projection: "rademacher", "gaussian", or "sphere" (radius √d).
      variance_reduced: use ½‖s‖² in place of ½(vᵀs)².

    Raises:
      InputError: for an unknown projection, or none.

    Examples:
      For s = −x the variance-reduced form is ½‖x‖² − d whatever signs are drawn: implicit score matching.

      >>> loss = lambda x: losses.sliced_score_matching(key, lambda x: -x, x, variance_reduced=True)
      >>> print(f"{jax.jit(loss)(jnp.array([[3.0, 4.0]]))[0]:.2f}")
      10.50
    """
    require_at_least("sliced_score_matching", 1, n_projections=n_projections)
    if projection not in PROJECTIONS:
        raise InputError(f"sliced_score_matching: projection must be one of {sorted(PROJECTIONS)}, got {projection!r}")

    def one(key: Key) -> Array:
        v = PROJECTIONS[projection](key, x)
        score, derivative = jax.jvp(score_fn, (x,), (v,))
        energy = arrays.sum_dims(score**2) if variance_reduced else arrays.sum_dims(v * score) ** 2
        return arrays.sum_dims(v * derivative) + 0.5 * energy

    return jax.vmap(one)(arrays.split(arrays.example_keys(key, len(x)), n_projections)).mean(0)


def finite_difference_score_matching(
    key: Key, score_fn: StaticScoreFn, x: Array, *, eps: float = 0.1, n_projections: int = 1
) -> Array:
    """Returns FD-SSM-VR: ‖s(x+w) + s(x−w)‖²/8 + (d/2ε²) wᵀ(s(x+w) − s(x−w)), `(B,)` (Pang et al. 2020).

    w is uniform on the sphere of radius ε. The mean is ISM + O(ε²), exact for a linear score; no derivative is taken.

    Args:
      key: `()` or `(B,)`.
      score_fn: `(B, *S) -> (B, *S)`.
      x: samples of p, `(B, *S)`, float32 or wider.
      eps: length ε of the displacement, in the units of x.
      n_projections: displacements per example.

    Raises:
      InputError: for a non-positive eps, or half-precision x, whose rounding exceeds the difference.

    Examples:
      For s = −x, which is linear, it is ½‖x‖² − d: implicit score matching.

      >>> loss = lambda x: losses.finite_difference_score_matching(key, lambda x: -x, x)
      >>> print(f"{jax.jit(loss)(jnp.array([[3.0, 4.0]]))[0]:.2f}")
      10.50
    """
    require_positive("finite_difference_score_matching", eps=eps)
    require_at_least("finite_difference_score_matching", 1, n_projections=n_projections)
    if jnp.finfo(x.dtype).bits < 32:
        raise InputError(f"finite_difference_score_matching: x must be float32 or wider, got {x.dtype}; cast it first")
    dims = x[0].size

    def one(key: Key) -> Array:
        w = arrays.sphere(key, x) * (eps / dims**0.5)
        ahead, behind = jax.vmap(score_fn)(jnp.stack([x + w, x - w]))
        trace = arrays.sum_dims(w * (ahead - behind)) * (dims / (2 * eps**2))
        return arrays.sum_dims((ahead + behind) ** 2) / 8 + trace

    return jax.vmap(one)(arrays.split(arrays.example_keys(key, len(x)), n_projections)).mean(0)


def denoising_score_matching(
    key: Key, score_fn: StaticScoreFn, x: Array, kernel: Kernel, *, control: ArrayLike = 0.0
) -> Array:
    """Returns ½‖s(x̃) − τ‖² with τ = ∇_x̃ log q(x̃|x), x̃ ~ q(·|x), `(B,)` (Vincent 2011, eq. 10).

    The minimiser is the score of the noised density; for Gaussian noise the target τ is −(x̃ − x)/σ² = −z/σ.

    Args:
      key: `()` or `(B,)`.
      score_fn: `(B, *S) -> (B, *S)`.
      x: samples of p, `(B, *S)`.
      kernel: the noise q(x̃|x), any of `score_jax.kernels`.
      control: coefficient, `()` or `(B,)`, of the `control_variate` that is taken off; 1 where the noise is small
        beside the detail of the score. It costs one more call of `score_fn`, at x.

    Examples:
      Data N(0, 1) noised with σ = 1 are N(0, 2), whose score −x/2 leaves ½ Var(τ | x̃) = 1/4.

      >>> x = jax.random.normal(jax.random.key(1), (4096, 1))
      >>> loss = losses.denoising_score_matching(key, lambda x: -x / 2, x, kernels.Gaussian(1.0))
      >>> print(f"{loss.mean():.2f}")
      0.25
    """
    x_tilde = kernel.sample(key, x)
    target = kernel.score(x_tilde, x)
    values = 0.5 * arrays.sum_dims((score_fn(x_tilde) - target) ** 2)
    if isinstance(control, int | float) and control == 0:
        return values
    return values - control * control_variate(score_fn(x), target, kernel.information(x))


def control_variate(score: Array, target: Array, information: ArrayLike) -> Array:
    """Returns −s(x)·τ + ½(‖τ‖² − E‖τ‖²), `(B,)`: the part of a denoising loss that has mean zero given x.

    In ½‖s(x̃)‖² − s(x̃)·τ + ½‖τ‖² with τ = −z/σ the last two terms have variances of order σ⁻² and σ⁻⁴, though their
    means stay finite; what is left without this part has a bounded variance (Wang et al. 2020; Song & Kingma
    2021, "How to train your energy-based models").

    Args:
      score: s(x) at the noiseless x, `(B, *S)`.
      target: τ, `(B, *S)`.
      information: E‖τ‖² of the noise, `()`.

    Examples:
      The spread of a denoising loss at σ = 0.01, which is about 1/(√2 σ²), and without this part, `control=1`.

      >>> x, noise = jnp.ones((4096, 1)), kernels.Gaussian(0.01)
      >>> loss = lambda c: losses.denoising_score_matching(key, lambda x: -x, x, noise, control=c)
      >>> print(f"{loss(0.0).std():.0e} {loss(1.0).std():.0e}")
      7e+03 1e+00
    """
    return 0.5 * (arrays.sum_dims(target**2) - information) - arrays.sum_dims(score * target)
