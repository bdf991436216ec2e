"""Second round: how the network of the first is trained. See README.md beside it."""

from experiments.studies.fast_config import shapes

CHANGES = [
    {"optimizer.name": "muon", "optimizer.learning_rate": 5e-3},
    {"training.batch_size": 32, "training.steps": 3400},
    {"optimizer.learning_rate": 4e-3},
    {"times.lognormal.mean": -0.7},
]


def get_config():
    config = shapes.get_config()
    config.sampler.threshold = "static"
    return config


def get_sweep():
    best = {**shapes.shape(2, 48, (1, 2, 2), 1), "training.steps": 1734}
    return [{**best, **change} for change in CHANGES]
