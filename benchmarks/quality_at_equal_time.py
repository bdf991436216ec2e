"""Samples after 20 minutes of training: `configs/fashion_mnist.py:fast` beside diffusers' U-Net, on this machine.

    pip install -e '.[peers]'
    python benchmarks/quality_at_equal_time.py

Both train on Fashion-MNIST, one after the other, for --minutes of the clock, compilation and reading included; then
both draw n images in at most 50 network calls each. diffusers' `UNet2DModel` (3,691,713 parameters; widths 32, 64, 128,
two blocks a level, attention at 14×14) learns as its tutorial has it: DDPM's noise prediction, batches of 64, Adam at
4e-4, an average of the parameters, flips, bfloat16 autocast. It draws by 50 steps of DDIM, compiled by torch, which
needs a C++ compiler and takes half the time: 50 images differ by 0.005 from those that are not compiled (root mean
square), as either from float32's. The config's length follows from its speed in a short run beforehand, which is no
part of the time. --steps repeats a training of diffusers' elsewhere, however long it takes there.

The Fréchet distance is to the 60,000 training images, in features of a small classifier of them that no choice was made
by (seed 1; the config was chosen by those of seed 0, which are given too), of all samples, and of the first 1,024,
which is biased upwards by more. Beside them stand as many held-out images. Nothing else should run meanwhile. A seed
takes four to five times --minutes; stopped and started again with the same command, it goes on with what is done, but
for a training of diffusers' that was cut off. Writes results.json, weights and samples into --out, and a picture,
samples.png; --page puts the table into README.md beside.
"""

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from own_training import shorten, training_rate
from run import HERE, rewrite
from timing import environment, table

from score_jax import backend, metrics
from score_jax.data import content_hash, fashion_mnist
from score_jax.lab import build, command, features, run, samples, settings
from score_jax.lab.features import images_of
from score_jax.lab.kept import Kept
from score_jax.training.logging import write_json

CONFIG = "configs/fashion_mnist.py:fast"
CALLS, BATCH, DRAWN, RATE = 50, 64, 250, 4e-4
FEW = 1024
AVERAGE = 0.999  # diffusers' EMAModel warms up as min(decay, (1 + n)/(10 + n))
_CLASSIFIERS = {"chosen by": 0, "not chosen by": 1}  # by seed


def of_diffusers() -> UNet2DModel:
    """Returns the network before training."""
    return UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(32, 64, 128),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )


def train_diffusers(images: np.ndarray, more: Callable[[int], bool], seed: int) -> tuple[UNet2DModel, int]:
    """Trains on images `(n, H, W, 1)` in [0, 1] while `more(steps done)`; returns the average, and how many it made."""
    torch.manual_seed(seed)
    network, schedule = of_diffusers().to(memory_format=torch.channels_last), DDPMScheduler()
    average, adam = copy.deepcopy(network), torch.optim.Adam(network.parameters(), lr=RATE)
    data, done = torch.from_numpy(2 * images - 1).permute(0, 3, 1, 2), 0
    while more(done):
        x = data[torch.randint(len(data), (BATCH,))]
        x = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, x.flip(-1), x)
        noise, t = torch.randn_like(x), torch.randint(1000, (BATCH,))
        noised = schedule.add_noise(x, noise, t).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = network(noised, t).sample
        loss = torch.nn.functional.mse_loss(predicted.float(), noise)
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        decay, done = min(AVERAGE, (1 + done) / (10 + done)), done + 1
        with torch.no_grad():
            for mean, new in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(new, 1 - decay)
    return average, done


def draw_diffusers(network: Callable[..., Any], n: int, seed: int) -> np.ndarray:
    """Returns images `(n, H, W, 1)`, black 0 and white 1, of 50 steps of DDIM, as diffusers' pipeline draws them."""
    schedule, noise = DDIMScheduler(), torch.Generator().manual_seed(seed)
    schedule.set_timesteps(CALLS)
    x = torch.randn(n, 1, 28, 28, generator=noise).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        for t in schedule.timesteps:
            with torch.autocast("cpu", torch.bfloat16):
                predicted = network(x, t).sample
            x = schedule.step(predicted.float(), t, x).prev_sample
    return (x.permute(0, 2, 3, 1).numpy() + 1) / 2


def theirs(out: Path, seed: int, n: int, seconds: float, *, steps: int) -> tuple[dict[str, Any], np.ndarray]:
    """Trains diffusers' network and draws, or goes on; returns a row of the table but for its distances, and images."""
    folder = out / f"diffusers-{f'{steps}steps' if steps else f'{seconds / 60:g}'}-{seed}"
    told = folder / "training.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not told.exists():
        begun = time.time()
        more = lambda done: done < steps if steps else time.time() < begun + seconds
        source = fashion_mnist()
        network, made = train_diffusers(images_of(source, np.arange(len(source))), more, seed)
        network.save_pretrained(folder / "network")
        write_json(told, {"steps": made, "minutes": (time.time() - begun) / 60})
    network = UNet2DModel.from_pretrained(folder / "network").eval().to(memory_format=torch.channels_last)
    compiled = torch.compile(network, options={"freezing": True})
    training = json.loads(told.read_text())
    kept = Kept(folder / "samples", {"seed": seed, **training})
    part = lambda first: lambda: {"x": draw_diffusers(compiled, DRAWN, 10_000 * seed + first)}
    x = np.concatenate([kept.once(f"{first}", part(first))["x"] for first in range(0, n, DRAWN)])[:n]
    parameters = sum(p.numel() for p in network.parameters())
    return {"what": "diffusers", "seed": seed, "parameters": parameters, **training, "calls": CALLS}, x


