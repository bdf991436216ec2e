"""What training carries from step to step.

`TrainState` holds arrays only, so it can be donated, sharded, checkpointed and mapped over.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from score_jax import pytrees
from score_jax.types import Array, Key, PyTree


@pytrees.dataclass
class TrainState:
    """Everything a run needs to go on, except the position in the data.

    Attributes:
      step: int32 `()`, the number of steps made: updates, and steps that were skipped.
      params: the trained parameters.
      fixed: the module's other collections, by name; never updated.
      opt_state: of the optax chain.
      ema: moving average of `params`.
      key: the typed key of the run, never changed: a step folds the global indices of its examples into it.
      undone: int32 `()`, the number of steps that were made and undone by going back to a checkpoint. Their batches
        don't come again, so the examples of step n are those of batch n + `undone` of the run.
      failures: int32 `()`, how many steps in a row, up to the last, had a loss or gradient that is not finite. Once
        they are more than are skipped, the state is, and stays, that before the last of them.
    """

    step: Array
    params: PyTree
    fixed: PyTree
    opt_state: Any
    ema: PyTree
    key: Key
    undone: Array
    failures: Array

    def variables(self, *, ema: bool) -> dict[str, PyTree]:
        """Returns the variables of the module with the averaged or with the current parameters."""
        return {**self.fixed, "params": self.ema if ema else self.params}


def create(key: Key, variables: PyTree, transformation: optax.GradientTransformation) -> TrainState:
    """Returns the state before the first step.

    Args:
      key: the typed key `()` of the run.
      variables: `{"params": ...}` and possibly other collections, which stay fixed.
      transformation: the optimizer.
    """
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        fixed={name: values for name, values in variables.items() if name != "params"},
        opt_state=transformation.init(params),
        ema=jax.tree.map(jnp.copy, params),  # its own buffers: a buffer cannot be donated twice
        key=key,
        undone=jnp.zeros((), jnp.int32),
        failures=jnp.zeros((), jnp.int32),
    )
