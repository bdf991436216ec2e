"""An evaluation: what is measured of a run, and the folder it is written into.

Every figure stands with its n. A comparison of samples with data means little without the same comparison of data with
data, so fresh data of the same size go through the same functions.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np

from score_jax.arrays import tree_hash
from score_jax.data import some_examples
from score_jax.devices import gather
from score_jax.lab import measures, records, samples
from score_jax.lab.experiment import Experiment, Numbers, Run
from score_jax.lab.kept import Kept
from score_jax.lab.measures import Measured
from score_jax.lab.records import Conditions
from score_jax.training import hosts
from score_jax.training.logging import revision, write_json

_POOL = 20_000  # examples that samples are compared with


def evaluate(run: Run, *, seed: int | None = None, folder: Path | None = None) -> Numbers:
    """Measures the trained model and writes evaluation.json and its figures; returns the numbers.

    What cannot be measured is left out, and "left_out" says why. The folder is one of evaluations/, named after what
    sets this evaluation apart; evaluation.json of the run is the newest checkpoint's by the run's own sampler. The file
    comes last and at once: where it is there, the evaluation is whole. Stopped before and started again it goes on with
    the samples and features that were made.

    Args:
      run: with trained parameters.
      seed: of the samples and of what measures draw; None is the experiment's.
      folder: another folder to write into.
    """
    seed = run.experiment.seed if seed is None else seed
    chosen = hosts.own(evaluation_folder(run, seed) if folder is None else folder)
    numbers: Numbers = {**evaluation_conditions(run, seed), "revision": revision()}
    unfinished = Kept(chosen / ".unfinished", {**numbers, "parameters": tree_hash(gather(run.model.variables))})
    measured, of_samples = _drawn(run, seed, unfinished)
    numbers |= of_samples
    numbers |= measures.measure(measured, run.experiment.evaluation.measures, taken=tuple(numbers))
    chosen.mkdir(parents=True, exist_ok=True)
    from score_jax.lab import pictures, show  # deferred: matplotlib is a sixth of a command's start

    pictures.write_evaluation(chosen, numbers)
    if len(measured.drawn):
        show.show_drawn(run.examples, run.examples.as_stored(measured.drawn), measured.train["x"], chosen)
    if folder is None and _is_newest_of_its_own(run, seed):
        write_json(hosts.own(run.workdir / "evaluation.json"), numbers)
    write_json(chosen / "evaluation.json", numbers)
    unfinished.clear()
    return numbers


def evaluation_folder(run: Run, seed: int) -> Path:
    """Returns where `evaluate` writes by default."""
    return run.workdir / "evaluations" / records.name_of(evaluation_conditions(run, seed))


def is_done(folder: Path) -> bool:
    """Whether a folder holds a whole evaluation."""
    try:
        return isinstance(json.loads((folder / "evaluation.json").read_bytes()), dict)
    except (OSError, ValueError, RecursionError):
        return False


def folder_to_be(experiment: Experiment, workdir: Path) -> Path:
    """Returns where the evaluation of a run by its own seed will be written once it is trained."""
    ending = {"step": experiment.training.steps, "seed": experiment.seed}
    conditions = {**experiment.sampling.conditions, **ending, **experiment.evaluation.conditions}
    return workdir / "evaluations" / records.name_of(conditions)


def evaluation_conditions(run: Run, seed: int) -> Conditions:
    """Returns what sets an evaluation apart."""
    return {**samples.of_seed(run, seed), **run.experiment.evaluation.conditions}


def _is_newest_of_its_own(run: Run, seed: int) -> bool:
    """Whether it is an evaluation by the run's own settings, of no older checkpoint than evaluation.json's."""
    if not run.experiment.evaluation.of_the_run or seed != run.experiment.seed:
        return False
    try:
        newest = json.loads((run.workdir / "evaluation.json").read_text())["step"]
        return newest <= int(run.state.step)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return True  # there is none, or what is there is damaged


def _drawn(run: Run, seed: int, unfinished: Kept) -> tuple[Measured, Numbers]:
    """Draws what is measured, and says how much and at what cost; a classifier draws nothing."""
    data, examples = run.experiment.data, run.examples
    x, conditional, numbers = np.empty((0, *examples.shape), np.float32), None, Numbers()
    if not run.sampling.without_score:
        x, conditional, nfe = _samples(run, seed, unfinished)
        numbers = {"n": len(x), "not_finite": samples.not_finite(x), "nfe": nfe}
    # Judged against everything there is to know of images: labels too, which an unconditional model never saw.
    judged = len(examples.shape) == 3 and data.held_out.num_classes
    labelled = data.labelled if judged else data.train
    measured = Measured(
        run,
        seed,
        x,
        conditional,
        some_examples(labelled, _POOL),
        some_examples(data.held_out, _POOL),
        labelled.names,
        unfinished,
    )
    return measured, numbers


def _samples(run: Run, seed: int, unfinished: Kept) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None, int]:
    """Samples, those of every class in turn with their labels where there are classes, and evaluations of a network.

    The samples are without labels where the model can do without, unless they are led to them.
    """
    n, examples = run.experiment.evaluation.n, run.examples
    labels, program = samples.classes_in_turn(examples, n), samples.program_of(run)
    draw = partial(samples.draw_in_parts, run, unfinished, n=n, seed=seed, program=program)
    drawn, conditional = draw("samples", labels=labels), None
    if labels is not None:
        conditional = examples.as_stored(drawn.x), labels
        if examples.null_label and not run.sampling.by_label:
            drawn = draw("without_labels")
    return drawn.x, conditional, drawn.nfe
