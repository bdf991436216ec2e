from score_jax.lab import plan
from score_jax.lab.command import run

__doc__ = plan.__doc__  # what --help shows

if __name__ == "__main__":
    run(plan.main, plan.define)
