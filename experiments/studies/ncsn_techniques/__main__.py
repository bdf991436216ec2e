"""From NCSN to NCSNv2, one technique after another, on Fashion-MNIST of 14×14 pixels: `make techniques`.

    python -m experiments.studies.ncsn_techniques

Every cell is the one before with one thing changed, so cells that differ in sampling alone share a training. All take
as many network calls a sample. Each is judged by what `experiments/evaluate.py` reports, and by distances between the
features of its classifier; the first and the last also complete images of which the left half is given.
"""

import resource
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from configs import ncsn
from experiments.studies import study
from score_jax import arrays, conditioning, metrics, noise_levels, plotting, sampling
from score_jax import data as datasets
from score_jax.conditioning.operators import Mask
from score_jax.data import Source
from score_jax.lab import build, samples
from score_jax.lab import run as runs
from score_jax.lab.build.data import data as data_of
from score_jax.lab.experiment import Run
from score_jax.lab.measures import classes
from score_jax.types import Array, Key

SIZE, FEATURES = 14, 16
STEPS, BATCH = 1200, 32
SAMPLES, CALLS = 256, 220  # network calls a sample: L·T
TRAIN, HELD_OUT, COMPLETED = 20_000, 2000, 128  # images: training images and held-out images compared with, completed
Batch = Mapping[str, np.ndarray]


def baseline(seed: int, steps: int) -> ConfigDict:
    """Returns NCSN with its published settings (`configs/ncsn.py`) but for what a CPU has no time for."""
    config = ncsn.get_config("mnist")
    config.seed = seed
    config.data.update(name="fashion_mnist", size=SIZE)
    config.network.ncsn.features = config.network.ncsnv2.features = FEATURES
    config.optimizer.update(clip_norm=1.0, eps=1e-8 / SIZE**2)
    config.training.update(batch_size=BATCH, steps=steps, checkpoint_every=steps, log_every=steps, keep_every=0)
    # The average is always kept, since that changes nothing; `sampler.ema` says whether it is sampled. Of so few steps
    # an average without warm-up would be the initial parameters for a good part: 0.999^1200 = 0.30.
    config.training.update(ema_decay=0.999, ema_warmup=True)
    config.sampler.annealed_langevin.n_steps = CALLS // config.sampler.steps
    config.sampler.update(n=SAMPLES, batch_size=64)
    return config


def techniques(sigma_max: float, dims: int, sigma_min: float) -> dict[str, dict[str, Any]]:
    """Returns what each cell changes in the one before it, as dotted keys of a config."""
    levels = noise_levels.count(sigma_max, sigma_min, dims)
    n_steps = CALLS // levels
    found = noise_levels.recommend(sigma_max, dims, sigma_min=sigma_min, n_steps=n_steps)
    steps = {"sampler.steps": levels, "sampler.annealed_langevin.n_steps": n_steps}
    return {
        "NCSN": {},
        "+ 1: largest level": {"sde.ve.sigma_max": round(sigma_max, 2)},
        "+ 2: number of levels": {"times.discrete.n": levels, **steps},
        "+ 3: net(x)/σ": {"network.name": "ncsnv2"},
        "+ 4: step size": {"sampler.annealed_langevin.step_size": found.step_size},
        "+ 5: average": {"sampler.ema": True},
        "+ denoising": {"sampler.denoise": True},
    }


class Cell(NamedTuple):
    """A cell's settings, and its trained run."""

    config: ConfigDict
    run: Run


def trained(config: ConfigDict) -> Run:
    """Trains a network; nothing is kept on disk."""
    with tempfile.TemporaryDirectory() as folder:
        return runs.train(build.experiment(config), folder)


def cells(start: ConfigDict, changes: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Cell]]:
    """Yields every cell by its name, with the parameters of the one before where only the sampler has changed."""
    config, run = start.copy_and_resolve_references(), None
    for name, changed in changes.items():
        config.update_from_flattened_dict(dict(changed))
        now = config.copy_and_resolve_references()
        if run is None or not all(key.startswith("sampler.") for key in changed):
            run = trained(now)
        run = sampled_by(now, run)
        yield name, Cell(now, run)


