"""Second round: how the network of the first is trained. See README.md beside it."""

from experiments.studies.fast_config import shapes

get_config = shapes.get_config

CHANGES = [
    {"optimizer.learning_rate": 4e-3},
    {"training.batch_size": 32, "training.steps": 3200},
    {"optimizer.name": "muon", "optimizer.learning_rate": 5e-3},
    {"times.lognormal.mean": -0.7},
    {"training.ema_decay": 0.995},
    {"network.unet.attention": ()},
]


def get_sweep():
    best = {**shapes.shape(2, 48, (1, 2), 1), "training.steps": 1652}
    return [{**best, **change} for change in CHANGES]
