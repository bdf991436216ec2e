from score_jax.lab import report
from score_jax.lab.command import run

__doc__ = report.__doc__  # what --help shows

if __name__ == "__main__":
    run(report.main, report.define)
