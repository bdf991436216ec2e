"""XLA's two ways to convolve on a processor, and what share of its matrix products' speed they reach.

    python benchmarks/convolutions.py

3×3 convolutions of 32 images in float32, and their gradients as `networks.Conv` has them, by YNNPACK, which is what XLA
takes by itself, and by Eigen, which `backend.configure` chooses on x86-64. Each way is a process of its own, since XLA
reads the option when it starts; they take turns, and the ratio is the median over the pairs. Beside them the product of
two matrices of 1,024 × 1,024, which the option leaves alone.
"""

import os
from collections.abc import Callable
from functools import partial
from statistics import median

import jax
from timing import Row, child, compare, main, seconds

from score_jax import backend
from score_jax.networks.convolution import conv_general_dilated
from score_jax.types import Array

_SIZES = ((32, 64), (16, 128), (8, 128))  # side of an image, channels
_OPTION = "--xla_cpu_experimental_ynn_fusion_type"
_BY_ITSELF = f"{_OPTION}=+LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"  # said, so that `configure` leaves it


def convolve(x: Array, kernel: Array) -> Array:
    """As a network does."""
    numbers = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
    return conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def programs(side: int, channels: int) -> dict[str, tuple[Callable[[], Array], float]]:
    """Returns compiled convolutions by name, with their operations."""
    x, g = jax.random.normal(jax.random.key(0), (2, 32, side, side, channels))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, channels, channels))
    functions = {
        "forward": lambda x, kernel, g: convolve(x, kernel),
        "gradient of the input": lambda x, kernel, g: jax.vjp(lambda x: convolve(x, kernel), x)[1](g)[0],
        "gradient of the kernel": lambda x, kernel, g: jax.vjp(lambda kernel: convolve(x, kernel), kernel)[1](g)[0],
    }
    operations = 2.0 * x.size * 9 * channels
    made = {name: partial(jax.jit(f).lower(x, kernel, g).compile(), x, kernel, g) for name, f in functions.items()}
    return {f"{side}×{side}×{channels}, {name}": (call, operations) for name, call in made.items()}


def rates(repetitions: str) -> dict[str, float]:
    """GFLOP/s of everything, by the option of this process."""
    backend.configure()
    a, b = jax.random.normal(jax.random.key(0), (2, 1024, 1024))
    product = jax.jit(jax.numpy.dot).lower(a, b).compile()
    every = {"product of matrices": (lambda: product(a, b), 2.0 * 1024**3)}
    for size in _SIZES:
        every |= programs(*size)
    found = {}
    for name, (call, operations) in every.items():
        seconds(call)
        found[name] = operations / median(seconds(call) for _ in range(int(repetitions))) / 1e9
    return found


def measure(quick: bool) -> Row:
    """Runs both ways in turns."""
    repetitions, pairs = ("2", 1) if quick else ("15", 3)
    given = os.environ.get("XLA_FLAGS", "")
    runs = [
        [child(__file__, repetitions, XLA_FLAGS=f"{given} {flag}".strip()) for flag in (_BY_ITSELF, "")]
        for _ in range(pairs)
    ]
    rows = []
    for name in runs[0][0]:
        eigen, ynnpack, ratio = compare([b[name] for _, b in runs], [a[name] for a, _ in runs])
        of_peak = eigen / median(b["product of matrices"] for _, b in runs)
        rows.append(
            {
                "what": name,
                "YNNPACK, GFLOP/s": ynnpack,
                "Eigen, GFLOP/s": eigen,
                "ratio": ratio,
                "Eigen's share of products": of_peak,
            }
        )
    return {"rows": rows}


if __name__ == "__main__":
    main(measure, __doc__, rates)
