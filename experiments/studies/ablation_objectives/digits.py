"""The objectives on digits, at equal compute, one seed: see README.md beside it.

In 64 dimensions the exact trace would take 64 derivatives a step: implicit score matching takes Hutchinson's estimate,
which is sliced score matching under another name.
"""

from configs import digits

STEPS = 1000  # of an objective of one pass


def get_config():
    config = digits.get_config()
    config.training.update(log_every=50, checkpoint_every=STEPS)
    config.sampler.update(name="heun", grid="karras", steps=18)
    config.evaluation.n = 1000
    config.evaluation.features.name = "grey"
    return config


def get_sweep():
    one, two = {"training.steps": STEPS}, {"training.steps": STEPS // 2}
    return [
        {"objective.name": "esm", **one},
        {"objective.name": "dsm", **one},
        {"objective.name": "dsm", "objective.dsm.control_scale": 0.05, **two},
        {"objective.name": "ism", "objective.ism.exact": False, **two},
        {"objective.name": "ssm", "objective.ssm.variance_reduced": False, **two},
        {"objective.name": "ssm", **two},
        {"objective.name": "fd_ssm", **two},
    ]
