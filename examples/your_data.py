"""Your own data: an array or a folder of images becomes a trained, sampled and checked model, by the lab.

    python examples/your_data.py                                  # 4,000 sine waves made here: 17 core-seconds
    python examples/your_data.py mine.npy --workdir=runs/mine     # floating-point examples (N, *S), or uint8 images
    python examples/your_data.py photographs --workdir=runs/mine --size=32

prints the energy distance of samples to held-out examples, beside that of training examples, which is what a perfect
model has; and leaves samples.npy in an ordinary run folder (checkpoints, figures, evaluation.json) that
`experiments/sample.py` and the other commands read. The same command again goes on where it was stopped.
"""

import argparse
from pathlib import Path

import numpy as np

from score_jax import data, metrics
from score_jax.lab import build, evaluation, run, samples, settings, show

SMALL = 1000  # numbers of an example, up to which an MLP will do


def source_of(path, size=0, channels=3):
    """Returns examples as a `data.Source` (a length, a shape, `batch(rows)`), and what gives samples their units."""
    if Path(path).is_dir():
        return data.folder(path, size=size or None, channels=channels, convert=True), np.asarray
    x = np.asarray(data.array_file(path).x)
    if x.dtype == np.uint8:
        return data.ArraySource(x), np.asarray
    mean, std = x.mean(0), x.std()  # networks and noise levels suit data of variance one
    return data.ArraySource((x - mean) / std), lambda drawn: std * drawn + mean


def config_of(source, steps):
    """Returns settings that suit data of variance one; `score_jax/lab/settings.py` explains each, and has more."""
    config = settings.get_config()
    config.data.value_range = (-1.0, 1.0)  # of images
    config.sde.name = "vp"
    config.parameterization.name = "v"
    config.network.name = "mlp" if np.prod(source.shape) <= SMALL else "unet"
    config.network.mlp.hidden = (256, 256, 256)
    config.optimizer.schedule = "cosine"
    config.training.steps = config.training.checkpoint_every = steps
    config.sampler.name, config.sampler.grid, config.sampler.steps = "ddim", "log_snr", 50
    config.evaluation.n = round(config.data.holdout * len(source))
    return config


def energy_distance(measured):
    """A measure of your own, (measured) -> numbers: of samples, and of training examples, to held-out ones."""
    held_out = measured.held_out["x"]
    n = len(held_out)
    return {
        "samples": metrics.energy_distance(measured.samples[:n], held_out),
        "training_examples": metrics.energy_distance(measured.train["x"][:n], held_out),
    }


def main(path, workdir, *, steps=5000, size=0, channels=3):
    source, in_units = source_of(path, size, channels)
    measures = {"energy_distance": energy_distance}
    experiment = build.experiment(config_of(source, steps), data=source, measures=measures)
    trained = run.train(experiment, workdir)
    show.show_run(trained)
    np.save(Path(workdir) / "samples.npy", in_units(samples.draw_samples(trained, n=1000).x))
    numbers = evaluation.evaluate(trained)
    print(f"{len(source)} examples {source.shape}; energy distance to {numbers['n']} held-out ones:")
    print("samples {samples:.4f}, training examples {training_examples:.4f}".format(**numbers))
    return numbers


def sine_waves(n=4000):
    """Returns (n, 32): in each row a sine wave around 5, of random phase and amplitude, with noise of 0.1."""
    rng = np.random.default_rng(0)
    phase, amplitude = rng.uniform(0, 2 * np.pi, (n, 1)), rng.uniform(0.5, 1.5, (n, 1))
    waves = 5 + amplitude * np.sin(np.linspace(0, 4 * np.pi, 32)[None] + phase)
    return (waves + 0.1 * rng.standard_normal(waves.shape)).astype(np.float32)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", help=".npy, .npz, or a folder of images")
    parser.add_argument("--workdir", type=Path, default=Path("runs/your_data"))
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument(
        "--size", type=int, default=0, help="of images, to which they are scaled and cut; 0: as they are"
    )
    parser.add_argument("--channels", type=int, default=3, help="of images: 1 or 3")
    given = parser.parse_args()
    if given.path is None:
        given.path = given.workdir.with_suffix(".npy")
        given.path.parent.mkdir(parents=True, exist_ok=True)
        np.save(given.path, sine_waves())
    main(**vars(given))
