"""A run: a config, the objects built from it, and a folder with what came of them.

    run = new(config, workdir);  result = train(run)          # experiments/train.py
    run = load(workdir, config);  samples(run), evaluate(run)  # experiments/sample.py, evaluate.py

Images of grey levels are handed out in [0, 1], floating-point data and points in their own units.
"""

import contextlib
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

from score_jax import build, evaluation, generate, pictures, sampling, training
from score_jax import data as datasets
from score_jax.build import Data
from score_jax.command import as_json
from score_jax.data import Source
from score_jax.generate import Samples
from score_jax.plotting import histogram_classes, save
from score_jax.sampling import grids
from score_jax.score import ScoreModel
from score_jax.training import TrainState, checkpoint
from score_jax.training.logging import read_jsonl, write_json
from score_jax.training.step import level_sigmas
from score_jax.types import InputError, Key

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

    The sampler and its grid are built and thrown away: a misspelt one should not be found out after the training.
    """
    build.check(config)
    data = build.data(config)
    model = build.model(config, data.train)
    build.sampler(config, model.sde, build.thresholded(config, model.sde, model))
    build.grid(config, model.sde)
    build.start(config, model.sde)
    key = jax.random.key(config.seed)
    return Run(config, Path(workdir), data, model, training.create(key, model.variables, build.optimizer(config)))


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
            manager, run.state, config=as_json(config), may_differ=may_differ(config), step=step
        )
    if restored is None:
        raise InputError(f"{workdir} has no checkpoint yet: train first, or give another workdir")
    return run.with_state(restored.state)


def plan(run: Run) -> str:
    """Returns what training will do, in two lines."""
    config, source = run.config, run.data.train
    parameters = sum(leaf.size for leaf in jax.tree.leaves(run.state.params))
    named = ", ".join(source.names[:12]) + (", …" if source.num_classes > 12 else "")
    conditional = f", {source.num_classes} classes ({named})" if source.num_classes else ""
    return (
        f"{config.data.name}: {len(source)} examples of shape {source.shape}{conditional}; {config.network.name} with "
        f"{parameters:,} parameters ({config.parameterization.name}); {config.objective.name} on {config.sde.name}\n"
        f"{config.training.steps} steps of batch {config.training.batch_size} into {run.workdir}"
    )


def train(run: Run) -> training.Result:
    """Trains from the run's last checkpoint, or from the start, to `config.training.steps`."""
    config, options, mesh = run.config, run.config.training, training.data_mesh()
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
        steps_per_batch=options.steps_per_dispatch,
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
            steps_per_dispatch=options.steps_per_dispatch,
            log_every=options.log_every,
            checkpoint_every=options.checkpoint_every,
            keep_last=options.keep_last,
            keep_every=options.keep_every or None,
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
    has = f"has the classes {listed}" if names else "was trained without labels (--config.data.labels=True)"
    raise InputError(f"there is no class {name!r}: this model {has}")


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
    sde = model.sde
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
    broken = n - int(_finite(drawn.x).sum())
    if broken:
        _log.warning("%d of %d samples are not finite: the sampler diverged, try more or smaller steps", broken, n)
    return drawn


def _finite(x: np.ndarray) -> np.ndarray:
    """Which rows of `x` `(n, *S)` are finite, `(n,)`."""
    return np.isfinite(x.reshape(len(x), -1)).all(1)


def _checked_labels(run: Run, n: int, labels: np.ndarray | None) -> np.ndarray | None:
    classes = run.data.train.num_classes
    if not classes:
        if labels is not None:
            raise InputError("this model was trained without labels: train with --config.data.labels=True to choose")
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
    error = _score_error(run, oracle)
    t = sde.time(jnp.asarray(2.0))  # σ/α = e⁻¹: small enough to see the modes, large enough to be learned
    field = jax.jit(lambda x: run.model(x, t))
    data = _pool(run.data.held_out, _SHOWN)["x"]
    written += pictures.of_field(folder, field, oracle.perturbed(sde, t), data)
    return written + pictures.of_score_error(folder, error.sigma, error.relative)


def _score_error(run: Run, oracle: Any) -> Any:
    return evaluation.score_error(
        evaluation.keys(run.config.seed, 1)[0], run.model, oracle, run.config.evaluation.levels
    )


