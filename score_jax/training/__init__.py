"""Training: state and optimizer, the compiled step, the loop, checkpoints, devices, logs.

`create` a state, make a train step, and `train`, or `train_together`; everything else is reached by module
(`training.checkpoint`, …).
"""

from score_jax.training.averages import ema_decay, power_decay, reconstruction, schedule_free_x
from score_jax.training.loop import Course, Every, Result, Seen, TrainingDiverged, course, train
from score_jax.training.optimizers import descent, learning_rates, muon, optimizer, schedule_free, with_clipping
from score_jax.training.sharding import Placement, check_batch_size, make_placement, own_rows, place, put_batches
from score_jax.training.state import TrainState, create
from score_jax.training.step import Recipe, by_uncertainty, make_eval_step, make_joint_step, make_train_step
from score_jax.training.together import train_together

__all__ = [
    "Course",
    "Every",
    "Placement",
    "Recipe",
    "Result",
    "Seen",
    "TrainState",
    "TrainingDiverged",
    "by_uncertainty",
    "check_batch_size",
    "course",
    "create",
    "descent",
    "ema_decay",
    "learning_rates",
    "make_eval_step",
    "make_joint_step",
    "make_placement",
    "make_train_step",
    "muon",
    "optimizer",
    "own_rows",
    "place",
    "power_decay",
    "put_batches",
    "reconstruction",
    "schedule_free",
    "schedule_free_x",
    "train",
    "train_together",
    "with_clipping",
]
