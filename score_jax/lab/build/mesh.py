"""The devices as a mesh, and what is cut over them."""

import jax
from ml_collections import ConfigDict

from score_jax import training
from score_jax.lab.experiment import Training
from score_jax.score import ScoreModel
from score_jax.training import Placement, sharding


def placement(config: ConfigDict) -> Placement:
    """Returns the mesh of all devices, and how a state lies on it.

    Raises:
      InputError: of sizes that don't make up the devices, and of a rule that is none.
    """
    options = config.mesh
    return training.make_placement(options.data, options.fsdp, min_size=options.min_size, rules=options.rules)


def check_rules(chosen: Placement, model: ScoreModel, how: Training) -> None:
    """Raises InputError of a rule that fits no array of the state, or cuts one into parts that are not equal."""
    state = jax.eval_shape(lambda v: training.create(jax.random.key(0), v, how.optimizer), model.variables)
    sharding.require_used(state, chosen)
