"""Trains a score network and shows what it learned.

    python experiments/train.py --config=configs/digits.py --workdir=runs/digits

Writes into the run folder: config.json, environment.json, metrics.jsonl, checkpoints/, samples/ and figures/. Started
again with the same folder and config it goes on from the last checkpoint. Any setting of configs/base.py can be
overridden, --config.training.batch_size=64, and configs have variants, --config=configs/digits.py:ssm.
"""

from absl import flags

from score_jax import command, runs

_CONFIG = command.define_config("configs/digits.py")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "folder of the run: new, empty, or that of the run to go on with", required=True
)


def main() -> None:
    run = runs.new(_CONFIG.value, _WORKDIR.value)
    print(runs.plan(run))
    result = runs.train(run)
    run = run.with_state(result.state)
    written = runs.draw_pictures(run) + runs.draw_figures(run)
    print(f"{result.step} steps done; {run.workdir} holds metrics.jsonl, checkpoints/ and")
    print(*(f"  {path}" for path in written), sep="\n")


if __name__ == "__main__":
    command.run(main)
