"""Classifying noised data at every level of an SDE at once: what classifier guidance is made of."""

from score_jax import arrays
from score_jax.losses.times import Times, uniform
from score_jax.sde import SDE
from score_jax.types import Array, Key, ScoreFn


def classification_loss(key: Key, sde: SDE, log_prob_fn: ScoreFn, x0: Array, *, times: Times = uniform()) -> Array:
    """Returns −log p_t(y | x_t), `(B,)`: cross-entropy in nats, with y the label of each x_0.

    Its mean over data and noise is H(y | x_t) + E KL(p(y | x_t) ‖ p_t(y | x_t)): least for the exact p(y | x_t), where
    it is the conditional entropy, at every t (Song et al. 2021, appendix I.1; Dhariwal & Nichol 2021, section 4).

    Args:
      key: `()` or `(B,)`.
      sde: the noising process.
      log_prob_fn: `(x, t) -> (B,)`, log p_t(y | x) of the labels of x0, t `(B,)`.
      x0: data, `(B, *S)`.
      times: how t is drawn, with its weight: which noise levels count how much.

    Examples:
      Two classes at ±1 and the exact p(y | x_t): at σ = 0.1 it is known, at σ = 30 all of log 2 is left.

      >>> y = jnp.array([-1.0, 1.0] * 2048)
      >>> exact = lambda x, t: jax.nn.log_sigmoid(2 * y * x[:, 0] / t**2)
      >>> at = lambda t: losses.classification_loss(key, sde.EDM(), exact, y[:, None], times=losses.times.discrete(t))
      >>> print(f"{jax.jit(at)(jnp.array([0.1])).mean():.2f} {jax.jit(at)(jnp.array([30.0])).mean():.2f}")
      0.00 0.69
    """
    key = arrays.example_keys(key, len(x0))
    t, weight = times(arrays.fold_in(key, 0), sde, len(x0))
    xt, _ = sde.perturb(arrays.fold_in(key, 1), x0, t)
    return -arrays.expand_right(weight, t) * log_prob_fn(xt, t)
