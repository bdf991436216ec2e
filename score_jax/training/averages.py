"""Moving averages of the parameters, and averages of other lengths made of them afterwards.

    ema ← d_n·ema + (1 − d_n)·θ,        n = 0, 1, …

is `optax.incremental_update`. (`optax.ema` averages updates.) `ema_decay` has one d, with a warm-up at most
(1 + n)/(10 + n) at update n, which forgets the initial values early. `power_decay` has

    d_n = (1 − 1/t)^{γ + 1},        t = n + 1,

whose average at t is ∫ p(τ) θ(τ) dτ with the profile p(τ) = (γ + 1) τ^γ/t^{γ + 1} on [0, t]: it grows with the
training, forgets the initial values, and its width is a share of t, its relative standard deviation

    σ = √((γ + 1)/(γ + 3))/(γ + 2).

Profiles span a space, and from averages of some times and widths that were kept, `reconstruction` finds the nearest one
of any other (Karras et al. 2024, section 3 and appendix C).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from optax import contrib

from score_jax.types import Array, ArrayLike, InputError, PyTree

Averaged = Callable[[PyTree, Any], PyTree]  # (params, opt_state) -> what the average is of

_WIDEST = 12**-0.5  # γ = 0: the mean of all


def the_parameters(params: PyTree, opt_state: Any) -> PyTree:
    """Returns the parameters: what averages are of."""
    del opt_state
    return params


def schedule_free_x(params: PyTree, opt_state: Any) -> PyTree:
    """Returns the x of the optimizer `schedule_free`, from its y and z: x = (y − (1 − b1) z)/b1, to draw samples with.

    Its gradients are taken at y, the parameters (Defazio et al. 2024, eq. 5 to 7). x is an average already: a decay of
    0 leaves it as it is.

    Raises:
      InputError: of another optimizer.
    """
    here = lambda state: isinstance(state, contrib.ScheduleFreeState)
    found = [state for state in jax.tree.leaves(opt_state, is_leaf=here) if here(state)]
    if len(found) != 1:
        raise InputError(f"schedule_free_x: expected the state of one schedule-free optimizer, found {len(found)}")
    return contrib.schedule_free_eval_params(found[0], params)


def ema_decay(decay: ArrayLike, *, warmup: bool = False) -> Callable[[Array], Array]:
    """Returns n -> d_n, the weight of the old average at update n (from 0).

    Args:
      decay: in [0, 1); 0 makes the average the current parameters.
      warmup: at most `(1 + n)/(10 + n)`.
    """
    if isinstance(decay, int | float) and not 0 <= decay < 1:
        raise InputError(f"the decay of the parameters' average must be in [0, 1), got {decay}")
    return lambda n: jnp.minimum(decay, (1.0 + n) / (10.0 + n)) if warmup else jnp.asarray(decay, jnp.float32)


def exponent(std: float) -> float:
    """Returns γ ≥ 0 of the power-function average of relative standard deviation σ (Karras et al. 2024, algorithm 2).

    Raises:
      InputError: of a σ that is not positive, or above 1/√12, that of the mean of all.
    """
    if not 0 < std <= _WIDEST:
        raise InputError(
            f"the relative width of an average is in (0, {_WIDEST:.4f}], at most that of the mean of all, got {std:g}"
        )
    # (γ + 1) = σ² (γ + 2)² (γ + 3)
    roots = np.roots([1.0, 7.0, 16.0 - std**-2, 12.0 - std**-2])
    return max(float(roots.real.max()), 0.0)


def power_decay(std: float) -> Callable[[Array], Array]:
    """Returns n -> d_n = (1 − 1/(n + 1))^{γ + 1} (Karras et al. 2024, section 3.1), 0 at n = 0.

    Args:
      std: relative standard deviation σ of the average, up to 1/√12; 0.05 and 0.1 as published.

    Raises:
      InputError: of another.
    """
    power = exponent(std) + 1

    def decay(n: Array) -> Array:
        # log1p: near 1 a power of 1 − 1/t loses what it differs by.
        return jnp.where(n > 0, jnp.exp(power * jnp.log1p(-1 / (n + 1.0).clip(1 + 1e-6))), 0.0).astype(jnp.float32)

    return decay


def reconstruction(times: Sequence[int], stds: Sequence[float], time: int, std: float) -> tuple[np.ndarray, float]:
    """Returns the weights of kept averages whose sum is nearest the one of width `std` at `time`, and how far it is.

    Nearest in the L2 norm of profiles; as published the weights add up to about 1, and here, where profiles are
    densities, they are made to. The distance is relative to the norm of the profile that is wanted: 0 is exact.

    Args:
      times: numbers of updates after which each average was kept.
      stds: relative standard deviation of each.
      time: the number of updates of the average that is wanted, none later than the last of `times`.
      std: its relative standard deviation.

    Raises:
      InputError: of a width that does not exist, or a time after the last.
    """
    if len(times) != len(stds) or not len(times) or min(times) < 1:
        raise InputError(f"reconstruction: expected times of 1 or more and as many widths, got {times} and {stds}")
    if not 1 <= time <= max(times):
        raise InputError(f"reconstruction: averages were kept up to {max(times)} updates; none can be made of {time}")
    at, gamma = np.asarray(times, np.float64), np.array([exponent(one) for one in stds])
    wanted, power = np.float64(time), exponent(std)
    gram = _product(at[:, None], gamma[:, None], at[None], gamma[None])
    along = _product(at, gamma, wanted, np.float64(power))
    norm = _product(wanted, np.float64(power), wanted, np.float64(power))
    # Lagrange: least ‖Σ w p − q‖² with Σ w = 1; scaled, since profiles of late times are low.
    system = np.block([[gram / norm, np.ones((len(at), 1))], [np.ones((1, len(at))), np.zeros((1, 1))]])
    weights = np.linalg.lstsq(system, np.append(along / norm, 1.0), rcond=None)[0][:-1]
    squared = weights @ (gram / norm) @ weights - 2 * weights @ along / norm + 1
    return weights, float(np.sqrt(max(squared, 0.0)))


def _product(t: ArrayLike, gamma: ArrayLike, s: ArrayLike, other: ArrayLike) -> np.ndarray:
    """∫ p_t(τ) q_s(τ) dτ of two profiles, in logs: powers of late times are no numbers."""
    both = gamma + other + 1
    earlier, later = np.minimum(t, s), np.maximum(t, s)
    power = np.where(t <= s, other, gamma)  # of the profile that reaches further
    return (gamma + 1) * (other + 1) / both / later * np.exp(power * (np.log(earlier) - np.log(later)))
