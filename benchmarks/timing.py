"""What the benchmarks share: timing, child processes, where it ran, tables, and their command line.

A benchmark is a module whose docstring says what is measured and how, with `measure(quick) -> {"rows": [...]}`; a row
is a mapping of column to number or text. Two programs that are compared run in turns, A B A B, and their ratio is taken
pair by pair: whatever else the machine does then slows both. Figures are medians. What the hardware can do is taken to
be its product of two matrices; a program's share of that counts the operations of its products and convolutions.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import jax

from score_jax import backend
from score_jax.lab.planning.flops import flops

Row = dict[str, Any]
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def seconds(program: Callable[[], Any]) -> float:
    """Returns the time that `program()` and everything it launched take."""
    start = time.perf_counter()
    jax.block_until_ready(program())
    return time.perf_counter() - start


def alternate(first: Callable[[], float], second: Callable[[], float], pairs: int) -> tuple[list[float], list[float]]:
    """Calls the two measurements in turns, `pairs` times each."""
    both = [(first(), second()) for _ in range(pairs)]
    return [a for a, _ in both], [b for _, b in both]


def compare(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Returns the medians of both and that of the ratios a/b of the pairs."""
    return median(a), median(b), median(x / y for x, y in zip(a, b, strict=True))


def prepared(program: Any, *arguments: Any) -> tuple[Callable[..., Any], int]:
    """Returns a jitted function compiled for its arguments, and the operations of its products."""
    traced = program.trace(*arguments)
    return traced.lower().compile(), flops(traced.jaxpr)


def peak() -> float:
    """Returns the operations a second of a product of two float32 matrices of 1,024 rows and columns."""
    a, b = jax.random.normal(jax.random.key(0), (2, 1024, 1024))
    product, operations = prepared(jax.jit(jax.numpy.dot), a, b)
    product(a, b)
    return operations / median(seconds(lambda: product(a, b)) for _ in range(15))


def child(script: str, *arguments: str, **variables: str) -> Row:
    """Runs `script --child arguments…` in a fresh process; returns the JSON it prints last."""
    command = [sys.executable, script, "--child", *arguments]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def processor() -> str:
    """Returns the name of what computes."""
    if jax.default_backend() != "cpu":
        return jax.devices()[0].device_kind
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.processor() or platform.machine()}, {cores} cores"


def environment() -> str:
    """Returns processor, its product of matrices and versions, in one line."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)
    products = f"products of matrices {peak() / 1e9:.0f} GFLOP/s"
    return f"{processor()}, {products}; Python {platform.python_version()}, {versions}"


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(rows: Sequence[Row]) -> str:
    """Returns the rows, all of the same columns, as a Markdown table; numbers with three digits or more."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_cell(row[c]) for c in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(measure: Callable[[bool], Row], about: str | None, child_measure: Callable[..., Row] | None = None) -> None:
    """The command line of a benchmark: prints its table, and writes its result to `--json` if given.

    The backend starts with what the commands set.

    Args:
      measure: `quick -> {"rows": [...]}`.
      about: the script's docstring.
      child_measure: what `child` runs; gets the arguments as text.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repetitions: to see that it runs, not for figures")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    backend.configure()
    if options.child and child_measure:
        print(json.dumps(child_measure(*options.child)))
        return
    result = {**measure(options.quick), "environment": environment()}
    print(f"{table(result['rows'])}\n{result['environment']}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")
