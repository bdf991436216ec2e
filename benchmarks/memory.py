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
from score_jax.lab import build, run, samples
from score_jax.lab.experiment import Run


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


def sample(untrained: Run) -> np.ndarray:
    """Draws 64 samples as the commands do, with the paths that they keep for pictures."""
    with contextlib.redirect_stderr(io.StringIO()):
        return samples.draw_samples(untrained, n=64).x


def peak(what: str, steps: str) -> Row:
    """Runs in a fresh process: does `what` for that many steps and reports the peak."""
    config, n = digits.get_config(), int(steps)
    shorten(config, max(n, 1), max(n, 1))
    if what == "sampling":
        config.sampler.update(name="ddim", grid="log_snr", steps=n, batch_size=64)
    with tempfile.TemporaryDirectory() as folder:
        experiment = build.experiment(config)
        untrained = run.of_state(experiment, run.first_state(experiment), Path(folder) / "run")
        if what == "training":
            with contextlib.redirect_stderr(io.StringIO()):
                run.train(experiment, untrained.workdir)
        elif what == "sampling":
            assert np.isfinite(sample(untrained)).all()
        return {"peak": peak_mib()}


def measure(quick: bool) -> Row:
    """Measures the model alone, training, and sampling with few and many steps."""
    long = 100 if quick else 1000
    cases = [("building the model", 0), ("training", 2 if quick else 10), ("sampling", 50), ("sampling", long)]
    peaks = [(what, n, child(__file__, what, str(n))["peak"]) for what, n in cases]
    return {"rows": [{"digits U-Net": what, "steps": n, "peak memory, MiB": peak} for what, n, peak in peaks]}


if __name__ == "__main__":
    main(measure, __doc__, peak)
