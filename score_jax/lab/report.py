"""Makes report.html of a run, or of a sweep, of what its folder holds; runs nothing.

    python experiments/report.py --workdir=runs/digits

One file that opens without a network: curves, samples, measures with their errors, score error by noise level, cost,
and the settings that are not the default. Nothing that the folder names is imported.
"""

from pathlib import Path

from absl import flags

from score_jax.lab import command, reports
from score_jax.lab.sweeps import folder, outcomes


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_string("workdir", None, "folder of the run, or of the sweep", required=True)


def main() -> None:
    """Makes the report of the folder that the flags name."""
    workdir = Path(flags.FLAGS.workdir)
    is_sweep = folder.is_sweep(workdir)
    path = reports.write_sweep(workdir, outcomes.read_outcomes(workdir)) if is_sweep else reports.write_run(workdir)
    print(f"  {path}")


if __name__ == "__main__":
    command.run(main, define)
