"""Trains a score network and shows what it learned.

    python experiments/train.py --config=configs/digits.py --workdir=runs/digits

Writes into the run folder: config.json, environment.json, metrics.jsonl, checkpoints/, samples/ and figures/. Started
again with the same folder and config it goes on from the last checkpoint. Any setting of score_jax/lab/settings.py can
be overridden, --config.training.batch_size=64, and configs have variants, --config=configs/digits.py:ssm. Without
--config all settings have their defaults. --config.training.sample_every=100 draws samples while it trains,
--config.training.evaluate_every=100 finds the loss of held-out examples.
"""

import os

from absl import flags

from score_jax.lab import build, command, run


def define() -> None:
    """Defines the flags."""
    command.define_config()
    flags.DEFINE_string(
        "workdir", None, "folder of the run: new, empty, or that of the run to go on with", required=True
    )


def main() -> None:
    """Trains the experiment that the flags describe."""
    workdir = flags.FLAGS.workdir
    experiment = build.experiment(flags.FLAGS.config, before=run.before(workdir))
    how = experiment.training
    print(experiment.summary[0])
    print(f"{how.steps} steps of batch {how.batch_size}, {how.every.dispatch} a dispatch, into {workdir}")
    print(*experiment.summary[1:], sep="\n")
    if "XLA_FLAGS" in os.environ:
        print(f"XLA_FLAGS={os.environ['XLA_FLAGS']}")
    trained = run.train(experiment, workdir)
    print(f"{int(trained.state.step)} steps done; {workdir} holds metrics.jsonl, checkpoints/ and")
    from score_jax.lab import show  # deferred: matplotlib is a sixth of the start

    print(*(f"  {path}" for path in show.show_run(trained)), sep="\n")


if __name__ == "__main__":
    command.run(main, define, several=True)
