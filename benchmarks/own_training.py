"""Training as the benchmarks time it: through the project's own loop, of a config that is cut short."""

import contextlib
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the configs are no part of the installed package

from ml_collections import ConfigDict

from score_jax.lab import run
from score_jax.lab.experiment import Experiment
from score_jax.training.logging import read_jsonl


def shorten(config: ConfigDict, steps: int, log_every: int) -> None:
    """Makes a run of `steps` updates, with a record every `log_every` and a checkpoint at the end, of a config."""
    config.training.update(steps=steps, log_every=log_every, checkpoint_every=steps)
    config.optimizer.warmup_steps = 0  # the cosine must be longer than the warm-up


def training_rate(experiment: Experiment, workdir: Path) -> float:
    """Trains through the project's own loop; returns images/s between its first record and its last.

    Compiling falls before the first record. Records are equally long, so the rate is their harmonic mean.
    """
    with contextlib.redirect_stderr(io.StringIO()):  # the progress bar is drawn, but not shown
        run.train(experiment, workdir)
    rates = [record["examples_per_second"] for record in read_jsonl(workdir / "metrics.jsonl")[1:]]
    return len(rates) / sum(1 / rate for rate in rates)
