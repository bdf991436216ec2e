from score_jax.lab import condition
from score_jax.lab.command import run

__doc__ = condition.__doc__  # what --help shows

if __name__ == "__main__":
    run(condition.main, condition.define, several=True)
