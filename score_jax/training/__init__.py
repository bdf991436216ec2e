"""Training: state and optimizer, the compiled step, the loop, checkpoints, devices, logs.

`create` a state, make a train step, and `train`; everything else is reached by module (`training.checkpoint`, …).
"""

from score_jax.training.loop import Every, Result, Seen, TrainingDiverged, train
from score_jax.training.sharding import check_batch_size, data_mesh, put_batches, replicate
from score_jax.training.state import TrainState, create, ema_decay, learning_rates, optimizer, with_clipping
from score_jax.training.step import make_eval_step, make_train_step

__all__ = [
    "Every",
    "Result",
    "Seen",
    "TrainState",
    "TrainingDiverged",
    "check_batch_size",
    "create",
    "data_mesh",
    "ema_decay",
    "learning_rates",
    "make_eval_step",
    "make_train_step",
    "optimizer",
    "put_batches",
    "replicate",
    "train",
    "with_clipping",
]
