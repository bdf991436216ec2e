"""What sets results of one model apart, and how they are named and written, so that none replaces another.

Conditions are a mapping that JSON can hold. The folder of a result is named after them: the main ones in words, all of
them in a hash, so that results of the same conditions share a name and others don't.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_jax.types import InputError

Conditions = dict[str, Any]

_IN_WORDS = ("step", "n", "label", "seed")


def as_json(settings: Any) -> Any:
    """Returns settings as what JSON gives back: the form in which runs keep and compare them."""
    return json.loads(json.dumps(settings))


def of_sampling(sampler: Mapping[str, Any], value_range: Sequence[float], precision: str, steps: int) -> Conditions:
    """Returns what sets samples of one model and seed apart: sampler and all settings that it heeds, derived ones too.

    Args:
      sampler: the settings' section.
      value_range: onto which images are mapped.
      precision: of matrix products.
      steps: along the grid.
    """
    return {
        "ema": sampler["ema"],
        "sampler": sampler["name"],
        "sampler_steps": steps,
        "sampler_settings": heeded(as_json(sampler)),
        "value_range": list(value_range),
        "matmul_precision": precision,
    }


def measured_by(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a config's section "evaluation" but for where it keeps files, which changes no number."""
    return {**evaluation, "features": {k: v for k, v in evaluation["features"].items() if k != "cache"}}


def same_evaluation(settings: Mapping[str, Any], kept: Mapping[str, Any]) -> bool:
    """Whether settings measure what a run's own do: of the same data, by the same sampler."""
    same = measured_by(settings["evaluation"]) == measured_by(kept["evaluation"]) and settings["data"] == kept["data"]
    return same and heeded(settings["sampler"]) == heeded(kept["sampler"])


def heeded(sampler: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a config's section "sampler" that its sampler heeds: none of other samplers' options."""
    chosen = sampler["name"] if sampler["name"] in sampler else "options"
    sections = {chosen, "langevin_corrector"} if sampler["corrector"] else {chosen}
    kept = {k: v for k, v in sampler.items() if k in sections or not isinstance(v, dict)}
    kept |= {"guidance": sampler["guidance"]} if is_guided(sampler["guidance"]) else {}
    of_no_effect = ("n",) if by_batch(sampler) else ("n", "batch_size")  # sample i depends on the seed and i alone
    return {k: v for k, v in kept.items() if k not in of_no_effect}


def by_batch(sampler: Mapping[str, Any]) -> bool:
    """Whether settings of a config's section "sampler" let a sample depend on the others of its batch."""
    return bool(sampler["corrector"] and sampler["langevin_corrector"]["norm"] == "batch")


def is_guided(guidance: Mapping[str, Any]) -> bool:
    """Whether settings of a config's section "sampler.guidance" lead samples: by Bayes' rule a classifier does at 1."""
    return bool(guidance["scale"] != 1 or guidance["guide"] == "classifier")


def digest(of: Any) -> str:
    """Returns the first eight digits of the hash of what JSON can hold."""
    return hashlib.sha256(json.dumps(of, sort_keys=True, default=str).encode()).hexdigest()[:8]


def name_of(conditions: Mapping[str, Any]) -> str:
    """Returns the name of a folder, such as `ddim-50-step2000-n64-seed0-3f2a1c`."""
    digest = hashlib.sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:6]
    words = [f"{key}{conditions[key]}" for key in _IN_WORDS if key in conditions]
    words += [] if conditions["ema"] else ["raw"]
    sampler = re.sub(r"[^\w.]+", "_", conditions["sampler"])  # of a name that no folder can have
    return "-".join([sampler, str(conditions["sampler_steps"]), *words, digest])


def write_samples(folder: Path, x: np.ndarray, conditions: Conditions, **arrays: Any) -> Path:
    """Writes samples.npz: "x", "conditions" as JSON, "seed" and "units" of these too, and `arrays`; returns its path.

    Args:
      folder: where; it is made.
      x: samples `(n, *S)`, in the units that `conditions` tell.
      conditions: of `of_sampling`, and "units".
      arrays: "label", "names"; those that are None are left out.

    Raises:
      InputError: where it cannot be written, as on a full disk; what was there stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    given = {name: array for name, array in arrays.items() if array is not None}
    told = {"seed": conditions["seed"], "units": conditions["units"], "conditions": json.dumps(conditions)}
    path, draft = folder / "samples.npz", folder / ".samples.npz"
    try:
        with draft.open("wb") as file:
            np.savez(file, **{"x": x, **told, **given})
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written ({error.strerror}): make room, or give --out=FOLDER") from error
    return path
