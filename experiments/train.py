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


def main() -> int:
    run = runs.new(_CONFIG.value, _WORKDIR.value)
    print(runs.plan(run))
    result = runs.train(run)
    if result.stopped_by:
        print(f"stopped by {result.stopped_by.name} at step {result.step}; the same command goes on from there")
        return 128 + result.stopped_by  # as a shell reports a signal
    run = run.with_state(result.state)
    written = runs.draw_pictures(run) + runs.draw_figures(run)
    print(f"{result.step} steps done; {run.workdir} holds metrics.jsonl, checkpoints/ and")
    print(*(f"  {path}" for path in written), sep="\n")
    return 0


if __name__ == "__main__":
    command.run(main)
