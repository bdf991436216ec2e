"""The objective at every noise level, and the weight of each."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from score_jax import kernels, losses, training
from score_jax.distributions import GaussianMixture, score_of
from score_jax.kernels import Kernel
from score_jax.lab import own
from score_jax.lab.build import names
from score_jax.lab.build.data import value_range
from score_jax.lab.build.kinds import OWN
from score_jax.lab.build.network import LEARNED
from score_jax.lab.build.noise import level_times
from score_jax.losses import weighting
from score_jax.losses.variational import Decoder, gaussian_decoder, grey_level_decoder
from score_jax.losses.weighting import Weighting
from score_jax.sde import SDE
from score_jax.training.step import Objective, objective_itself
from score_jax.types import Array, InputError, is_on

# Laws of the noise, of variance 1: sigma is the standard deviation whatever the law.
NOISES: dict[str, Kernel] = {
    "gaussian": kernels.Gaussian(1.0),
    "laplace": kernels.Laplace(0.5**0.5),
    "student_t": kernels.StudentT(5.0, 0.6**0.5),
    "mixture": kernels.GaussianMixtureNoise(np.full(2, 0.5), np.zeros(2), np.array([0.5, 1.75**0.5])),
}

# What turns the last level into data: images of 256 grey levels on [−1, 1], or data with a density.
DECODERS: dict[str, Decoder] = {"grey_levels": grey_level_decoder(), "gaussian": gaussian_decoder}


def weights(config: ConfigDict) -> Weighting:
    """Returns the weight of the noise levels."""
    table: dict[str, Callable[..., Weighting]] = {
        "sigma2": lambda: weighting.sigma2,
        "likelihood": lambda: weighting.likelihood,
        "edm": weighting.edm,
        "min_snr": weighting.min_snr,
    }
    return names.chosen_function("weighting", config.weighting, table, OWN["weighting"])


def minimised(config: ConfigDict) -> Callable[..., Array]:
    """Returns what training minimises in place of the objective: that itself, or weighed by what a network learns.

    Raises:
      InputError: of objectives that are no squared errors, whose levels have no size to divide by.
    """
    if not config.weighting.learned:
        return objective_itself
    name, controlled = config.objective.name, is_on(config.objective.dsm.control_scale)
    if name in ("ism", "ssm", "fd_ssm", "hybrid", "classification") or (name == "dsm" and controlled):
        raise InputError(
            f"weighting.learned divides by squared errors, and objective {name!r} is {_no_square(name)}: set "
            "--config.weighting.learned=False, or --config.objective.name=dsm without a control_scale"
        )
    return training.by_uncertainty


def _no_square(name: str) -> str:
    kinds = {"hybrid": "weighed as published", "classification": "a classifier's"}
    return kinds.get(name, "below 0 where the score is right")


def _check_hybrid(config: ConfigDict) -> None:
    if config.parameterization.name not in LEARNED or config.weighting.name != "sigma2":
        raise InputError(
            "objective 'hybrid' teaches a learned variance, with weights of its own: set "
            f"--config.parameterization.name={', '.join(LEARNED)} --config.weighting.name=sigma2"
        )
    stored = not config.data.dequantize and value_range(config) == (-1.0, 1.0)
    if config.objective.hybrid.decoder == "grey_levels" and not stored:
        raise InputError(
            "objective.hybrid.decoder 'grey_levels' is of images that are not dequantized, on (-1.0, 1.0): set "
            "--config.data.dequantize=False and data.value_range, or --config.objective.hybrid.decoder=gaussian"
        )


def objective(
    config: ConfigDict, sde: SDE, oracle: GaussianMixture | None, weighting: Weighting | None = None
) -> Objective:
    """Returns `(key, score_fn, x0, times) -> (B,)`, the named objective at every noise level.

    Args:
      config: settings.
      sde: the noising process.
      oracle: the exact density of the data, where it is known.
      weighting: in place of the config's.
    """
    weigh = weights(config) if weighting is None else weighting

    def lifted(at_one_level):
        return lambda key, s, x0, times: losses.perturbed(at_one_level, sde, times=times, weighting=weigh)(key, s, x0)

    table: dict[str, Callable[..., Objective]] = {
        "dsm": partial(_denoising, sde, weigh),
        "esm": lambda: _explicit(sde, oracle, lifted),
        "ism": lambda exact: lifted(lambda key, s, x: losses.implicit_score_matching(s, x, key=None if exact else key)),
        "ssm": lambda **options: lifted(partial(losses.sliced_score_matching, **options)),
        "fd_ssm": lambda **options: lifted(partial(losses.finite_difference_score_matching, **options)),
        "hybrid": partial(_hybrid, config, sde),
        "classification": partial(_classification, sde),
    }
    name, options = config.objective.name, names.options(config.objective)
    _check_objective(config)
    if own.is_own(name):
        return at_times(own.function("objective.name", name, OWN["objective"], options), sde, weigh)
    return names.choose("objective", name, table)(**options)


def at_times(loss: Callable[..., Any], sde: SDE, weighting: Weighting) -> Objective:
    """Returns an objective of the form of `losses.diffusion_loss` as training calls it."""
    return lambda key, s, x0, times: loss(key, sde, s, x0, times=times, weighting=weighting)


def _check_objective(config: ConfigDict) -> None:
    name = config.objective.name
    if config.parameterization.name in LEARNED and name != "hybrid":
        raise InputError(
            f"objective {name!r} leaves the variance of parameterization "
            f"{config.parameterization.name!r} untaught: set --config.objective.name=hybrid"
        )
    if name == "fd_ssm" and config.network.dtype != "float32":
        raise InputError(
            "objective 'fd_ssm' takes differences that bfloat16 rounds away: set --config.network.dtype=float32"
        )


def _classification(sde: SDE) -> Objective:
    return lambda key, log_prob, x0, times: losses.classification_loss(key, sde, log_prob, x0, times=times)


def _denoising(sde: SDE, weigh: Weighting, *, noise: str, control_scale: float) -> Objective:
    options: dict[str, Any] = {"noise": names.choose("objective.dsm.noise", noise, NOISES), "weighting": weigh}
    if is_on(control_scale):
        options["control"] = weighting.small_noise(control_scale)
    return lambda key, s, x0, times: losses.diffusion_loss(key, sde, s, x0, times=times, **options)


def _explicit(sde: SDE, oracle: GaussianMixture | None, lifted: Callable[..., Objective]) -> Objective:
    if oracle is None:
        raise InputError("objective 'esm' needs a known score, which only the 2-D toys have: choose dsm, ssm or fd_ssm")
    truth = score_of(oracle, sde)
    # The error s − truth is lifted as a whole and compared with zero: the truth differs from level to level.
    zero = lifted(lambda key, error, x: losses.explicit_score_matching(error, x, jnp.zeros_like))
    return lambda key, s, x0, times: zero(key, lambda x, t: s(x, t) - truth(x, t), x0, times)


def _hybrid(config: ConfigDict, sde: SDE, *, weight: float, decoder: str) -> Objective:
    _check_hybrid(config)
    options: dict[str, Any] = {
        "weight": weight,
        "decoder": names.choose("objective.hybrid.decoder", decoder, DECODERS),
        "ts": level_times(config, sde),
    }
    return lambda key, s, x0, times: losses.hybrid_loss(key, sde, s.with_variance, x0, times=times, **options)
