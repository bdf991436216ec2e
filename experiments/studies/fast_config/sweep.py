"""Which network, then which recipe, in 2.5 minutes of training each, then which levels in 6: see README.md."""

from typing import Any

from configs import fashion_mnist

MINUTES = 2.5
# Images a second in training by Adam, float32, batches of 64, on 2 idle cores: what a number of steps is made of
SHAPES = {  # (patch, channels, multipliers): images/s
    (1, 32, (1, 2, 2)): 356,
    (1, 24, (1, 2, 4)): 390,
    (2, 48, (1, 2)): 705,
    (2, 64, (1, 2)): 446,
    (2, 48, (1, 2, 2)): 740,
    (2, 64, (1, 2, 2)): 470,
}
ADAM = {"optimizer.name": "adam", "optimizer.learning_rate": 2e-3}
MUON = {"optimizer.name": "muon", "optimizer.learning_rate": 5e-3}
LEVELS = [  # on which the loss looks, and how
    {},
    {"optimizer.learning_rate": 1e-2},
    {"weighting.learned": True},
    {"times.lognormal.mean": -0.6},
    {"weighting.learned": True, "times.lognormal.mean": -0.6},
    {"weighting.learned": True, "times.lognormal.mean": 0.0},
]


def shape(patch: int, channels: int, multipliers: tuple[int, ...]) -> dict[str, Any]:
    """Returns the settings of a network's shape, and its number of steps."""
    values = {"patch": patch, "channels": channels, "multipliers": multipliers}
    steps = round(SHAPES[patch, channels, multipliers] * 60 * MINUTES / 64)
    return {**{f"network.unet.{name}": value for name, value in values.items()}, "training.steps": steps}


def get_config():
    config = fashion_mnist.get_config("fast")
    config.evaluation.update(n=2048, measures=("frechet", "outside_range"))
    config.evaluation.features.name = "grey"
    config.sampler.update(name="heun", steps=24, batch_size=128)  # 49 network calls
    config.weighting.learned, config.times.lognormal.mean = False, -1.2  # EDM's
    return config


def get_sweep():
    best, clipped = shape(2, 48, (1, 2, 2)), {"sampler.threshold": "static"}
    shapes = [{**shape(*of), **ADAM, "sampler.threshold": "none"} for of in SHAPES]
    halves = {"training.batch_size": 32, "training.steps": 3400}
    drawn = {"sampler.name": "dpm_solver_pp", "sampler.dpm_solver_pp.eta": 1.0, "sampler.steps": 49}
    last = {**shape(2, 64, (1, 2, 2)), **MUON, **clipped, **drawn, "training.steps": 2000, "evaluation.n": 1024}
    levels = [{**last, **values} for values in LEVELS]
    return [*shapes, {**best, **ADAM, **halves, **clipped}, {**best, **MUON, **clipped}, *levels]
