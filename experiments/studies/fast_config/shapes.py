"""First round: which network gets the most out of equal time. See README.md beside it."""

from configs import fashion_mnist

MINUTES = 2.5
# Images a second in training, float32, batches of 64, on 2 idle cores: what a shape's number of steps is made of
SHAPES = {  # (patch, channels, multipliers, blocks): images/s
    (1, 32, (1, 2, 2), 1): 356,
    (1, 24, (1, 2, 4), 1): 390,
    (2, 48, (1, 2), 1): 705,
    (2, 64, (1, 2), 1): 446,
    (2, 48, (1, 2, 2), 1): 740,
    (2, 64, (1, 2, 2), 1): 470,
    (2, 48, (1, 2, 2), 2): 430,
    (2, 96, (1, 2), 1): 250,
}


def shape(patch: int, channels: int, multipliers: tuple[int, ...], blocks: int) -> dict:
    """Returns the settings of a network's shape."""
    values = {"patch": patch, "channels": channels, "multipliers": multipliers, "blocks": blocks}
    return {f"network.unet.{name}": value for name, value in values.items()}


def get_config():
    config = fashion_mnist.get_config("fast")
    config.evaluation.update(n=2048, measures=("frechet", "outside_range"))
    config.evaluation.features.name = "grey"
    config.sampler.batch_size = 128
    return config


def get_sweep():
    steps = lambda rate: round(rate * 60 * MINUTES / 64)
    return [{**shape(*of), "training.steps": steps(rate)} for of, rate in SHAPES.items()]