def sampled_by(config: ConfigDict, run: Run) -> Run:
    """The trained parameters, or their average, with the sampler of a config."""
    experiment = replace(run.experiment, sampling=build.other_sampling(config, run))
    return runs.of_state(experiment, run.state, run.workdir)


def completed(key: Key, cell: Cell, images: Array, mask: np.ndarray) -> Array:
    """Draws what the mask hides of `images` `(B, H, W, C)`; the observation is renewed before every Langevin step."""
    options, how, ve = cell.config.sampler, cell.run.sampling, cell.run.model.sde
    operator, start, levels = Mask(mask), how.start, how.ts[1:]
    ts = jnp.append(levels[0], jnp.repeat(levels, options.annealed_langevin.n_steps))

    @jax.jit
    def draw(key: Key, model, y: Array) -> Array:
        one = sampling.annealed_langevin(ve, model, step_size=options.annealed_langevin.step_size, n_steps=1)
        key_start, key_steps = arrays.split(arrays.example_keys(key, len(y)))
        chain = conditioning.replacement(one, ve, operator, y)
        x = sampling.sample(key_steps, chain, start(key_start, y.shape), ts)
        end = ve.denoise(x, ts[-1], model(x, ts[-1])) if how.denoise else x
        return conditioning.impose(operator, end, y)

    return jnp.clip(draw(key, cell.run.model, images), 0, 1)


def jackknife(statistic: Callable[[np.ndarray], float], x: np.ndarray, groups: int = 8) -> float:
    """Returns the standard error of statistic(x), x's rows being independent, from leaving out a group at a time."""
    rows = np.arange(len(x)) % groups
    values = np.array([statistic(x[rows != group]) for group in range(groups)])
    return float(np.sqrt((groups - 1) * values.var()))


def row(name: str, images: np.ndarray, train: Batch, held_out: Batch, judge: metrics.Classifier) -> dict[str, Any]:
    """Returns a line of the table: `evaluate`'s numbers, and distances in pixels and in the judge's features."""
    judged = classes.shares(judge, images, (held_out["x"], held_out["label"]))
    in_pixels, in_features = (
        metrics.memorisation(images, train["x"], held_out["x"], features=features)
        for features in (None, judge.features)
    )
    return {
        "cell": name,
        "n": len(images),
        "confidence": judged["confidence"],
        "class total variation": judged["class_total_variation"],
        "copies": in_pixels.copies,
        "neighbour ratio": in_pixels.ratio,
        "neighbour ratio, features": in_features.ratio,
        **energy_distance("pixels", images, held_out["x"]),
        **energy_distance("features", judge.features(images), judge.features(held_out["x"])),
    }


_energy_distance = jax.jit(metrics.energy_distance)  # compiled once for all of a jackknife's samples


