"""How far a plan (`experiments/plan.py`) is from what happens: memory, operations and step time on this processor.

    python benchmarks/plan_error.py

Each config in a fresh process, on one device. Memory: state, batches and temporaries as planned, beside the growth of
the process's resident memory at its peak while the state is placed and two steps are made (Linux; compiled before, and
what compiling left is given back first). FLOPs: of products as a plan counts them, over XLA's count of the program, in
which everything else counts too. Time: the utilisation of this processor's measured peak, that of a product of two
matrices of 1024 × 1024, which steps of half the batch reach; what a plan says of the whole batch at that utilisation;
and what is measured. An error is (planned − measured)/measured.
"""

import ctypes
import gc
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import jax
import numpy as np
from memory import peak_mib
from ml_collections import ConfigDict
from own_training import shorten
from timing import Row, child, main, seconds

from configs import digits, fashion_mnist, toy
from score_jax import data as datasets
from score_jax import training
from score_jax.lab import build, run
from score_jax.lab.experiment import Experiment
from score_jax.lab.planning import accelerators, compiled


class Case(NamedTuple):
    """A config with a batch size, and examples in place of files that may not be there."""

    config: ConfigDict
    batch_size: int
    shape: tuple[int, ...] | None = None


CASES = {
    "toy MLP": Case(toy.get_config(), 4096),
    "digits U-Net": Case(digits.get_config(), 64),
    "Fashion-MNIST U-Net": Case(fashion_mnist.get_config(), 16, (28, 28, 1)),
}
_ALONE = {"JAX_ENABLE_COMPILATION_CACHE": "false", "XLA_FLAGS": ""}


def experiment_of(case: Case) -> Experiment:
    """The case's, with one step a dispatch."""
    config = case.config
    config.training.batch_size, config.training.steps_per_dispatch = case.batch_size, 1
    shorten(config, 100, 10)
    if case.shape is None:
        return build.experiment(config)
    pixels = np.random.default_rng(0).integers(0, 256, (1024, *case.shape), np.uint8)
    return build.experiment(config, data=datasets.ArraySource(pixels))


class Steps:
    """The compiled step of so many examples, with what it is called with."""

    def __init__(self, experiment: Experiment, batch_size: int) -> None:
        self.mesh, self.state = experiment.placement.mesh, None
        self.batches, self.first = compiled.batches_of(experiment, batch_size), run.first_state(experiment)
        described = compiled.state_of(experiment)
        lying = jax.tree.map(lambda x: x.sharding, described)
        self.place = jax.jit(lambda state: state, out_shardings=lying).lower(self.first).compile()
        step: Any = run.train_step(experiment)
        lowered = step.lower(described, self.batches)
        self.xla_flops, self.program = lowered.cost_analysis()["flops"], lowered.compile()

    def step(self) -> Any:
        """Makes one, with batches that are put there as the loop puts them."""
        self.state = self.state or self.place(self.first)
        rows = {name: np.ones(x.shape, x.dtype) for name, x in self.batches.items()}
        self.state, report = self.program(self.state, training.put_batches(rows, self.mesh))
        return report


def growth(steps: Steps) -> float:
    """MiB by which this process grows at its peak while it makes two steps."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what there is now
    before = peak_mib()
    for _ in range(2):
        jax.block_until_ready(steps.step())
    return peak_mib() - before


def of_steps(steps: Steps, n: int) -> float:
    """Seconds of a step, the median of n after one."""
    seconds(steps.step)
    return median(seconds(steps.step) for _ in range(n))


def measure_child(name: str, n: str) -> Row:
    """Plans and measures one config."""
    experiment, batch_size = experiment_of(CASES[name]), CASES[name].batch_size
    needs, needs_half = (compiled.needs(experiment, size) for size in (batch_size, batch_size // 2))
    whole = Steps(experiment, batch_size)
    half = of_steps(Steps(experiment, batch_size // 2), int(n))  # which brings in what runs once
    grown, peak = growth(whole), accelerators.gemm_peak()
    return {
        "planned": needs.memory.needed / 2**20,
        "grown": grown,
        "flops": needs.flops,
        "xla_flops": whole.xla_flops,
        "utilisation": needs_half.flops / half / peak,
        "peak": peak,
        "planned_seconds": needs.flops * half / needs_half.flops,
        "seconds": of_steps(whole, int(n)),
    }


def measure_row(name: str, n: int) -> Row:
    """One row of the table."""
    found = child(__file__, name, str(n), **_ALONE)
    error = lambda planned, measured: f"{100 * (planned / measured - 1):+.0f} %"
    return {
        "config": name,
        "batch": CASES[name].batch_size,
        "memory, MiB: planned": found["planned"],
        "measured": found["grown"],
        "error": error(found["planned"], found["grown"]),
        "GFLOP a step": found["flops"] / 1e9,
        "of XLA's count": found["flops"] / found["xla_flops"],
        "peak here, GFLOP/s": found["peak"] / 1e9,
        "utilisation": found["utilisation"],
        "a step, ms: planned": found["planned_seconds"] * 1e3,
        "measured ": found["seconds"] * 1e3,
        "error ": error(found["planned_seconds"], found["seconds"]),
    }


def measure(quick: bool) -> Row:
    """Measures all configs, or the smaller two."""
    names, n = ([*CASES][:2], 3) if quick else ([*CASES], 30)
    return {"rows": [measure_row(name, n) for name in names]}


if __name__ == "__main__":
    main(measure, __doc__, measure_child)
