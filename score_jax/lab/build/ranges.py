"""Which numbers the settings may have: what is out of range is said before anything is read, trained or written.

An interval is written as on paper, "[0, 1)" without its 1. Upper ends of counts are far above anything that could end
in time: they are there for slips of the hand.
"""

import math
from collections.abc import Iterator
from functools import reduce
from typing import Any

from score_jax.types import InputError

_COUNT, _MANY = "[1, 1000000]", "[1, 10000]"
_DEVICES = "[-1, 1000000]"  # and not 0, which a mesh refuses
_STEPS = "[1, 2000000000]"  # counted in int32
_POSITIVE, _NOT_NEGATIVE, _SHARE = "(0, inf)", "[0, inf)", "[0, 1]"
_CHURN = {"churn": _NOT_NEGATIVE, "s_min": _NOT_NEGATIVE, "s_max": _POSITIVE, "s_noise": _POSITIVE}
_U_NET = {"channels": _COUNT, "multipliers": "[1, 1000]", "blocks": "[1, 1000]", "attention": "[-1000, 1000]"}

# Section -> setting -> interval of its number, or of every number of a tuple; whole numbers stay whole by their type.
RANGES: dict[str, dict[str, str]] = {
    "": {"seed": f"[0, {2**63})"},
    "device": {"memory_fraction": "(0, 1]"},
    "mesh": {"data": _DEVICES, "fsdp": _DEVICES, "min_size": _NOT_NEGATIVE},
    "data": {"n": "[2, 100000000]", "channels": "[1, 3]", "holdout": _NOT_NEGATIVE, "augment": _SHARE},
    "sde.tabulated": {"n_steps": _COUNT},
    "parameterization.edm": {"sigma_data": _POSITIVE},
    "network": {"dropout": "[0, 1)"},
    "network.mlp": {"hidden": "[1, 1000000000]"},
    "network.compact_ncsn": {"channels": _COUNT},
    "network.ncsn": {"features": _COUNT},
    "network.ncsnv2": {"features": _COUNT},
    "network.unet": _U_NET | {"patch": _COUNT},
    "network.encoder": _U_NET,
    "network.ddpm": _U_NET | {"group_channels": _COUNT},
    "network.ddpmpp": _U_NET,
    "network.ncsnpp": _U_NET,
    "network.song_unet": _U_NET,
    "network.adm": _U_NET,
    "objective.ssm": {"n_projections": _MANY},
    "objective.fd_ssm": {"eps": _POSITIVE, "n_projections": _MANY},
    "objective.dsm": {"control_scale": _NOT_NEGATIVE},
    "objective.hybrid": {"weight": _NOT_NEGATIVE},
    "weighting.edm": {"sigma_data": _POSITIVE},
    "weighting.min_snr": {"gamma": _POSITIVE},
    "times.discrete": {"n": _COUNT},
    "times.lognormal": {"mean": "[-1000, 1000]", "std": _POSITIVE},
    "optimizer": {
        "learning_rate": _POSITIVE,
        "warmup_steps": "[-1, inf)",
        "decay_from": "[-1, inf)",
        "clip_norm": _NOT_NEGATIVE,
        "weight_decay": _NOT_NEGATIVE,
        "b1": "[0, 1)",
        "b2": "[0, 1)",
        "eps": _NOT_NEGATIVE,
    },
    "optimizer.lion": {"b1": "[0, 1)", "b2": "[0, 1)"},
    "optimizer.muon": {"beta": "[0, 1)"},
    "training": {
        "steps": _STEPS,
        "batch_size": "[1, inf)",
        "steps_per_dispatch": _COUNT,
        "accumulation": _COUNT,
        "ema_decay": "[0, 1)",
        "ema_std": "[0, 0.2886]",
        "label_dropout": _SHARE,
        "log_every": _STEPS,
        "log_levels": _MANY,
        "checkpoint_every": _STEPS,
        "sample_every": _NOT_NEGATIVE,
        "evaluate_every": _NOT_NEGATIVE,
        "keep_last": "[1, inf)",
        "on_nan_limit": _COUNT,
        "keep_every": _NOT_NEGATIVE,
    },
    "sampler": {
        "ema_std": "[0, 0.2886]",
        "quantile": "(0, 1]",
        "offset": _NOT_NEGATIVE,
        "steps": _COUNT,
        "t_end": _NOT_NEGATIVE,
        "rho": _POSITIVE,
        "n": _COUNT,
        "batch_size": _COUNT,
    },
    "sampler.guidance": {"scale": _NOT_NEGATIVE, "step": "[0, 2000000000]"},
    "sampler.annealed_langevin": {"step_size": _NOT_NEGATIVE, "n_steps": _COUNT},
    "sampler.consistent_annealed": {"step_size": _NOT_NEGATIVE},
    "sampler.euler_maruyama": {"num_scales": "[0, 1000000]"},
    "sampler.reverse_diffusion": {"num_scales": "[0, 1000000]"},
    "sampler.ddim": {"eta": _NOT_NEGATIVE},
    "sampler.euler_churn": _CHURN,
    "sampler.heun": _CHURN,
    "sampler.kdpm2": _CHURN,
    "sampler.dpm_solver_pp": {"eta": _NOT_NEGATIVE},
    "sampler.probability_flow": {"rtol": _POSITIVE, "atol": _POSITIVE},
    "sampler.langevin_corrector": {"snr": _POSITIVE, "n_steps": _COUNT, "num_scales": "[0, 1000000]"},
    "evaluation.features": {"kept": "[20, inf)", "subset_size": "[2, inf)", "subsets": _COUNT, "k": _COUNT},
    "evaluation": {
        "n": "[2, 10000000]",
        "levels": "[2, 10000]",
        "likelihood_n": _NOT_NEGATIVE,
        "likelihood_probes": _MANY,
        "likelihood_tolerance": _POSITIVE,
        "bound_n": _NOT_NEGATIVE,
    },
}


