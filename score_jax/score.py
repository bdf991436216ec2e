"""Score functions made of networks and energies.

`ScoreModel` is a pytree of parameters and numbers around a static network; calling it is the only place where a
network, an SDE and a parameterization meet. What comes out is a plain score function `(x, t) -> score`. Networks of
Flax Linen, Flax NNX and any other library become one by `adapters`; a closed form is a score function as it stands.
"""

from collections.abc import Callable
from typing import Protocol, TypeAlias

import jax
import jax.numpy as jnp
from flax import struct

from score_jax import arrays, pytrees
from score_jax.parameterization import Parameterization
from score_jax.sde import SDE
from score_jax.types import Array, InputError, Key, Network, PyTree, ScoreFn

Condition: TypeAlias = Callable[[SDE, Array], Array]  # (sde, t) -> cond, of the shape of t


class ScoreModel(struct.PyTreeNode):
    """A network as a score function: score = parameterization(F), F = apply(variables, c_in x, cond, label, key).

    Args:
      variables: the network's arrays, `{"params": ...}` and any fixed collections.
      sde: the noising process whose score this is.
      apply: the network, `(variables, x, cond (B,), label, key) -> F`, hashed by value: `adapters.linen(module)`, say.
      parameterization: what F stands for.
      condition: `(sde, t) -> cond` in place of c_noise, for networks trained on something else (level index, 999 t).

    Swap parameters (the EMA, say) with `model.replace(variables=...)`.
    """

    variables: PyTree
    sde: SDE
    apply: Network = struct.field(pytree_node=False)
    parameterization: Parameterization
    condition: Condition | None = struct.field(pytree_node=False, default=None)

    def __call__(self, x: Array, t: Array, *, label: Array | None = None, key: Key | None = None) -> Array:
        """Returns the score at x `(B, *S)` and t `()` or `(B,)`.

        Args:
          x: noised data `(B, *S)`.
          t: time `()` or `(B,)`.
          label: class labels `(B,)` of a class-conditional network, −1 for none; or the context of a `Contextual` one;
            or `networks.Told`, with the augmentation, in training.
          key: `()` or `(B,)`: turns on training behaviour (dropout), drawn per example.
        """
        return self.parameterization.to_score(self.sde, x, t, network_output(self, x, t, label, key))

    @property
    def evaluations(self) -> int:
        """How many evaluations of a network a score takes: one; guided models take more."""
        return 1

    def conditioned(self, *, label: Array | None = None, key: Key | None = None) -> "Conditioned":
        """Returns the score function `(x, t)` of these labels and dropout keys: see `__call__`."""
        return Conditioned(self, label, key)

    def with_variance(
        self, x: Array, t: Array, s: Array, *, label: Array | None = None, key: Key | None = None
    ) -> tuple[Array, Array]:
        """Returns the score and the variance `(B, *S)` of the step from t to s, of a network that learned both.

        Raises:
          InputError: unless the parameterization is `learned`.
        """
        F = network_output(self, x, t, label, key)
        score = self.parameterization.to_score(self.sde, x, t, F)
        return score, self.parameterization.variance(self.sde, t, s, F)

    def uncertainty(self, t: Array) -> Array:
        """Returns the log variance u of the network's errors at t, `(B,)`: for `losses.uncertainty_weighted`.

        Raises:
          InputError: unless `apply` is `adapters.uncertain`.
        """
        if not hasattr(self.apply, "uncertainty"):
            raise InputError("the network learned no uncertainty: make the score model of adapters.uncertain(network)")
        return self.apply.uncertainty(self.variables, -0.5 * self.sde.log_snr(t))

    def variance(self, x: Array, t: Array, s: Array, *, label: Array | None = None) -> Array:
        """Returns the learned variance of the step from t to s, `(B, *S)`: for `sampling.ancestral(variance=...)`.

        Where the score is computed from the same x beside it, as there, XLA evaluates the network once.
        """
        return self.with_variance(x, t, s, label=label)[1]


class OfNetwork(Protocol):
    """What is made of a network that sees noised data: a `ScoreModel`, or a classifier."""

    variables: PyTree
    sde: SDE
    apply: Network
    parameterization: Parameterization
    condition: Condition | None


def network_output(model: OfNetwork, x: Array, t: Array, label: Array | None = None, key: Key | None = None) -> Array:
    """Returns F = apply(variables, c_in x, cond, label, key), the network's own output at x `(B, *S)` and t."""
    c_in, c_noise = model.parameterization.inputs(model.sde, t)
    cond = c_noise if model.condition is None else model.condition(model.sde, t)
    keys = None if key is None else arrays.example_keys(key, len(x))
    return model.apply(model.variables, arrays.expand_right(c_in, x) * x, arrays.per_example(cond, x), label, keys)


@pytrees.dataclass
class Conditioned:
    """A score model whose labels and dropout keys are chosen: what losses and samplers call, `(x, t) -> score`."""

    model: ScoreModel
    label: Array | None
    key: Key | None

    def __call__(self, x: Array, t: Array) -> Array:
        """Returns the score at x `(B, *S)` and t."""
        return self.model(x, t, label=self.label, key=self.key)

    def with_variance(self, x: Array, t: Array, s: Array) -> tuple[Array, Array]:
        """Returns the score and the learned variance of the step from t to s: for `losses.hybrid_loss`."""
        return self.model.with_variance(x, t, s, label=self.label, key=self.key)

    def variance(self, x: Array, t: Array, s: Array) -> Array:
        """Returns the learned variance of the step from t to s: for `sampling.ancestral(variance=...)`."""
        return self.with_variance(x, t, s)[1]

    def uncertainty(self, t: Array) -> Array:
        """Returns the log variance of the network's errors at t: for `losses.uncertainty_weighted`."""
        return self.model.uncertainty(t)


@pytrees.dataclass
class ScoreWithVariance:
    """A score function and a learned variance of its steps, `(x, t, s)`: a thresholded score's, or `Conditioned`'s."""

    score_fn: ScoreFn = struct.field(pytree_node=False)
    variance: Callable[[Array, Array, Array], Array] = struct.field(pytree_node=False)

    def __call__(self, x: Array, t: Array) -> Array:
        """Returns the score at x `(B, *S)` and t."""
        return self.score_fn(x, t)


def energy_score(energy_fn: Callable[..., Array]) -> Callable[..., Array]:
    """Returns the score −∇_x E of an energy `energy_fn(x[, t]) -> (B,)`, p ∝ e^{−E}: a score function `(x[, t])`.

    Objectives with second derivatives need a smooth energy: with ReLU networks ∇²E is zero almost everywhere.
    """

    def score_fn(x: Array, *t: Array) -> Array:
        return -jax.grad(lambda x: jnp.sum(energy_fn(x, *t)))(x)

    return score_fn