def evaluate(run: Run) -> dict[str, Any]:
    """Measures the trained model, writes evaluation.json and figures, and returns the numbers.

    Raises:
      InputError: where bits per dimension are asked for of data that have no grey levels; when samples diverged; where
        nothing was held out.
    """
    if not len(run.data.held_out):
        raise InputError(
            "nothing was held out to measure against (data.holdout=0): train in a new workdir with "
            "--config.data.holdout=0.1, or a number of examples"
        )
    asked = [name for name in ("likelihood_n", "bound_n") if run.config.evaluation[name]]
    if run.config.evaluation.likelihood_n and run.config.network.attention_implementation == "cudnn":
        raise InputError(
            "the likelihood needs derivatives that cuDNN's attention has not: set "
            "--config.network.attention_implementation=xla, which the same parameters serve"
        )
    if asked and not run.data.held_out.levels:
        raise InputError(
            f"bits per dimension are of grey levels, which {run.config.data.name!r} has not: "
            f"set --config.evaluation.{asked[0]}=0"
        )
    numbers: dict[str, Any] = {
        "step": int(run.state.step),
        "ema": run.config.sampler.ema,
        "seed": run.config.seed,
        "sampler": run.config.sampler.name,
        "sampler_steps": len(build.grid(run.config, run.model.sde)) - 1,
    }
    numbers |= _held_out_loss(run)
    numbers |= _evaluate_images(run) if len(run.data.train.shape) == 3 else _evaluate_points(run)
    write_json(run.workdir / "evaluation.json", numbers)
    return numbers


