"""A run: a config, the objects built from it, and a folder with what came of them.

    run = new(config, workdir);  result = train(run)          # experiments/train.py
    run = load(workdir, config);  samples(run), evaluate(run)  # experiments/sample.py, evaluate.py

Images of grey levels are handed out in [0, 1], which a sampler may overshoot; floating-point data and points in their
own units.
"""

import contextlib
import json
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from score_jax import build, generate, measures, memory, pictures, records, sampling, training
from score_jax import data as datasets
from score_jax.build import Data
from score_jax.command import as_json
from score_jax.data import Source, statistics
from score_jax.generate import Samples
from score_jax.records import Conditions
from score_jax.sampling import grids
from score_jax.score import ScoreModel
from score_jax.training import TrainState, checkpoint
from score_jax.training.logging import read_jsonl, write_json
from score_jax.types import InputError

_log = logging.getLogger(__name__)

# What may be changed when a run goes on, or for sampling from it: nothing that the training depends on.
_MAY_DIFFER = (
    "device",
    "network.attention_implementation",
    "sampler",
    "evaluation",
    "data.root",
    "training.log_every",
    "training.checkpoint_every",
    "training.keep_last",
    "training.keep_every",
    "training.on_save_error",
    "training.tensorboard",
    "training.wandb",
)
_NEIGHBOUR_POOL = 20_000  # training images among which nearest neighbours are looked for
_SAMPLING = 0x73616D70  # the stream of sampling keys, apart from training's of the same seed
_SHOWN = 5000  # points of the data shown beside samples


def may_differ(config: ConfigDict) -> tuple[str, ...]:
    """Returns the settings a run may go on with changed; its length too, unless the learning rate depends on it."""
    return (*_MAY_DIFFER, "training.steps") if config.optimizer.schedule == "constant" else _MAY_DIFFER


class Run(NamedTuple):
    """Everything a command works with; `model` has the variables of `state`: the average if `sampler.ema`."""

    config: ConfigDict
    workdir: Path
    data: Data
    model: ScoreModel
    state: TrainState

    def with_state(self, state: TrainState) -> "Run":
        """Returns the run with trained parameters."""
        variables = state.variables(ema=self.config.sampler.ema)
        return self._replace(state=state, model=replace(self.model, variables=variables))


def new(config: ConfigDict, workdir: str | Path) -> Run:
    """Builds the objects of a config; nothing is written.

    What follows from the data and the length of the training is in the run's config as numbers (`build.derived`).

    Raises:
      InputError: of a setting, of training or sampling, that cannot be used.
    """
    build.check(config)
    data = build.data(config)
    _require_memory(config, data.train)
    kept = checkpoint.read_config(workdir) if checkpoint.steps(Path(workdir)) else None
    config = build.derived(config, data.train, kept=kept)
    build.check_threshold(config, data.train)
    model = build.model(config, data.train)
    build.check_sampling(config, model.sde, model)
    key = jax.random.key(config.seed)
    return Run(config, Path(workdir), data, model, training.create(key, model.variables, build.optimizer(config)))


