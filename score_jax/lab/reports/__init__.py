"""Reports: what a run or a sweep left in its folder, on one page that opens without a network.

    write_run(workdir) -> report.html;  write_sweep(out, outcomes) -> report.html

They are made of files alone: nothing is run, and nothing that a folder names is imported.
"""

from score_jax.lab.reports.of_run import write_run
from score_jax.lab.reports.of_sweep import write_sweep

__all__ = ["write_run", "write_sweep"]