def steps_in(seconds: float) -> int:
    """Returns how many steps the config's training makes in that time, by its speed and its start here."""
    config = command.read_file(CONFIG)
    shorten(config, steps=120, log_every=20)
    with tempfile.TemporaryDirectory() as folder:
        rate = training_rate(build.experiment(config), Path(folder) / "run")
        begun = time.time()
        _train(["--config.training.steps=20"], Path(folder) / "start")
        start = time.time() - begun - 20 * config.training.batch_size / rate
    every = command.read_file(CONFIG).training.log_every
    return int((seconds - start) * rate / config.training.batch_size) // every * every


def _train(flags: list[str], workdir: Path) -> None:
    train = str(Path(__file__).resolve().parent.parent / "experiments" / "train.py")
    subprocess.run([sys.executable, train, f"--config={CONFIG}", f"--workdir={workdir}", *flags], check=True)


def ours(out: Path, seed: int, n: int, seconds: float) -> tuple[dict[str, Any], np.ndarray]:
    """Trains the config and draws, or goes on; returns a row of the table but for its distances, and images."""
    folder = out / f"score_jax-{seconds / 60:g}-{seed}"
    length, told = out / f"steps-{seconds / 60:g}.json", folder / "training.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not length.exists():
        write_json(length, {"steps": steps_in(seconds)})
    steps = json.loads(length.read_text())["steps"]
    if not told.exists():
        begun = time.time()
        _train([f"--config.training.steps={steps}", f"--config.seed={seed}"], folder / "run")
        write_json(told, {"steps": steps, "minutes": (time.time() - begun) / 60})
    config = settings.changed(settings.of_run(folder / "run"), {"sampler.batch_size": DRAWN})
    trained = run.restore(build.experiment(config), folder / "run")
    training = json.loads(told.read_text())
    kept = Kept(folder / "samples", {"seed": seed, **training})
    drawn = samples.draw_in_parts(trained, kept, "x", n=n, seed=seed)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(trained.model.variables["params"]))
    return {"what": "score_jax", "seed": seed, "parameters": parameters, **training, "calls": drawn.nfe}, drawn.x


class Distances:
    """Fréchet distances to the training images, in features of two classifiers of them."""

    def __init__(self, folder: Path):
        source, cache = fashion_mnist(), folder / "features"
        told: dict[str, Any] = {"data_hash": content_hash(source), "split": "train", "kept": 1, "cache": cache}
        self._read = {}
        for name, seed in _CLASSIFIERS.items():
            network = features.grey_network(source, cache=cache, seed=seed).features
            self._read[name] = network, features.reference(network, source, **told).moments

    def of(self, images: np.ndarray) -> dict[str, float]:
        """Returns the distances of images, and the share that leaves their range by more than a tenth of it."""
        found = {
            f"distance of {len(part):,}, features {name}": metrics.Moments.of(network(part)).frechet(training)
            for part in (images, images[:FEW])
            for name, (network, training) in self._read.items()
        }
        beyond = np.abs(images.reshape(len(images), -1) - 0.5).max(1) > 0.6
        return {**found, "outside": float(beyond.mean())}


def compare(out: Path, seeds: list[int], n: int, minutes: float, steps: int) -> list[dict[str, Any]]:
    """Returns the rows of the table: held-out images, and a row for each seed of both."""
    distances, source = Distances(out), fashion_mnist(split="test")
    held_out = images_of(source, np.arange(min(n, len(source))))
    of_none = dict.fromkeys(("seed", "parameters", "steps", "minutes", "calls"), "")
    shown: dict[str, np.ndarray] = {}
    rows: list[dict[str, Any]] = [{"what": "held-out images", **of_none, **distances.of(held_out)}]
    for seed in seeds:
        for make in (ours, partial(theirs, steps=steps)):
            row, images = make(out, seed, n, 60 * minutes)
            shown.setdefault(row["what"], images[:64])
            rows.append({**row, **distances.of(images)})
            print(table(rows[-1:]), flush=True)
    draw(out / "samples.png", shown)
    return rows


def draw(path: Path, shown: dict[str, np.ndarray]) -> None:
    """Writes a picture of 64 images of each beside each other."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 5.3))
    for axis, (what, images) in zip(axes, shown.items(), strict=True):
        x = images[..., 0].clip(0, 1)
        axis.imshow(x.reshape(8, 8, 28, 28).transpose(0, 2, 1, 3).reshape(224, 224), cmap="gray", vmin=0, vmax=1)
        axis.set_title(what)
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    """Runs what the flags ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/quality", type=Path, help="folder of all that is made")
    parser.add_argument("--seeds", default="1,2,3", help="separated by commas; the config was chosen on 0")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training")
    parser.add_argument("--steps", type=int, default=0, help="of diffusers' training, in place of --minutes")
    parser.add_argument("--n", type=int, default=10_000, help="samples of each")
    parser.add_argument("--page", action="store_true", help="put the table into benchmarks/README.md")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    backend.configure()
    rows = compare(given.out, [int(seed) for seed in given.seeds.split(",")], given.n, given.minutes, given.steps)
    result = {"rows": rows, "environment": f"{environment()}, torch {torch.__version__}"}
    write_json(given.out / "results.json", result)
    if given.page:
        page = HERE / "README.md"
        page.write_text(rewrite(page.read_text(), Path(__file__).stem, result))
    print(f"{table(rows)}\n{result['environment']}")


if __name__ == "__main__":
    main()
