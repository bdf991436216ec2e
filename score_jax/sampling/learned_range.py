"""A learned range of variances: a step's noise between the two variances that a fixed one may have."""

from score_jax.sampling.sde import StepVariance
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, ScoreFn


def learned_range(sde: SDE, v_fn: ScoreFn, *, floor: ArrayLike) -> StepVariance:
    """Returns the variance of `ancestral` that v of a network interpolates, `sde.interpolated_variance`.

    v = −1 is the posterior's variance, 1 the transition's (Nichol & Dhariwal 2021, eq. 15; diffusers' `variance_type`
    "learned_range"). `ScoreModel.variance` is this of the second half of the channels of one network.

    Args:
      sde: the noising process.
      v_fn: `(x, t) -> v`, `(B, *S)`, usually in [−1, 1].
      floor: the lower bound of a step to the data themselves, s = 0.

    Examples:
      From t = 2 to s = 1: v = −1 is the variance (4 − 1)/4 of q(x_s|x_t, x_0), v = 1 that of the transition, 4 − 1.

      >>> variance = sampling.learned_range(sde.EDM(), lambda x, t: jnp.array([[-1.0], [1.0]]), floor=1e-4)
      >>> print(np.array(variance(jnp.zeros((2, 1)), 2.0, 1.0))[:, 0].round(2))
      [0.75 3.  ]
    """

    def variance(x: Array, t: Array, s: Array) -> Array:
        return sde.interpolated_variance(t, s, v_fn(x, t), floor=floor)

    return variance
