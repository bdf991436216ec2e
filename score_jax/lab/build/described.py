"""What is trained on what, in a line, and what of the settings doesn't suit the data."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from score_jax.data import Source, statistics
from score_jax.lab.build.data import value_range
from score_jax.lab.experiment import Data
from score_jax.score import ScoreModel


def summary(config: ConfigDict, data: Data, model: ScoreModel) -> tuple[str, ...]:
    """Returns the lines."""
    source = data.train
    parameters = sum(leaf.size for leaf in jax.tree.leaves(model.variables["params"]))
    named = ", ".join(source.names[:12]) + (", …" if source.num_classes > 12 else "")
    conditional = f", {source.num_classes} classes ({named})" if source.num_classes else ""
    return (
        f"{config.data.name}: {len(source)} examples of shape {source.shape}{conditional}; {config.network.name} with "
        f"{parameters:,} parameters ({config.parameterization.name}); {config.objective.name} on {config.sde.name}",
        *_on_scale(config, data, model),
        *_on_pictures(config, source),
    )


def _on_pictures(config: ConfigDict, source: Source) -> list[str]:
    shown = source.shape == (2,) or len(source.shape) == 3
    if shown or not config.training.sample_every:
        return []
    return [f"warning: examples of shape {source.shape} have no picture: training.sample_every draws none"]


def _on_scale(config: ConfigDict, data: Data, model: ScoreModel) -> list[str]:
    """How large the data are, in the units of training, and warnings of settings that are made for others."""
    sde = model.sde
    found = statistics.statistics(statistics.examples(data.train, value_range(config)))
    said = [
        f"data in training: mean {found.mean:.3g}, standard deviation {found.deviation:.3g}, "
        f"from {found.low:.3g} to {found.high:.3g} ({found.n} examples)"
    ]
    largest = float(jnp.exp(-0.5 * sde.log_snr(sde.t_max)))
    if largest < found.scale:
        section = config.sde.get(config.sde.name, {})
        cure = f"set --config.sde.{config.sde.name}.sigma_max=0" if "sigma_max" in section else "divide the data"
        said.append(
            f"warning: the largest noise level, σ/α = {largest:.3g}, is below the data's scale, {found.scale:.3g}: "
            f"samples begin without knowing where the data are; {cure}"
        )
    assumed = {
        name: section.edm.sigma_data
        for name, section in (("parameterization", config.parameterization), ("weighting", config.weighting))
        if section.name == "edm"
    }
    said += [
        f"warning: {name}.edm.sigma_data is {value:g}, and the data's root mean square {found.scale:.3g}: "
        f"set --config.{name}.edm.sigma_data={found.scale:.2g}"
        for name, value in assumed.items()
        if not 1 / 4 <= value / (found.scale or value) <= 4
    ]
    return said
