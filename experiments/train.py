from score_jax.lab import train
from score_jax.lab.command import run

__doc__ = train.__doc__  # what --help shows

if __name__ == "__main__":
    run(train.main, train.define, several=True)
