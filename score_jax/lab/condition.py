"""Restores pictures: draws samples of p(x | y), y being what was observed of x, from a run or a published checkpoint.

    python experiments/condition.py --workdir=runs/emoji --task=inpaint --method=pigdm --held_out=4
    python experiments/condition.py --workdir=runs/emoji --task=inpaint --method=pigdm --input=torn.png --mask=mask.png
    python experiments/condition.py --checkpoint=unet.pth --task=bicubic --task.factor=4 --noise_std=0.02 --truth=a.png

What is restored is one of three:
--input=PICTURE: the observation itself, a picture to restore. Of task inpaint it has the network's size, and what it
has where the mask is black is never looked at; of super_resolution it is the small picture, of colorize the grey one.
Its noise is --noise_std, and none is added.
--truth=PICTURE: a true picture of the network's size. The observation is made of it, with noise of --noise_std, and the
restored picture is compared with it (PSNR, SSIM).
--held_out=4, if neither is given: so many held-out examples of the run's data, as --truth.
--input and --truth take several pictures, separated by commas, or a folder of them.

Tasks: inpaint (--mask=PICTURE, white where observed; without one a box in the middle is hidden, --task.box=0.5 of each
side) random_mask (--task.share=0.3 of the pixels observed) super_resolution (means of blocks, --task.factor=2) bicubic
deblur (--task.std=1.5 pixels, --task.size=5) motion_deblur (--task.angle=45, --task.size=5) colorize denoise
low_light (--task.photons=20 of white counted on average: Poisson's noise, in place of --noise_std; by dps or tds)
phase_retrieval (--task.padding=4) quantized (--task.levels=4) saturated (--task.black=0.2 --task.white=0.6).
Methods: see score_jax/conditioning; their keywords are --method.NAME=VALUE, such as --method.scale=0.5 of dps. Most use
the run's own sampler: --sampler, --steps and --config.sampler.… change it; ddrm, daps, dps_ancestral, tds and mcgdiff
are samplers of their own, on its grid. Of tds and mcgdiff the samples of a picture are one set of particles, up to
sampler.batch_size: take --n=64 or more. What doesn't suit a task is refused.

--noise_std and the residual are in units of which black to white is 1; a method that needs noise says so.

Writes into --out, by default a folder of its own in restored/ of the run: restored.png (observed, samples, their mean
and standard deviation, truth), for each picture a folder 0, 1, … with sample-00.png, …, mean.png, std.png (white where
largest), observed.png and truth.png, samples.npz with "x" (K, n, H, W, C) in [0, 1], "mean", "std", "observed" and
"truth", and condition.json: settings, network calls and vector–Jacobian products of a sample, residual ‖y − A x‖ beside
what it is expected to be, σ_y √m of m observed numbers, PSNR and SSIM. Sample i of picture k depends on the seed, k and
i. A folder that holds anything else is refused.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from score_jax import data as datasets
from score_jax.lab import build, command, opened, records, run, samples
from score_jax.lab.experiment import Data, Examples, Trained
from score_jax.lab.records import Conditions
from score_jax.lab.restoring import inputs, results
from score_jax.lab.restoring.chosen import chosen_options
from score_jax.lab.restoring.inputs import Inputs
from score_jax.lab.restoring.methods import METHODS, Counts, Observation, chosen_method
from score_jax.lab.restoring.posterior import draw_posterior
from score_jax.lab.restoring.tasks import COUNTED, NO_PICTURE, TASKS
from score_jax.training import hosts
from score_jax.types import InputError

Pairs = Sequence[tuple[str, str]]

_HELD_OUT = 4
# --task.NAME=VALUE and --method.NAME=VALUE, taken while flags are defined
_GIVEN: dict[str, Pairs] = {}


class Request(NamedTuple):
    """What the flags ask for that needs no model to be found right or wrong."""

    task: str
    task_options: dict[str, Any]
    method: str
    method_options: dict[str, Any]
    noise_std: float
    given: list[Path]
    truth: list[Path]
    mask: Path | None


def define() -> None:
    """Defines the flags; reads the checkpoint whose settings are their defaults, if one is named."""
    for kind in ("task", "method"):
        _GIVEN[kind] = command.attempt(partial(command.taken, kind))
    opened.define()
    flags.DEFINE_enum("task", None, list(TASKS), "what was observed; its options are --task.NAME=VALUE", required=True)
    flags.DEFINE_enum("method", "pigdm", list(METHODS), "how it is restored; its options are --method.NAME=VALUE")
    flags.DEFINE_list("input", [], "pictures to restore: what was observed")
    flags.DEFINE_list("truth", [], "true pictures, of which observations are made")
    flags.DEFINE_integer("held_out", None, "number of held-out examples as truth; 4 by default", lower_bound=1)
    flags.DEFINE_string("mask", None, "picture, white where pixels are observed and black where they are hidden")
    flags.DEFINE_float("noise_std", 0.0, "standard deviation of the observation's noise, black to white being 1")
    flags.DEFINE_integer("n", 8, "samples of each picture", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "seed of samples and of observations' noise", lower_bound=0, upper_bound=2**63 - 1)
    flags.DEFINE_string("label", "-1", "class of the pictures, its name or number, of a conditional model; -1: any")
    flags.DEFINE_string("out", None, "folder to write into; by default one of its own in restored/ of the run")


def main() -> None:
    """Restores the pictures that the flags name."""
    given, asked = flags.FLAGS, request(flags.FLAGS, **_GIVEN)
    trained, data, home = _opened()
    examples = trained.examples
    _require_images(examples)
    mask = None if asked.mask is None else inputs.read_mask(asked.mask, examples.shape)
    operator = TASKS[asked.task](examples.shape, examples.value_range, mask, **asked.task_options)
    found, seen, truth = _observation(asked, examples, data, operator)
    label = -1 if given.label == "-1" else samples.label_named(examples, given.label)
    conditions = _conditions(trained, asked, found, mask, label)
    folder = _folder(home, asked, conditions)
    print(f"{asked.task} of {len(found.x)} by {asked.method}, {given.n} samples each, into {folder}", flush=True)
    how = {"n": given.n, "seed": given.seed, "label": label}
    drawn = draw_posterior(trained, asked.method, asked.method_options, seen, **how)
    restored = results.restored(examples, asked.task, seen, drawn, truth)
    numbers = results.restoration_numbers(examples, seen, drawn, restored)
    written = results.write_results(folder, restored, conditions, numbers, found.names, examples.attribution)
    print(*_lines(numbers), *(f"  {path}" for path in written), sep="\n")


def _folder(home: Path, asked: Request, conditions: Conditions) -> Path:
    """Where results go: a folder that holds no others and can be written."""
    by_default = home / "restored" / f"{asked.task}-{asked.method}-{records.name_of(conditions)}"
    folder = hosts.own(Path(flags.FLAGS.out or by_default))
    results.require_free(folder, conditions)
    return command.require_writable(folder)


def request(given: Any, *, task: Pairs, method: Pairs) -> Request:
    """Returns what is asked for, found right as far as it can be without the model.

    Args:
      given: the flags.
      task: options of the task, pairs of name and text.
      method: of the method.

    Raises:
      InputError: of what contradicts itself, is not there, or suits no task or method.
    """
    named = [name for name in ("input", "truth", "held_out") if getattr(given, name)]
    if len(named) > 1:
        raise InputError(f"--{named[0]} and --{named[1]} exclude each other: give what was observed, or the truth")
    if not 0 <= given.noise_std < np.inf:
        raise InputError(f"--noise_std is a standard deviation, 0 or more, got {given.noise_std:g}")
    if given.mask is not None and given.task != "inpaint":
        raise InputError(f"--mask is of task inpaint, and the task is {given.task}: leave it out")
    if given.mask is not None and any(name == "box" for name, _ in task):
        raise InputError("--mask and --task.box exclude each other: give one of them")
    if given.input and given.task in NO_PICTURE:
        raise InputError(f"what {given.task} observes is no picture: give --truth or --held_out, of which it is made")
    if given.noise_std and given.task in COUNTED:
        raise InputError(f"the noise of task {given.task} is Poisson's, by --task.photons: leave --noise_std out")
    make = chosen_method(given.method, counted=given.task in COUNTED)
    return Request(
        given.task,
        chosen_options(f"task {given.task}", TASKS[given.task], task),
        given.method,
        chosen_options(f"method {given.method}", make, method, without=("noise_std", "counts")),
        given.noise_std,
        _files(given.input),
        _files(given.truth),
        None if given.mask is None else datasets.picture_files(given.mask)[0],
    )


def _files(paths: list[str]) -> list[Path]:
    return [file for path in paths for file in datasets.picture_files(path)]


def _opened() -> tuple[Trained, Data | None, Path]:
    """The model, its data if it has any, and the folder that results go to by default."""
    given, checkpoint = flags.FLAGS, opened.named_checkpoint()
    if checkpoint:
        return build.of_checkpoint(given.config, checkpoint), None, Path("runs", Path(given.checkpoint).stem)
    home = Path(given.workdir)
    experiment = build.experiment(given.config, before=run.before(home))
    return run.restore(experiment, home, step=given.step), experiment.data, home


def _require_images(examples: Examples) -> None:
    if examples.picture != "images" or examples.shape[2] not in (1, 3) or not examples.grey_levels:
        raise InputError(
            f"this model is of {examples.name}, {examples.shape}: pictures to restore are grey levels of 1 or 3 "
            "channels; for other data call the functions of score_jax.conditioning"
        )


def _observation(
    asked: Request, examples: Examples, data: Data | None, operator: Any
) -> tuple[Inputs, Observation, np.ndarray | None]:
    """The pictures, what is observed of them, and the truth where it is known."""
    told: dict[str, Any] = {"counts": _counts(asked, examples)}
    if asked.given:
        shape = inputs.observed_shape(operator, examples.shape)
        found = inputs.read_pictures(asked.given, shape, f"what {asked.task} observes of the network's images is")
        return found, inputs.as_given(examples, operator, found.x, asked.noise_std, **told), None
    if asked.truth:
        found = inputs.read_pictures(asked.truth, examples.shape, "the network's images are")
    elif data is None:
        raise InputError("a published checkpoint comes without data: give --input or --truth")
    else:
        found = inputs.held_out(data, flags.FLAGS.held_out or _HELD_OUT)
    return found, inputs.of_truth(examples, operator, found.x, asked.noise_std, flags.FLAGS.seed, **told), found.x


def _counts(asked: Request, examples: Examples) -> Counts | None:
    return Counts(asked.task_options["photons"], examples.value_range) if asked.task in COUNTED else None


def _conditions(trained: Trained, asked: Request, found: Inputs, mask: np.ndarray | None, label: int) -> Conditions:
    """What sets these results apart from others: names of files change no number, their pixels do."""
    told = {**samples.of_seed(trained, flags.FLAGS.seed), "n": flags.FLAGS.n, "pictures": _digest(found.x)}
    told |= {"given": "observation" if asked.given else "truth", "noise_std": asked.noise_std}
    told |= {"task": asked.task, "task_options": asked.task_options}
    told |= {"method": asked.method, "method_options": asked.method_options}
    told |= {} if mask is None else {"mask": _digest(mask)}
    return told | ({"label": label} if trained.examples.names else {})


def _digest(x: np.ndarray) -> str:
    return hashlib.sha256(f"{x.shape}".encode() + np.ascontiguousarray(x).tobytes()).hexdigest()[:16]


def _lines(numbers: dict[str, Any]) -> list[str]:
    """The numbers, a line each."""
    told = []
    for name, number in numbers.items():
        if not isinstance(number, dict):
            told.append(f"  {name:26} {number}")
            continue
        error = number["standard_error"]
        rest = {key: v for key, v in number.items() if key not in ("value", "standard_error", "each")}
        shown = f"{number['value']:.4g}" + (f" ± {error:.2g}" if error is not None else "")
        told.append(f"  {name:26} {shown}  ({', '.join(f'{k} {_short(v)}' for k, v in rest.items())})")
    return told


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    command.run(main, define, several=True)
