"""What an object of the user's own has to be, in every place where a setting is a name.

mylab.sdes:MySDE        imported by its name: `OWN`, a class or what makes one, or a function with these arguments
MySDE(3.0)              handed to `build.experiment`: `HANDED`, an instance, or a function that can be called so
"""

import optax
from flax import linen as nn

from score_jax import adapters
from score_jax.data import Source
from score_jax.lab.own import Kind
from score_jax.metrics import Features
from score_jax.parameterization import Parameterization
from score_jax.sde import SDE

OWN: dict[str, Kind] = {
    "data": Kind("data set", makes=(Source,)),
    "sde": Kind("SDE", makes=(SDE,)),
    "parameterization": Kind("parameterization", makes=(Parameterization,)),
    "network": Kind("network", makes=(nn.Module, "flax.nnx:Module", adapters.Plain)),
    "objective": Kind("objective", takes=("key", "sde", "score_fn", "x0"), keywords=("times", "weighting")),
    "weighting": Kind("weighting", takes=("sde", "t")),
    "times": Kind("way to draw times", takes=("key", "sde", "n")),
    "sampler": Kind("sampler", takes=("sde", "score_fn")),
    "optimizer": Kind("optimizer", takes=("learning_rate",)),
    "measure": Kind("measure", takes=("measured",)),
    "features": Kind("feature network", makes=(Features,)),
    "logger": Kind("logger", takes=("workdir", "start")),
}
HANDED = OWN | {"optimizer": Kind("optimizer", makes=(optax.GradientTransformation,))}
