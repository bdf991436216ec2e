"""Time and memory of metrics of features, at the sizes of published tables.

    python benchmarks/feature_distances.py

Each row is a fresh process; its peak resident memory has the package and the features in it. Features are 2,048 normal
numbers in float32. PRDC is of 10,000 rows of each side; moments are of 50,000 rows that come in batches of 500, with
the Fréchet distance to themselves; the kernel distance is of 100 subsets of 1,000 of 10,000 rows. Networks are timed on
32×32 images, behind a first batch that compiles.
"""

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from memory import peak_mib
from timing import Row, child, main

from score_jax import metrics
from score_jax.metrics import Moments, features

WIDTH, ROWS, STREAMED, BATCH = 2048, 10_000, 50_000, 500


def normal(seed: int, rows: int, width: int) -> np.ndarray:
    """Returns rows of normal numbers."""
    return np.random.default_rng(seed).standard_normal((rows, width), np.float32)


def prdc(quick: bool) -> float:
    """Seconds of PRDC."""
    rows, width = (500, 64) if quick else (ROWS, WIDTH)
    real, fake = normal(0, rows, width), normal(1, rows, width)
    start = time.perf_counter()
    metrics.prdc(real, fake)
    return time.perf_counter() - start


def moments(quick: bool) -> float:
    """Seconds of moments of rows that come in batches, and the distance; making the rows is not counted."""
    rows, width = (2 * BATCH, 64) if quick else (STREAMED, WIDTH)
    made = 0.0

    def batches():
        nonlocal made
        for seed in range(rows // BATCH):
            start = time.perf_counter()
            batch = normal(seed, BATCH, width)
            made += time.perf_counter() - start
            yield batch

    start = time.perf_counter()
    found = Moments.over(batches())
    found.frechet(found)
    return time.perf_counter() - start - made


def kernel(quick: bool) -> float:
    """Seconds of the kernel distance, compilation included."""
    rows, width, size, n = (200, 64, 50, 5) if quick else (ROWS, WIDTH, 1000, 100)
    real, fake = normal(0, rows, width), normal(1, rows, width)
    start = time.perf_counter()
    jax.block_until_ready(metrics.kid(jax.random.key(0), real, fake, subset_size=size, n_subsets=n))
    return time.perf_counter() - start


def network(make, images: int, quick: bool) -> float:
    """Seconds that a network takes for so many images, whole batches."""
    told = make({}, batch_size=8 if quick else 32)
    example = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(told.module.init, jax.random.key(0), example)
    told = make(jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes), batch_size=told.batch_size)
    n = told.batch_size if quick else images
    told(np.zeros((told.batch_size, 32, 32, 3), np.uint8))
    start = time.perf_counter()
    told(np.zeros((n, 32, 32, 3), np.uint8))
    return (time.perf_counter() - start) * images / n


CASES = {
    "PRDC, 10,000 and 10,000 rows": prdc,
    "moments of 50,000 rows, Fréchet distance": moments,
    "kernel distance, 100 subsets of 1,000": kernel,
    "EfficientNet-Lite0, 1,024 images": partial(network, features.efficientnet, 1024),
    "InceptionV3, 128 images": partial(network, features.inception, 128),
}


def measured(case: str, quick: str) -> Row:
    """Runs in a fresh process: one case."""
    return {"seconds": CASES[case](quick == "True"), "peak": peak_mib()}


def measure(quick: bool) -> Row:
    """Measures every case."""
    found = {case: child(__file__, case, str(quick)) for case in CASES}
    rows = [{"what": case, "time, s": f["seconds"], "peak memory, MiB": f["peak"]} for case, f in found.items()]
    return {"rows": rows}


if __name__ == "__main__":
    main(measure, __doc__, measured)
