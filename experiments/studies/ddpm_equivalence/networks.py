"""(e) One backbone, trained as SMLD and as DDPM from the same seed, and sampled as either.

Both networks predict the noise and see x/√(α² + σ²) and log(σ/α), functions of the noise ratio σ/α alone: a network
trained on one process is the score of the other as it stands, x_VP = α·x_VE. What training as SMLD or as DDPM decides
is how often each noise ratio is met: uniformly from 1,000 levels, a geometric ladder's or those of DDPM's table.
"""

import math
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from configs import digits, fashion_mnist
from experiments.studies import study
from experiments.studies.ddpm_equivalence.figures import image_panels
from score_jax.lab import build, evaluation, samples
from score_jax.lab import run as runs
from score_jax.lab.experiment import Run
from score_jax.lab.measures.likelihood import likelihood_of_run

SIGMA_MIN = 0.02  # of the noise ratio, at data in [-1, 1]: the likelihood's t_min on either process
RANGES = ("common range", "own range")  # of noise ratios, for the likelihood
KINDS = ("SMLD", "DDPM")


class Size(NamedTuple):
    """What `--full` changes: the data set's config, training steps, samples measured, images for the likelihood."""

    base: ConfigDict
    steps: int
    samples: int
    likelihood: int


def size(full: bool) -> Size:
    """Digits, or Fashion-MNIST with `full`."""
    return Size(fashion_mnist.get_config(), 1000, 100, 64) if full else Size(digits.get_config(), 750, 200, 128)


def config(kind: str, size: Size, seed: int) -> ConfigDict:
    """The run's config: SMLD with annealed Langevin dynamics or DDPM with ancestral steps, 160 network calls each."""
    config = size.base.copy_and_resolve_references()
    config.seed = seed
    config.data.value_range, config.data.flip = (-1.0, 1.0), False
    config.parameterization.name = "eps"
    config.training.steps = config.training.checkpoint_every = size.steps
    config.evaluation.n = size.samples
    # The likelihood is found by `bits`, on two ranges.
    config.evaluation.measures = tuple(name for name in config.evaluation.measures if name != "likelihood")
    config.evaluation.likelihood_n, config.evaluation.likelihood_tolerance = size.likelihood, 1e-4
    config.sde.name = {"SMLD": "ve", "DDPM": "tabulated"}[kind]
    config.sde.ve.sigma_min, config.sde.ve.sigma_max = SIGMA_MIN, 2 * size.base.sde.ve.sigma_max
    config.times.name = {"SMLD": "discrete", "DDPM": "knots"}[kind]
    config.times.discrete.n = 1000
    config.sampler.name = {"SMLD": "annealed_langevin", "DDPM": "ancestral"}[kind]
    config.sampler.grid, config.sampler.steps = {"SMLD": ("levels", 40), "DDPM": ("uniform", 160)}[kind]
    config.sampler.annealed_langevin = {"step_size": 0.4 * SIGMA_MIN**2, "n_steps": 4}
    return config


def trained(kind: str, size: Size, seed: int, folder: Path) -> Run:
    """Trains the network, as `experiments/train.py` does."""
    return runs.train(build.experiment(config(kind, size, seed)), folder)


def drawn_as(run: Run, kind: str, size: Size, folder: Path) -> Run:
    """The same parameters under the process and sampler of `kind`."""
    return runs.of_state(build.experiment(config(kind, size, run.experiment.seed)), run.state, folder)


def bits(run: Run, size: Size) -> dict[str, tuple[float, float]]:
    """Bits per dimension of held-out images by the probability flow, and the standard error, by `RANGES`.

    The common range ends at SMLD's largest noise ratio, the process's own at its t_max.
    """
    sde, ratios = run.model.sde, (SIGMA_MIN, 2 * size.base.sde.ve.sigma_max)
    low, high = float(sde.t_min), float(sde.t_max)
    t_min, common = (min(max(float(sde.time(-2 * math.log(ratio))), low), high) for ratio in ratios)
    found = {}
    for name, t_max in zip(RANGES, (common, high), strict=True):
        numbers = likelihood_of_run(run, run.experiment.seed, t_min=t_min, t_max=t_max)
        found[name] = numbers["bits_per_dim"], numbers["bits_per_dim_standard_error"]
    return found


def row(trained_as: str, sampled_as: str, numbers: dict, bpd: dict) -> study.Row:
    """A row of the table, from `evaluate`'s numbers."""
    found = {
        "trained as": trained_as,
        "sampled as": sampled_as,
        "network calls": 160,
        **{f"bits/dim, {name}": f"{mean:.3f} ± {error:.3f}" for name, (mean, error) in bpd.items()},
        "classifier's confidence": numbers["confidence"],
        "… on data": numbers["held_out_confidence"],
        "class imbalance": numbers["class_total_variation"],
        "distance to training set, over data's": numbers["nearest_neighbour_ratio"],
    }
    if "conditional_accuracy" in numbers:
        found["accuracy given the label"] = numbers["conditional_accuracy"]
    return found


def measure(seed: int, full: bool = False, chosen: Size | None = None) -> study.Result:
    """Trains both, samples each as both, and measures."""
    setting, rows, pictures, clock = chosen or size(full), [], {}, []
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            start = time.process_time()
            run = trained(kind, setting, seed, Path(folder) / kind)
            clock.append(time.process_time() - start)
            for other in KINDS:
                swapped = drawn_as(run, other, setting, Path(folder) / f"{kind} as {other}")
                bpd = bits(swapped, setting)
                rows.append(row(kind, other, evaluation.evaluate(swapped), bpd))
                n = 20
                labels = samples.classes_in_turn(swapped.examples, n)
                drawn = samples.draw_samples(swapped, n=n, labels=labels)
                pictures[f"trained as {kind}\nsampled as {other}"] = drawn.x
    data = setting.base.data.name
    conditions = (
        f"{data}, compact U-Net, {setting.steps:,} steps of batch {setting.base.training.batch_size}, seed {seed}; "
        f"{setting.samples} samples a row; bits/dim of {setting.likelihood} held-out images and their standard "
        "error over images, Hutchinson's estimate. "
        f"Training took {clock[0] / 60:.1f} and {clock[1] / 60:.1f} CPU core-minutes."
    )
    return study.Result(rows, {f"networks_{data}.png": image_panels(pictures, columns=5)}, conditions)
