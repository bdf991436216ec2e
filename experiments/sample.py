from score_jax.lab import sample
from score_jax.lab.command import run

__doc__ = sample.__doc__  # what --help shows

if __name__ == "__main__":
    run(sample.main, sample.define, several=True)
