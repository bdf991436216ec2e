"""Weights of the noise levels that are learned: each level's loss divided by what it is found to be.

A network that predicts F with errors of variance e^{u(σ)} in each of D dimensions has the negative log-likelihood, but
for a constant,

    J e^{−u} + ½ D u,        J = ½ w ‖error‖²,

whose minimum in u is at e^u = 2 E[J]/D: every level then has gradients of one size, ½ D, whatever its loss
(Kendall et al. 2018; Karras et al. 2024, "Analyzing and improving the training dynamics", eq. 14 to 16 and 21). J is to
be a squared error: of implicit, sliced and finite-difference score matching, which are below 0 at their minimum, there
is no such u.
"""

import jax.numpy as jnp

from score_jax.types import Array, ArrayLike


def uncertainty_weighted(values: Array, u: Array, *, dims: int, weight: ArrayLike = 1.0) -> Array:
    """Returns J e^{−u} + ½ D v u in nats, `(B,)`: to train u with, and the network by equal shares of all levels.

    Args:
      values: J, `(B,)`, of a loss of this module's namespace, with its weights.
      u: the log of the variance at each example's noise level, `(B,)`, such as `ScoreModel.uncertainty(t)`.
      dims: D, numbers of an example.
      weight: v, that with which the level was drawn and which is in J (`losses.times`).

    Examples:
      Of J = 3 in two dimensions it is least at e^u = 3, where it is 1 + log 3:

      >>> u = jnp.log(jnp.array([1.0, 3.0, 9.0]))
      >>> print(losses.uncertainty_weighted(jnp.full(3, 3.0), u, dims=2).round(2))
      [3.   2.1  2.53]
    """
    return jnp.exp(-u) * values + 0.5 * dims * weight * u