def check_numbers(config: Any) -> None:
    """Refuses a setting whose number, or a number of whose tuple, is out of range or none.

    Args:
      config: settings as `lab.settings` lists them; ranges of those it lacks are left alone.

    Raises:
      InputError: of the first such setting, with the range.
    """
    for name, interval, value in _ranged(config):
        several = isinstance(value, tuple | list)
        if not all(_within(number, interval, whole=several) for number in (value if several else [value])):
            raise InputError(f"{name} is {_described(interval, several)}, got {value}")


def _ranged(config: Any) -> Iterator[tuple[str, str, Any]]:
    """Yields the settings that have a range: dotted name, interval, value."""
    for section, intervals in RANGES.items():
        found = reduce(lambda inner, part: inner.get(part, {}), section.split(".") if section else [], config)
        for name, interval in intervals.items():
            if name in found:
                yield f"{section}.{name}".lstrip("."), interval, found[name]


def _ends(interval: str) -> tuple[float, float]:
    low, high = interval[1:-1].split(",")
    return float(low), float(high)


def _within(number: Any, interval: str, *, whole: bool) -> bool:
    if isinstance(number, bool) or not isinstance(number, int if whole else int | float) or not math.isfinite(number):
        return False
    low, high = _ends(interval)
    above = number >= low if interval[0] == "[" else number > low
    return above and (number <= high if interval[-1] == "]" else number < high)


def _described(interval: str, several: bool) -> str:
    """The interval in words: "whole numbers from 1 to 1,000,000", "a number from 0 and below 1"."""
    low, high = _ends(interval)
    kind = "whole numbers" if several else "a number"
    start = "" if low == -math.inf else f" from {low:,.12g}" if interval[0] == "[" else f" above {low:,.12g}"
    end = "" if high == math.inf else f" to {high:,.12g}" if interval[-1] == "]" else f" and below {high:,.12g}"
    return f"{kind}{start}{end}"
