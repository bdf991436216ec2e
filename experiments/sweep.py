from score_jax.lab import sweep
from score_jax.lab.command import run

__doc__ = sweep.__doc__  # what --help shows

if __name__ == "__main__":
    run(sweep.main, sweep.define)
