"""A sweep: a list of cells, each a few settings `{dotted key: value}` that differ from one base.

    sweeps.product(sweeps.axis("objective.name", ["dsm", "ssm"]), sweeps.axis("seed", range(3)))

cells ──plan──▶ trainings and evaluations ──run──▶ run folders ──outcomes──▶ table, figures, report

A training is shared by the cells that differ in sampling or evaluation only. Each cell is an ordinary evaluation in an
ordinary run folder, so what a sweep has done can be told from its folder at any moment, and it goes on from there.
"""

from score_jax.lab.sweeps.axes import axis, product, zip

__all__ = ["axis", "product", "zip"]
