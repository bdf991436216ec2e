"""Guided models: score models whose samples lean to their labels, or to good ones.

    ClassGuided(model, w)                    s(x | −1) + w (s(x | y) − s(x | −1))          classifier-free guidance
    Autoguided(model, guide, w)              s_guide(x | y) + w (s(x | y) − s_guide(x | y))
    ClassifierGuided(model, classifier, w)   s(x) + w ∇_x log p_t(y | x)

Each is drawn from as a score model is (`sampling.draw`): it has an SDE, says how many evaluations of a network a score
takes, and becomes a score function when its labels are chosen. The parameters and the scale are leaves of a pytree, so
that one compiled program serves all of them. A learned variance of steps stays that of the model by itself.
"""

from typing import TypeAlias

import numpy as np
from flax import struct

from score_jax.conditioning.classifier import NoisedClassifier
from score_jax.conditioning.guidance import Scale, class_guided, classifier_free, classifier_guidance, guidance_interval
from score_jax.score import Conditioned, ScoreModel, ScoreWithVariance
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike

Interval: TypeAlias = tuple[float, float]  # of σ/α, outside of which the scale is 1

_EVERYWHERE: Interval = (0.0, float(np.inf))


class ClassGuided(struct.PyTreeNode):
    """A class-conditional model under classifier-free guidance; without labels it is the model by itself.

    Attributes:
      model: trained with labels, and without.
      scale: w, `()`.
      interval: of noise levels.

    Examples:
      A network whose score is its label: 1, −1 of none, and −1 + 3 (1 + 1).

      >>> network = adapters.plain(lambda params, x, cond, label, key: 0 * x + label[:, None], lambda *_: {})
      >>> model = score.ScoreModel({"params": {}}, sde.EDM(), network, parameterization.Score())
      >>> guided = conditioning.ClassGuided(model, 3.0).conditioned(label=jnp.array([1]))
      >>> print(jax.jit(guided)(jnp.zeros((1, 1)), 1.0))
      [[5.]]
    """

    model: ScoreModel
    scale: ArrayLike
    interval: Interval = struct.field(pytree_node=False, default=_EVERYWHERE)

    @property
    def sde(self) -> SDE:
        """The model's noising process."""
        return self.model.sde

    @property
    def evaluations(self) -> int:
        """Evaluations of a network on an example a score: with the label, and without."""
        return 2

    def conditioned(self, *, label: Array | None = None) -> ScoreWithVariance | Conditioned:
        """Returns the score function of these labels, `(B,)`; −1 is none."""
        if label is None:
            return self.model.conditioned()
        return class_guided(self.model, label, _scale(self.sde, self.scale, self.interval))


class Autoguided(struct.PyTreeNode):
    """A model that is led away from what a weaker one would do (Karras et al. 2024).

    Attributes:
      model: with labels or without.
      guide: of the same data and noise: smaller, trained for a shorter time, or without the labels.
      scale: w, `()`.
      interval: of noise levels.
      labelled: whether the guide has the model's labels.

    Examples:
      A model whose score is 2 beside a guide of 1: 1 + 3 (2 − 1).

      >>> network = adapters.plain(lambda params, x, cond, label, key: 0 * x + params, lambda *_: {})
      >>> of = lambda value: score.ScoreModel({"params": value}, sde.EDM(), network, parameterization.Score())
      >>> guided = conditioning.Autoguided(of(2.0), of(1.0), 3.0).conditioned()
      >>> print(jax.jit(guided)(jnp.zeros((1, 1)), 1.0))
      [[4.]]
    """

    model: ScoreModel
    guide: ScoreModel
    scale: ArrayLike
    interval: Interval = struct.field(pytree_node=False, default=_EVERYWHERE)
    labelled: bool = struct.field(pytree_node=False, default=True)

    @property
    def sde(self) -> SDE:
        """The model's noising process."""
        return self.model.sde

    @property
    def evaluations(self) -> int:
        """Evaluations of a network on an example a score: of the model, and of the guide."""
        return 2

    def conditioned(self, *, label: Array | None = None) -> ScoreWithVariance:
        """Returns the score function of these labels, `(B,)`, −1 for none."""
        towards = self.model.conditioned(label=label)
        away = self.guide.conditioned(label=label if self.labelled else None)
        scale = _scale(self.sde, self.scale, self.interval)
        return ScoreWithVariance(classifier_free(towards, away, scale), towards.variance)


class ClassifierGuided(struct.PyTreeNode):
    """A model that a classifier of noised data leads to classes (Dhariwal & Nichol 2021).

    Attributes:
      model: of p(x), or of p(x | y) with the classifier's labels.
      classifier: p_t(y | x), of the same noising process.
      scale: w, `()`.
      interval: of noise levels.
      labelled: whether the model has the labels too.

    Examples:
      A model whose score is 2, and a classifier of log p(1 | x) = log sigmoid(x), whose slope at 0 is 1/2.

      >>> plain = lambda function: adapters.plain(lambda params, x, cond, label, key: function(x), lambda *_: {})
      >>> of = lambda kind, function: kind({"params": {}}, sde.EDM(), plain(function), parameterization.Score())
      >>> signs = of(conditioning.NoisedClassifier, lambda x: jnp.concatenate([0 * x, x], 1))
      >>> guided = conditioning.ClassifierGuided(of(score.ScoreModel, lambda x: 0 * x + 2), signs, 3.0)
      >>> print(jax.jit(guided.conditioned(label=jnp.array([1])))(jnp.zeros((1, 1)), 1.0))
      [[3.5]]
    """

    model: ScoreModel
    classifier: NoisedClassifier
    scale: ArrayLike
    interval: Interval = struct.field(pytree_node=False, default=_EVERYWHERE)
    labelled: bool = struct.field(pytree_node=False, default=False)

    @property
    def sde(self) -> SDE:
        """The model's noising process."""
        return self.model.sde

    @property
    def evaluations(self) -> int:
        """Evaluations of a network on an example a score: of the model, and of the classifier with its gradient."""
        return 2

    def conditioned(self, *, label: Array | None = None) -> ScoreWithVariance | Conditioned:
        """Returns the score function of these labels, `(B,)`; −1 is none, and leaves the model by itself."""
        plain = self.model.conditioned(label=label if self.labelled else None)
        if label is None:
            return plain
        scale = _scale(self.sde, self.scale, self.interval)
        guided = classifier_guidance(plain, self.classifier.conditioned(label=label), scale)
        return ScoreWithVariance(guided, plain.variance)


def _scale(sde: SDE, scale: ArrayLike, interval: Interval) -> Scale:
    low, high = interval
    return guidance_interval(sde, scale, low=low, high=high)