def _require_memory(config: ConfigDict, source: Source) -> None:
    """Refuses batches that no memory holds: those of a dispatch, and those that a sampler has at once."""
    training, sampler, devices = config.training, config.sampler, jax.device_count()
    steps, size = build.intervals(config).dispatch, min(sampler.n, sampler.batch_size)
    batches = memory.of_batches(source.shape, -(-training.batch_size // devices), steps)
    memory.require({f"batches, training.batch_size={training.batch_size} in {steps} steps a dispatch": batches})
    drawn = memory.of_batches(source.shape, size, 2)  # x and its score
    memory.require({f"samples at once, sampler.batch_size={size}": drawn})


def load(workdir: str | Path, config: ConfigDict, *, step: int | None = None) -> Run:
    """Builds the run in `workdir` with the parameters of its newest checkpoint, or that of `step`.

    Args:
      workdir: a folder that training wrote.
      config: the run's, possibly with other sampling and evaluation settings.
      step: which checkpoint.

    Raises:
      InputError: where there is no run or checkpoint, or the config changes what was trained.
    """
    run = new(config, workdir)
    with checkpoint.open_checkpoints(workdir, read_only=True) as manager:
        restored = checkpoint.restore(
            manager, run.state, config=as_json(run.config), may_differ=may_differ(run.config), step=step
        )
    if restored is None:
        raise InputError(f"{workdir} has no checkpoint yet: train first, or give another workdir")
    return run.with_state(restored.state)


def plan(run: Run) -> str:
    """Returns what training will do, on what data, and what of the settings doesn't suit these, in a line each."""
    config, source = run.config, run.data.train
    dispatch = build.intervals(config, already=checkpoint.steps(run.workdir)).dispatch
    parameters = sum(leaf.size for leaf in jax.tree.leaves(run.state.params))
    named = ", ".join(source.names[:12]) + (", …" if source.num_classes > 12 else "")
    conditional = f", {source.num_classes} classes ({named})" if source.num_classes else ""
    return (
        f"{config.data.name}: {len(source)} examples of shape {source.shape}{conditional}; {config.network.name} with "
        f"{parameters:,} parameters ({config.parameterization.name}); {config.objective.name} on {config.sde.name}\n"
        f"{config.training.steps} steps of batch {config.training.batch_size}, {dispatch} a dispatch, "
        f"into {run.workdir}\n" + "\n".join(_on_scale(run))
    )


def _on_scale(run: Run) -> list[str]:
    """How large the data are, in the units of training, and warnings of settings that are made for others."""
    config, sde = run.config, run.model.sde
    found = statistics.statistics(statistics.examples(run.data.train, build.value_range(config)))
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


def train(run: Run) -> training.Result:
    """Trains from the run's last checkpoint, or from the start, to `config.training.steps`."""
    config, options, mesh = run.config, run.config.training, training.data_mesh()
    every = build.intervals(config, already=checkpoint.steps(run.workdir))
    training.check_batch_size(options.batch_size, mesh, accumulation=options.accumulation)
    step = training.make_train_step(
        run.model,
        build.objective(config, run.model.sde, run.data.oracle),
        build.optimizer(config),
        times=build.draw_times(config, run.model.sde),
        mesh=mesh,
        prepare=build.prepare(config, run.data.train),
        decay=training.ema_decay(options.ema_decay, warmup=options.ema_warmup),
        label_dropout=options.label_dropout,
        dropout=config.network.dropout > 0,
        accumulation=options.accumulation,
        levels=options.log_levels,
    )
    loader = datasets.Loader(
        run.data.train,
        batch_size=options.batch_size,
        steps_per_batch=every.dispatch,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    with contextlib.closing(loader):
        return training.train(
            run.state,
            step,
            loader,
            workdir=run.workdir,
            config=as_json(config),
            mesh=mesh,
            steps=options.steps,
            steps_per_dispatch=every.dispatch,
            log_every=every.log,
            checkpoint_every=every.checkpoint,
            keep_last=options.keep_last,
            keep_every=every.keep,
            may_differ=may_differ(config),
            on_save_error=options.on_save_error,
            loggers=build.loggers(config),
            seed=config.seed,
        )


def classes_in_turn(run: Run, n: int) -> np.ndarray | None:
    """Returns labels of n samples of a conditional model, each class that training has examples of in turn, or None."""
    classes = datasets.occurring(run.data.train).astype(np.int32)
    return classes[np.arange(n) % len(classes)] if len(classes) else None


def label_named(run: Run, name: str) -> int:
    """Returns the label of the class that the data call `name`, else of that number; −1 is any.

    Raises:
      InputError: where no class has this name or number.
    """
    names = run.data.train.names
    if name in names:
        return names.index(name)
    if names and (name == "-1" or (name.isdecimal() and len(name) < 10 and int(name) < len(names))):
        return int(name)
    listed = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    has = f"has the classes {listed}" if names else _without_labels(run)
    raise InputError(f"there is no class {name!r}: this model {has}")


def _without_labels(run: Run) -> str:
    """Why there is no label to choose, and what would give one if anything does."""
    if not run.data.held_out.num_classes:
        return f"was trained on data without labels ({run.config.data.name})"
    return "was trained without labels: train it in a new workdir with --config.data.labels=True to choose"


def samples(run: Run, *, n: int, seed: int = 0, labels: np.ndarray | None = None) -> Samples:
    """Draws n samples with the config's sampler; sample i depends on `seed` and i alone.

    Args:
      run: with trained parameters.
      n: number of samples.
      seed: of the samples.
      labels: classes `(n,)` of a conditional model, −1 for any; None is −1 for all.

    Raises:
      InputError: of labels that the model doesn't have.
    """
    labels = _checked_labels(run, n, labels)
    drawn = draw(run.config, run.model, run.data.train.shape, n=n, seed=seed, labels=labels)
    return drawn._replace(x=_in_data_units(run, drawn.x), path=_in_data_units(run, drawn.path))


def draw(
    config: ConfigDict,
    model: ScoreModel,
    shape: tuple[int, ...],
    *,
    n: int,
    seed: int,
    labels: np.ndarray | None = None,
) -> Samples:
    """Draws n samples of one `shape` from any score model with the config's sampler, in the model's own units."""
    memory.require({f"{n} samples of shape {shape}": memory.of_batches(shape, n, 2)})
    sde, config = model.sde, build.with_step_size(config, model.sde)
    drawn = generate.draw_many(
        jax.random.fold_in(jax.random.key(seed), _SAMPLING),
        model,
        partial(build.sampler, config),
        build.grid(config, sde),
        shape,
        n=n,
        batch_size=config.sampler.batch_size,
        start=build.start(config, sde),
        transform=partial(build.thresholded, config),
        labels=labels,
        denoise=config.sampler.denoise,
        progress=partial(tqdm, desc="sampling", unit="batch", dynamic_ncols=True, disable=None),
    )
    broken = measures.not_finite(drawn.x)
    if broken:
        _log.warning("%d of %d samples are not finite: the sampler diverged, try more or smaller steps", broken, n)
    return drawn


def _checked_labels(run: Run, n: int, labels: np.ndarray | None) -> np.ndarray | None:
    classes = run.data.train.num_classes
    if not classes:
        if labels is not None:
            raise InputError(f"this model {_without_labels(run)}")
        return None
    labels = np.full(n, -1, np.int32) if labels is None else np.asarray(labels)
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise InputError(f"labels must be {n} integers, got {labels.dtype} of shape {labels.shape}")
    if labels.min() < -1 or labels.max() >= classes:
        raise InputError(f"labels must be 0 to {classes - 1}, or -1 for any, got {labels.min()} to {labels.max()}")
    if labels.min() < 0 and not run.config.training.label_dropout:
        raise InputError("this model never trained without labels (training.label_dropout is 0): give every label")
    return labels.astype(np.int32)


def _in_data_units(run: Run, x: np.ndarray) -> np.ndarray:
    """Images of grey levels from the training range to [0, 1]; other data were trained on as they are."""
    if not run.data.train.levels:
        return x
    return np.asarray(datasets.images.from_range(jnp.asarray(x), *build.value_range(run.config)))


def _pool(source: Source, n: int) -> dict[str, np.ndarray]:
    """The first n examples, images of grey levels as floats in [0, 1]."""
    if not len(source):
        return {"x": np.empty((0, *source.shape), np.float32)}
    batch = source.batch(np.arange(min(n, len(source))))
    x = batch["x"]
    return {**batch, "x": x / np.float32(source.levels - 1) if source.levels else x}


def draw_pictures(
    run: Run, drawn: Samples | None = None, folder: Path | None = None, *, labels: np.ndarray | None = None
) -> list[Path]:
    """Writes the pictures of samples into samples/; returns their paths.

    Args:
      run: with trained parameters.
      drawn: of `samples`; by default `config.sampler.n` new ones, of every class in turn where there are classes.
      folder: another folder to write into.
      labels: of `drawn`, so that the classes are named.
    """
    if drawn is None:
        n = run.config.sampler.n
        labels = classes_in_turn(run, n)
        drawn = samples(run, n=n, labels=labels)
    folder = run.workdir / "samples" if folder is None else folder
    if run.data.oracle is not None:
        data = _pool(run.data.held_out, _SHOWN)["x"]
        return pictures.of_points(folder, drawn.x, _flow(run), data, run.data.oracle)
    if len(run.data.train.shape) != 3:
        return []  # vectors have no picture
    sigmas = np.exp(-0.5 * np.asarray(run.model.sde.log_snr(drawn.times)))
    train = _pool(run.data.train, _NEIGHBOUR_POOL)["x"]
    # Black and white are the data's own extremes where they are not grey levels.
    low, high = (0.0, 1.0) if run.data.train.levels else (float(train.min()), float(train.max()))
    x, path, train = ((v - low) / (high - low or 1.0) for v in (drawn.x, drawn.path, train))
    columns = len(datasets.occurring(run.data.train))
    columns = columns if 2 <= columns <= 12 else 8
    names = _names_of_columns(run.data.train.names, labels, columns)
    return pictures.of_images(folder, x, path, sigmas, train, columns=columns, names=names)


def _names_of_columns(names: tuple[str, ...], labels: np.ndarray | None, columns: int) -> list[str]:
    """What the classes of samples laid out in columns are called, if each column is of one."""
    if labels is None or not np.array_equal(labels, np.resize(labels[:columns], len(labels))):
        return []
    return ["any" if label < 0 else names[label] for label in labels[:columns]]


def _flow(run: Run, particles: int = 48, steps: int = 60) -> np.ndarray:
    """Ways of particles along the probability flow from the prior to the data, `(steps, particles, *S)`."""
    shape, ts = (particles, *run.data.train.shape), grids.log_snr(run.model.sde, steps + 1)
    key = jax.random.key(run.config.seed)
    draw = jax.jit(lambda model: generate.draw(key, model, sampling.heun, ts, shape, traced=particles))
    return np.asarray(draw(run.model).path)


def draw_figures(run: Run) -> list[Path]:
    """Writes the figures of training, and of the score where it is known, into figures/; returns their paths."""
    folder, oracle, sde = run.workdir / "figures", run.data.oracle, run.model.sde
    written = pictures.of_losses(folder, read_jsonl(run.workdir / "metrics.jsonl"))
    if oracle is None:
        return written
    error = measures.score_error(run, run.config.seed)
    sigma = float(np.exp(-1))  # small enough to see the modes, large enough to be learned
    t = sde.time(jnp.asarray(-2 * np.log(sigma)))
    field = jax.jit(lambda x: run.model(x, t))
    data = _pool(run.data.held_out, _SHOWN)["x"]
    written += pictures.of_field(folder, field, oracle.perturbed(sde, t), data, sigma=sigma)
    return written + pictures.of_score_error(folder, error.sigma, error.relative)


def evaluate(run: Run, *, seed: int | None = None, folder: Path | None = None) -> dict[str, Any]:
    """Measures the trained model and writes evaluation.json and its figures; returns the numbers.

    What cannot be measured is left out, and "left_out" says why. The folder is one of evaluations/, named after what
    sets this evaluation apart; evaluation.json of the run is the newest checkpoint's by the run's own sampler.

    Args:
      run: with trained parameters.
      seed: of the samples and of what measures draw; None is the config's.
      folder: another folder to write into.
    """
    seed = run.config.seed if seed is None else seed
    subject, nfe = _subject(run, seed)
    numbers = _of_evaluation(run, seed)
    numbers |= {"n": len(subject.drawn), "not_finite": measures.not_finite(subject.drawn), "nfe": nfe}
    numbers |= measures.measure(subject, measures.of(subject))
    chosen = evaluation_folder(run, seed) if folder is None else folder
    chosen.mkdir(parents=True, exist_ok=True)
    write_json(chosen / "evaluation.json", numbers)
    pictures.of_evaluation(chosen, numbers)
    if folder is None and _is_newest_of_its_own(run, seed):
        write_json(run.workdir / "evaluation.json", numbers)
    return numbers


def evaluation_folder(run: Run, seed: int) -> Path:
    """Returns where `evaluate` writes by default."""
    return run.workdir / "evaluations" / records.name_of(_of_evaluation(run, seed))


def _of_evaluation(run: Run, seed: int) -> Conditions:
    config = as_json(run.config)
    return {**conditions(run, seed), "evaluation_settings": config["evaluation"], "data_root": config["data"]["root"]}


def conditions(run: Run, seed: int) -> Conditions:
    """Returns what sets samples of a run apart: the checkpoint's step, the seed, the sampler and its settings."""
    return {"step": int(run.state.step), **records.of_sampling(run.config, run.model.sde, seed)}


def _is_newest_of_its_own(run: Run, seed: int) -> bool:
    """Whether it is an evaluation by the sampler of config.json, of no older checkpoint than evaluation.json's."""
    path, config = run.workdir / "evaluation.json", as_json(run.config)
    own = checkpoint.read_config(run.workdir) if (run.workdir / "config.json").exists() else config
    same = all(own[name] == config[name] for name in ("evaluation", "data"))
    if not same or seed != own["seed"] or records.heeded(own["sampler"]) != records.heeded(config["sampler"]):
        return False
    try:
        return json.loads(path.read_text())["step"] <= int(run.state.step)
    except (OSError, ValueError, TypeError, KeyError):
        return True  # there is none, or what is there is damaged


def _subject(run: Run, seed: int) -> tuple[measures.Subject, int]:
    """Draws what is measured, of every class in turn too where there are classes; and network calls of a batch."""
    n, source = run.config.evaluation.n, run.data.train
    labels = classes_in_turn(run, n)
    drawn, conditional = samples(run, n=n, seed=seed, labels=labels), None
    if labels is not None:
        conditional = _as_stored(source, drawn.x), labels
        if run.config.training.label_dropout:
            drawn = samples(run, n=n, seed=seed)
    # Judged against everything there is to know of images: labels too, which an unconditional model never saw.
    judged = len(source.shape) == 3 and run.data.held_out.num_classes and not source.num_classes
    labelled = build.data(_with_labels(run.config)).train if judged else source
    subject = measures.Subject(
        run,
        seed,
        _as_stored(source, drawn.x),
        conditional,
        _pool(labelled, _NEIGHBOUR_POOL),
        _pool(run.data.held_out, _NEIGHBOUR_POOL),
        labelled.names,
    )
    return subject, drawn.nfe


def _as_stored(source: Source, x: np.ndarray) -> np.ndarray:
    """Samples in the data's own range: of grey levels, clipped to [0, 1]."""
    return x.clip(0, 1) if source.levels else x


def samples_folder(run: Run, n: int, seed: int, labels: np.ndarray | None) -> Path:
    """Returns the folder in samples/ that is of these samples alone."""
    return run.workdir / "samples" / records.name_of(_of_samples(run, n, seed, labels))


def _of_samples(run: Run, n: int, seed: int, labels: np.ndarray | None) -> Conditions:
    told = {**conditions(run, seed), "n": n}
    if labels is None:
        return told
    if (labels == labels[0]).all():
        return {**told, "label": int(labels[0])}
    turn = classes_in_turn(run, n)
    in_turn = turn is not None and np.array_equal(labels, turn)
    return {**told, "labels": "in turn" if in_turn else labels.tolist()}


def save_samples(run: Run, drawn: Samples, folder: Path, *, seed: int, labels: np.ndarray | None = None) -> Path:
    """Writes samples.npz of what `samples` drew: images of grey levels clipped to [0, 1], other data as they are."""
    told = _of_samples(run, len(drawn.x), seed, labels)
    told["units"] = "images, clipped to [0, 1]" if run.data.train.levels else "the data's own"
    names = None if labels is None else np.array(run.data.train.names)
    return records.write_samples(folder, _as_stored(run.data.train, drawn.x), told, label=labels, names=names)


def _with_labels(config: ConfigDict) -> ConfigDict:
    config = config.copy_and_resolve_references()
    config.data.labels = True
    return config