def energy_distance(of: str, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Returns the energy distance of x from y, over all elements, and its standard error over draws of x."""
    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
    distance = lambda x: float(_energy_distance(x, y))
    return {f"energy distance, {of}": distance(x), f"± (s.e.), {of}": jackknife(distance, x)}


def pool(source: Source, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Returns images in [0, 1] and their labels."""
    batch = source.batch(rows)
    return {**batch, "x": batch["x"] / np.float32(source.grey_levels - 1)}


def panels(named: Mapping[str, np.ndarray], side: int = 6) -> Figure:
    """Shows side² images of each cell, side by side."""
    with matplotlib.rc_context(plotting.STYLE):
        fig = Figure(figsize=(10.4, 5.6), layout="constrained")
        axes = fig.subplots(2, 4).ravel()
        for ax, (name, images) in zip(axes, named.items()):
            ax.imshow(plotting.grid_image(images[: side**2], side)[..., 0], cmap="gray", vmin=0, vmax=255)
            ax.set_title(name)
        for ax in axes:
            ax.set_axis_off()
    return fig


def nearest(images: np.ndarray, train: np.ndarray, features: metrics.neighbours.FeatureFunction | None) -> Figure:
    """Shows images beside their five nearest training images."""
    index, _ = metrics.nearest_neighbours(images, train, k=5, features=features)
    return plotting.neighbours(images, train[index])


def inpainting(named: Mapping[str, np.ndarray], columns: int = 12) -> Figure:
    """Shows images, what is given of them, and the completions, a row each."""
    rows = np.concatenate([images[:columns] for images in named.values()])
    return plotting.image_grid(rows, columns, title="from the top: " + ", ".join(named))


def core_minutes() -> float:
    """Time that this process has used on all cores together; other processes don't count, waiting doesn't either."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return (used.ru_utime + used.ru_stime) / 60


def completions(seed: int, ends: Mapping[str, Cell], truth: np.ndarray, mean: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the images completed by each run, and by the mean image, from their left half."""
    mask = np.arange(SIZE)[None, :, None] < SIZE // 2
    key, images = jax.random.key(seed), jnp.asarray(truth)
    drawn = {name: np.asarray(completed(key, cell, images, mask)) for name, cell in ends.items()}
    return {"given": np.where(mask, truth, 0.5), **drawn, "mean image": np.where(mask, truth, mean)}


def run(seed: int, steps: int = STEPS) -> study.Result:
    """Trains, draws and measures every cell."""
    start = baseline(seed, steps)
    start.data.labels = True
    sources = data_of(start)
    start.data.labels = False
    train = pool(sources.train, np.arange(TRAIN))
    held_out = pool(sources.held_out, np.arange(HELD_OUT))
    fresh = pool(sources.held_out, np.arange(HELD_OUT, HELD_OUT + SAMPLES))
    sigma_max = noise_levels.max_pairwise_distance(datasets.in_memory(sources.train).x) / 255
    judge = metrics.train_classifier(train["x"], train["label"])
    changes = techniques(sigma_max, SIZE**2, start.sde.ve.sigma_min)

    drawn, ends = {"held-out images": fresh["x"]}, {}
    rows = [row("held-out images", fresh["x"], train, held_out, judge)]
    for name, cell in cells(start, changes):
        x = samples.draw_samples(cell.run, n=SAMPLES, seed=seed).x
        drawn[name], ends[name] = x[np.isfinite(x).all((1, 2, 3))].clip(0, 1), cell
        rows.append(row(name, drawn[name], train, held_out, judge))
        print(f"{rows[-1]}, {core_minutes():.1f} core-minutes so far", flush=True)

    truth, labels = fresh["x"][:COMPLETED], fresh["label"][:COMPLETED]
    shown = {name: ends[name] for name in (next(iter(changes)), name)}
    filled = {"image": truth, **completions(seed, shown, truth, train["x"].mean(0))}
    right = [f"{name} {(judge.predict(x) == labels).mean():.2f}" for name, x in filled.items() if name != "given"]
    figures = {
        "samples.png": panels(drawn),
        "inpainting.png": inpainting(filled),
        "neighbours_pixels.png": nearest(drawn[name][:8], train["x"], None),
        "neighbours_features.png": nearest(drawn[name][:8], train["x"], judge.features),
    }
    levels, ladder = ends[name].config.sampler.steps, ends[name].config.sampler.annealed_langevin
    conditions = (
        f"One seed, {seed}; {steps:,} steps of batch {BATCH} in each of four trainings. Largest distance "
        f"{sigma_max:.2f}, hence {levels} levels, of {ladder.n_steps} steps, with ε = {ladder.step_size:.3g} by the "
        f"rule. The classifier names the right class of {COMPLETED} images completed from their left half: "
        f"{', '.join(right)}. {core_minutes():.0f} core-minutes of computing (its time on all cores together),"
    )
    return study.Result(rows, figures, conditions)


if __name__ == "__main__":
    study.main(__file__, run, __doc__)
