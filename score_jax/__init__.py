"""Score matching and score-based generative models in JAX.

    import score_jax

    vp = score_jax.sde.VP()
    score_jax.losses, score_jax.sampling, score_jax.networks, …      # dir(score_jax) lists the namespaces

A namespace is imported when it is first asked for: importing the package alone imports not even JAX.
"""

import importlib
import pkgutil
from types import ModuleType

__version__ = "0.1.0"


def __getattr__(name: str) -> ModuleType:
    if name not in __dir__():
        raise AttributeError(f"score_jax has no {name!r}; it has {', '.join(__dir__())}")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