def _held_out_loss(run: Run) -> dict[str, Any]:
    config, mesh = run.config, training.data_mesh()
    rows = max(256 // mesh.size, 1) * mesh.size
    batch = run.data.held_out.batch(np.arange(rows) % len(run.data.held_out))
    labels = _labels_of(run, batch)
    stacked = {"x": batch["x"][None]} | ({} if labels is None else {"label": labels[None]})
    evaluate = training.make_eval_step(
        run.model,
        build.objective(config, run.model.sde, run.data.oracle),
        mesh=mesh,
        prepare=build.prepare(config, run.data.train),
        levels=config.evaluation.levels,
        ema=config.sampler.ema,
    )
    sigmas = level_sigmas(run.model.sde, config.evaluation.levels)
    return evaluation.held_out_loss(evaluate, run.state, training.put_batches(stacked, mesh), sigmas)


def _evaluate_points(run: Run) -> dict[str, Any]:
    n = min(run.config.evaluation.n, len(run.data.held_out) // 2)
    drawn, nfe = _drawn_to_measure(run, n, None)
    data, key = _pool(run.data.held_out, 2 * n)["x"], evaluation.keys(run.config.seed, 2)[1]
    numbers = {"nfe": nfe, **evaluation.of_points(key, drawn, data[:n], data[n:], run.config.data.name)}
    if run.data.oracle is None:
        return numbers
    error = _score_error(run, run.data.oracle)
    by_sigma = {f"{s:.4g}": float(e) for s, e in zip(np.asarray(error.sigma), np.asarray(error.relative), strict=True)}
    pictures.of_score_error(run.workdir / "figures", error.sigma, error.relative)
    return {"relative_score_error_by_sigma": by_sigma, **numbers}


def _evaluate_images(run: Run) -> dict[str, Any]:
    config, n = run.config, run.config.evaluation.n
    labels = classes_in_turn(run, n)
    drawn, nfe = _drawn_to_measure(run, n, labels)
    conditional = None if labels is None else (drawn, labels)
    if conditional and config.training.label_dropout:
        drawn, nfe = _drawn_to_measure(run, n, None)
    # Judged against everything there is to know of the data: labels too, which an unconditional model never saw.
    labelled = build.data(_with_labels(config)).train if "label" in run.data.held_out.batch(np.arange(1)) else None
    train = _pool(labelled or run.data.train, _NEIGHBOUR_POOL)
    numbers: dict[str, Any] = {"nfe": nfe}
    numbers |= evaluation.of_images(drawn, train, _pool(run.data.held_out, _NEIGHBOUR_POOL), conditional)
    if "class_shares" in numbers:
        shares = np.array(numbers["class_shares"]), np.array(numbers["data_class_shares"])
        names = [(labelled or run.data.train).names[label] for label in np.unique(train["label"])]
        numbers["class_names"] = names
        save(histogram_classes(*shares, classes=names), run.workdir / "figures" / "classes.png")
    numbers |= likelihood(run) if config.evaluation.likelihood_n else {}
    return numbers | (bound(run) if config.evaluation.bound_n else {})


def likelihood(run: Run, *, t_min: float | None = None, t_max: float | None = None) -> dict[str, Any]:
    """Returns bits per dimension of `evaluation.likelihood_n` held-out images by the probability flow.

    The images are dequantized whether or not training's were, and have no label where the model can do without.

    Args:
      run: a trained run.
      t_min: where the flow starts; else the least noisy time of training: the first knot of a table whose knots alone
        it drew from.
      t_max: where the flow ends, in the prior; else the SDE's.
    """
    config, sde = run.config, run.model.sde
    key_noise, key_probes = evaluation.keys(config.seed, 4)[2:]
    x, labels = _held_out(run, config.evaluation.likelihood_n, key_noise, dequantize=True)
    low, high = build.value_range(config)
    if t_min is None:
        t_min = float(build.level_times(config, sde)[-1] if config.times.name == "knots" else sde.t_min)
    return evaluation.likelihood(
        key_probes,
        run.model,
        x,
        labels,
        levels=run.data.held_out.levels,
        data_range=high - low,
        t_min=t_min,
        t_max=float(sde.t_max if t_max is None else t_max),
        n_probes=config.evaluation.likelihood_probes,
        tolerance=config.evaluation.likelihood_tolerance,
        batch_size=config.sampler.batch_size,
    )


def bound(run: Run) -> dict[str, Any]:
    """Returns the variational bound of `evaluation.bound_n` held-out images, in bits per dimension, with its parts.

    It is of the config's ancestral sampler and of images as they were trained on: dequantized, or the grey levels.
    """
    config, levels = run.config, run.data.held_out.levels
    key_noise, key_steps = evaluation.keys(config.seed, 6)[4:]
    x, labels = _held_out(run, config.evaluation.bound_n, key_noise, dequantize=config.data.dequantize)
    low, high = build.value_range(config)
    of = f"{levels} grey levels, {'uniformly dequantized' if config.data.dequantize else 'as stored'}"
    return evaluation.bound(
        key_steps,
        build.bound(config, run.model.sde, levels),
        run.model,
        x,
        labels,
        convention=f"bits per dimension of {of}; variational bound of {config.sampler.steps} ancestral steps",
        offset=float(np.log2(levels / (high - low))) if config.data.dequantize else 0.0,
        batch_size=config.sampler.batch_size,
    )


def _held_out(run: Run, n: int, key: Key, *, dequantize: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """The first n held-out images in the range of training, and labels as `_labels_of` has them."""
    config, source = run.config.copy_and_resolve_references(), run.data.held_out
    config.data.dequantize, config.data.flip = dequantize, False
    batch = source.batch(np.arange(min(n, len(source))))
    return np.asarray(build.prepare(config, source)(key, jnp.asarray(batch["x"]))), _labels_of(run, batch)


def _labels_of(run: Run, batch: dict[str, np.ndarray]) -> np.ndarray | None:
    """Labels to measure a batch with: none, −1, of a model that can do without, else its own."""
    if not run.data.train.num_classes:
        return None
    return np.full(len(batch["x"]), -1, np.int32) if run.config.training.label_dropout else batch["label"]


def _drawn_to_measure(run: Run, n: int, labels: np.ndarray | None) -> tuple[np.ndarray, int]:
    """Draws n samples, grey levels clipped to [0, 1], all finite: others have no distance to anything; and the NFE."""
    drawn = samples(run, n=n, seed=run.config.seed, labels=labels)
    x, finite = drawn.x, _finite(drawn.x)
    if not finite.all():
        raise InputError(
            f"{n - finite.sum()} of {n} samples are not finite, so there is nothing to measure: the sampler "
            f"{run.config.sampler.name} diverged; give it more or smaller steps, or train longer"
        )
    return x.clip(0, 1) if run.data.train.levels else x, drawn.nfe


def _with_labels(config: ConfigDict) -> ConfigDict:
    config = config.copy_and_resolve_references()
    config.data.labels = True
    return config
