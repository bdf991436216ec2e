"""Makes the README's picture: points that follow an exact score, and images that follow a learned one.

    python docs/pictures/front.py --workdir=runs/ncsnv2

The run is of `configs/fashion_mnist.py:ncsnv2`, trained with --config.data.root=FOLDER: images by annealed Langevin
dynamics, points by Heun's steps of the probability flow. The same seed gives the same picture.
"""

import argparse
from io import BytesIO
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from score_jax import data, distributions, sampling, sde
from score_jax.lab import build, run, settings

ROWS, COLUMNS, STEPS, POINTS = 5, 10, 24, 600
EXTENT = (-3.5, 3.5, -3.5, 3.5)


def of_points() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns 600 points of eight Gaussians at each step `(K, N, 2)`, and arrows (places, scores at each step)."""
    process, truth = sde.EDM(0.02, 3.0), distributions.GaussianMixture(*data.toy.components("eight_gaussians"))
    score, ts = distributions.score_of(truth, process), sampling.grids.karras(process, STEPS + 1)
    start = process.prior_sample(jax.random.key(0), (POINTS, 2))
    state_x = lambda state: state.x
    _, points = sampling.sample(jax.random.key(1), sampling.heun(process, score), start, ts, trace=state_x)
    lattice = np.stack(np.meshgrid(*[np.linspace(-3.2, 3.2, 17)] * 2), -1).reshape(-1, 2).astype(np.float32)
    arrows = jax.lax.map(lambda t: score(jnp.asarray(lattice), t) * process.sigma(t), ts)
    return np.concatenate([start[None], points]), lattice, np.asarray(arrows)


def of_images(workdir: str) -> np.ndarray:
    """Returns images at 24 steps, `(K, N, H, W)`, of the same contrast at every noise level; 0 is black, 1 white."""
    trained = run.restore(build.experiment(settings.of_run(workdir)), workdir)
    made, n = trained.sampling, ROWS * COLUMNS
    options = {"traced": n, "frames": STEPS, "start": made.start, "transform": made.transform}
    shape = (n, *trained.examples.shape)
    draw = jax.jit(lambda m: sampling.draw.draw_batch(jax.random.key(3), m, made.make, made.ts, shape, **options))
    drawn = draw(trained.model)
    low, high = trained.examples.value_range
    ts = made.ts[1:][sampling.grids.evenly(len(made.ts) - 1, STEPS)]
    noise = np.sqrt(np.asarray(trained.model.sde.variance(ts))) / ((high - low) / 2)
    path = (np.asarray(drawn.path)[..., 0] - low) / (high - low) - 0.5
    path /= np.sqrt(1 + noise**2)[:, None, None, None]
    return np.concatenate([path + 0.5, (np.asarray(drawn.x)[None, ..., 0] - low) / (high - low)])


def frame(points: np.ndarray, lattice: np.ndarray, arrows: np.ndarray, images: np.ndarray) -> Image.Image:
    """Returns both halves at one step."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), width_ratios=(1, 2), dpi=100)
    left.quiver(*lattice.T, *arrows.T, color="0.65", scale=40, width=0.004)
    left.scatter(*points.T, s=2, color="tab:blue", linewidths=0)
    left.axis(EXTENT)
    side = images.shape[-1]
    tiled = images.reshape(ROWS, COLUMNS, side, side).transpose(0, 2, 1, 3).reshape(ROWS * side, COLUMNS * side)
    right.imshow(tiled, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    for axes in (left, right):
        axes.set_axis_off()
    figure.subplots_adjust(0.005, 0.01, 0.995, 0.99, 0.01)
    file = BytesIO()
    figure.savefig(file)
    plt.close(figure)
    return Image.open(file).convert("RGB")


def main() -> None:
    """Writes front.gif beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True)
    given = parser.parse_args()
    points, lattice, arrows = of_points()
    images = of_images(given.workdir)
    last = lambda values, i: values[min(i, len(values) - 1)]
    frames = [frame(points[i], lattice, last(arrows, i), last(images, i)) for i in range(len(points))]
    frames = [picture.quantize(48, dither=Image.Dither.NONE) for picture in frames]
    path = Path(__file__).with_name("front.gif")
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[120] * (len(frames) - 1) + [3000], loop=0)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {len(frames)} frames")


if __name__ == "__main__":
    main()
