"""A sweep small enough for tests, and its engine in this process."""

from pathlib import Path

from score_jax.lab import build, records, settings, sweeps
from score_jax.lab.sharing import Shared
from score_jax.lab.sweeps import folder, outcomes, outputs, plan, running

CELLS = [
    *sweeps.product(
        sweeps.axis("objective.name", ["dsm"]), sweeps.axis("seed", [0, 1]), sweeps.axis("sampler.steps", [2, 3])
    ),
    {"objective.name": "ssm", "seed": 0, "sampler.steps": 3},
]
FILE = """
from tests.lab.sweeping import base, CELLS

def get_config():
    return base()

def get_sweep():
    return CELLS
"""


def base():
    config = settings.get_config()
    config.data.update(name="eight_gaussians", n=200)
    config.network.name, config.network.mlp.hidden = "mlp", (8,)
    config.sde.ve.update(sigma_min=0.05, sigma_max=10.0)
    config.training.update(steps=12, batch_size=16, steps_per_dispatch=2, log_every=6, checkpoint_every=6)
    config.sampler.update(name="ddim", grid="log_snr", n=8, batch_size=32)
    config.evaluation.update(n=32, levels=3, measures=("held_out_loss", "score_error", "distances"))
    return config


class Engine:
    """What the command does, but for flags: plans and runs cells in a folder, and makes the table."""

    def __init__(self, config=None):
        self.config, self.shared, self.said = base() if config is None else config, Shared(), []

    def build(self, values, before):
        return build.experiment(settings.changed(self.config, values), before=before, shared=self.shared)

    def plan(self, out: Path, cells=CELLS, **options):
        return plan.plan(out, cells, self.build, **options)

    def run(self, out: Path, cells=CELLS):
        made = self.plan(out, cells)
        with folder.claimed(out, records.as_json(self.config.to_dict()), cells):
            running.run_groups(out, made, self.build, self.said.append)
            return self.write(out)

    def write(self, out: Path):
        read = outcomes.read_outcomes(out)
        outputs.write_outputs(out, read)
        return read


def tables(out: Path) -> dict[str, bytes]:
    """The files that are to be the same however often a sweep was killed."""
    return {name: (out / name).read_bytes() for name in ("cells.csv", "table.md", "table.tex")}


def steep(sde, t, power=2.0):
    """A weighting σ^power that asks for the value of its number, which one that is traced has not."""
    return sde.sigma(t) ** power if power > 1 else sde.sigma(t)
