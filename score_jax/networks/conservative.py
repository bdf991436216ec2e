"""A network whose output is the gradient of a scalar: a score that is the gradient of a log density, exactly.

A backbone f(x) of the shape of x defines the potential and its gradient

    φ(x) = ½ ⟨x, f(x)⟩,      F(x) = ∇φ(x) = ½ (f(x) + (∂f/∂x)ᵀ x),

so the Jacobian of F is symmetric whatever f is. With the noise parameterization, score = −F/σ = −∇E and E = φ/σ.

Why this φ. Every smooth potential with φ(0) = 0 has the form ⟨x, f⟩, so nothing is lost but a constant. If f is already
a linear gradient field, F = f: the factor ½ makes the wrapped network as large as the bare one where noise dominates
and the target is linear in x. The gradient in the backbone's parameters does not vanish at f = 0, where backbones
start; with ‖f‖² (Salimans & Ho 2021; Du et al. 2023), it does, and training would not leave that point.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from score_jax.arrays import sum_dims
from score_jax.types import Array


class Conservative(nn.Module):
    """Wraps a backbone `(x, cond, label) -> (B, *S)` so that the output is the gradient in x of `potential`.

    One call costs a forward and a backward pass of the backbone, whose activations must be smooth: training
    differentiates once more.
    """

    backbone: nn.Module

    def __call__(self, x: Array, cond: Array, label: Array | None = None, *, train: bool = False) -> Array:
        """Returns ∇_x φ, `(B, *S)`."""
        if self.is_initializing():
            self.potential(x, cond, label)
        # Flax's lifted vjp refuses a module with modules for fields; a pure function of x needs no lifting.
        module, variables = self.unbind()
        rngs = {"dropout": self.make_rng("dropout")} if train and self.has_rng("dropout") else None

        def total(x: Array) -> Array:
            phi = module.apply(variables, x, cond, label, train=train, rngs=rngs, method="potential")
            return jnp.asarray(phi).sum()

        return jax.grad(total)(x)

    def potential(self, x: Array, cond: Array, label: Array | None = None, *, train: bool = False) -> Array:
        """Returns φ, `(B,)`: `module.apply(variables, x, cond, method="potential")`."""
        return 0.5 * sum_dims(x * self.backbone(x, cond, label, train=train))
