"""Score matching and score-based generative models in JAX.

    import score_jax

    vp = score_jax.sde.VP()
    score_jax.losses, score_jax.sampling, score_jax.networks, …      # dir(score_jax) lists the namespaces

A namespace is imported when it is first asked for: importing the package alone imports not even JAX.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what checkers and editors see of the namespaces
    from score_jax import adapters as adapters
    from score_jax import arrays as arrays
    from score_jax import backend as backend
    from score_jax import conditioning as conditioning
    from score_jax import conditions as conditions
    from score_jax import data as data
    from score_jax import devices as devices
    from score_jax import distributions as distributions
    from score_jax import integrate as integrate
    from score_jax import interop as interop
    from score_jax import kernels as kernels
    from score_jax import lab as lab
    from score_jax import likelihood as likelihood
    from score_jax import losses as losses
    from score_jax import metrics as metrics
    from score_jax import networks as networks
    from score_jax import noise_levels as noise_levels
    from score_jax import parameterization as parameterization
    from score_jax import pickles as pickles
    from score_jax import plotting as plotting
    from score_jax import pytrees as pytrees
    from score_jax import sampling as sampling
    from score_jax import score as score
    from score_jax import sde as sde
    from score_jax import training as training
    from score_jax import types as types

    __version__: str  # of what is installed, as pyproject.toml has it
else:  # checkers would take this for any name

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib import metadata

            try:
                return metadata.version("score-jax")
            except metadata.PackageNotFoundError as error:
                raise AttributeError("score_jax is not installed: pyproject.toml has its version") from error
        if name not in __dir__():
            raise AttributeError(f"score_jax has no {name!r}; it has {', '.join(__dir__())}")
        return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
