from score_jax.lab import evaluate
from score_jax.lab.command import run

__doc__ = evaluate.__doc__  # what --help shows

if __name__ == "__main__":
    run(evaluate.main, evaluate.define, several=True)
