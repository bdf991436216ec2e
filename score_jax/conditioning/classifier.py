"""A classifier of noised data, p_t(y | x): what classifier guidance needs, since it has to know classes at every level.

By Bayes' rule ∇ log p_t(x | y) = ∇ log p_t(x) + ∇_x log p_t(y | x), with p_t(y | x) of data that were noised for a
time t. A classifier of clean data is not it, neither at x nor at the denoised x.

It is trained as a score model is: with its labels chosen it is a function `(x, t) -> (B,)`, whose negative is the
loss (`losses.classification_loss`).
"""

import jax
import jax.numpy as jnp
from flax import struct

from score_jax import pytrees
from score_jax.parameterization import Parameterization
from score_jax.score import Condition, network_output
from score_jax.sde import SDE
from score_jax.types import Array, Key, Network, PyTree


class NoisedClassifier(struct.PyTreeNode):
    """log p_t(y | x) = log softmax of a network's output, which has a number for each class.

    Args:
      variables: the network's arrays.
      sde: the noising process.
      apply: the network, `(variables, x, cond (B,), None, key) -> (B, K)`.
      parameterization: gives the factor of its input and its number of the noise, as a score model's does.
      condition: `(sde, t) -> cond` in place of that number.

    Examples:
      A network that finds two classes equally likely: log ½ of either.

      >>> network = adapters.plain(lambda params, x, cond, label, key: jnp.zeros((len(x), 2)), lambda *_: {})
      >>> classifier = conditioning.NoisedClassifier({"params": {}}, sde.EDM(), network, parameterization.Eps())
      >>> print(np.array(classifier(jnp.zeros((1, 1)), 1.0)).round(2))
      [[-0.69 -0.69]]
    """

    variables: PyTree
    sde: SDE
    apply: Network = struct.field(pytree_node=False)
    parameterization: Parameterization
    condition: Condition | None = struct.field(pytree_node=False, default=None)

    def __call__(self, x: Array, t: Array, *, key: Key | None = None) -> Array:
        """Returns log p_t(y | x) of every class, `(B, K)`, at x `(B, *S)` and t; a key turns on dropout."""
        return jax.nn.log_softmax(network_output(self, x, t, None, key), axis=-1)

    def conditioned(self, *, label: Array | None = None, key: Key | None = None) -> "ClassLogProb":
        """Returns log p_t(label | x) as a function `(x, t) -> (B,)`."""
        return ClassLogProb(self, label, key)


@pytrees.dataclass
class ClassLogProb:
    """A classifier whose labels `(B,)` and dropout keys are chosen. Label −1 is any class, whose probability is 1."""

    classifier: NoisedClassifier
    label: Array | None
    key: Key | None

    def __call__(self, x: Array, t: Array) -> Array:
        """Returns log p_t(label | x), `(B,)`; NaN of a class that there is not."""
        if self.label is None:
            return jnp.zeros(len(x), x.dtype)
        log_probs = self.classifier(x, t, key=self.key)
        place = jnp.maximum(self.label, 0)[:, None]
        chosen = jnp.take_along_axis(log_probs, place, axis=1, mode="fill", fill_value=jnp.nan)[:, 0]
        return jnp.where(self.label < 0, 0, chosen)
