"""Peak memory of training and of sampling; sampling needs no more for more steps.

    python benchmarks/memory.py

Each figure is the peak resident memory of a fresh process on the host, compilation included. The first row is a process
that imports the package and builds the model, which is most of every figure. Sampling draws 64 digits with DDIM.
"""

import contextlib
import io
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np
from own_training import shorten
from timing import Row, child, main

from configs import digits
from score_jax import runs


def peak_mib() -> float:
    """Returns the peak resident memory of this process.

    On Linux getrusage gives a process at least the size its parent had when starting it; the kernel's VmHWM doesn't.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def train(run: runs.Run) -> None:
    """Trains through the project's loop."""
    with contextlib.redirect_stderr(io.StringIO()):
        runs.train(run)


def sample(run: runs.Run, steps: int) -> np.ndarray:
    """Draws 64 samples as the commands do, with the paths that they keep for pictures."""
    config = run.config.copy_and_resolve_references()
    config.sampler.update(name="ddim", grid="log_snr", steps=steps, batch_size=64)
    with contextlib.redirect_stderr(io.StringIO()):
        return runs.draw(config, run.model, run.data.train.shape, n=64, seed=0).x


def peak(what: str, steps: str) -> Row:
    """Runs in a fresh process: does `what` for that many steps and reports the peak."""
    config, n = digits.get_config(), int(steps)
    shorten(config, max(n, 1), max(n, 1))
    with tempfile.TemporaryDirectory() as folder:
        run = runs.new(config, Path(folder) / "run")
        if what == "training":
            train(run)
        elif what == "sampling":
            assert np.isfinite(sample(run, n)).all()
        return {"peak": peak_mib()}


def measure(quick: bool) -> Row:
    """Measures the model alone, training, and sampling with few and many steps."""
    long = 100 if quick else 1000
    cases = [("building the model", 0), ("training", 2 if quick else 10), ("sampling", 50), ("sampling", long)]
    peaks = [(what, n, child(__file__, what, str(n))["peak"]) for what, n in cases]
    return {"rows": [{"digits U-Net": what, "steps": n, "peak memory, MiB": peak} for what, n, peak in peaks]}


if __name__ == "__main__":
    main(measure, __doc__, peak)
