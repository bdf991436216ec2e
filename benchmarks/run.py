"""Runs the benchmarks one after the other and rewrites their tables in benchmarks/README.md.

    python benchmarks/run.py                     all of them, about 25 minutes on 2 idle cores
    python benchmarks/run.py --only toy_steps    some of them; the other tables stay
    python benchmarks/run.py --only soak kills   which are not among all: half an hour, and 20 restarts
    python benchmarks/run.py --only against_torch   nor is this: 20 minutes, with the extra peers

Each runs in a process of its own and leaves its figures in benchmarks/results/NAME.json, of which the table is made.
With --quick there are few repetitions and the page is left alone: that shows that they run, and no more.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

from timing import Row, table

HERE = Path(__file__).resolve().parent
NAMES = (
    "toy_steps",
    "unet_images",
    "compile_time",
    "memory",
    "convolutions",
    "conv_in_loops",
    "objectives",
    "growth",
    "feature_distances",
    "sweep_together",
    "mesh",
    "loop_overhead",
    "plan_error",
)
LONG = ("soak", "kills")
PEERS = ("against_torch",)  # with the extra peers
BY_ITSELF = ("quality_at_equal_time",)  # hours, in parts; puts its table into the page itself


def section(name: str, result: Row) -> str:
    """What stands between the marks of a benchmark: command, table, and where it was measured."""
    return f"    python benchmarks/{name}.py\n\n{table(result['rows'])}\n\n{result['environment']}"


def rewrite(page: str, name: str, result: Row) -> str:
    """Returns the page with what stands between `<!-- name -->` and `<!-- /name -->` replaced."""
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not marked.search(page):
        raise ValueError(f"the page has no lines <!-- {name} --> and <!-- /{name} --> to put the table between")
    return marked.sub(lambda match: f"{match[1]}{section(name, result)}\n{match[2]}", page)


def measure(name: str, quick: bool) -> Row:
    """Runs one benchmark in its own process, showing what it prints."""
    path = HERE / "results" / f"{name}{'-quick' if quick else ''}.json"
    command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(path), *(["--quick"] if quick else [])]
    print(f"\n{name}", flush=True)
    start = time.perf_counter()
    subprocess.run(command, check=True)
    print(f"{time.perf_counter() - start:.0f} s", flush=True)
    return json.loads(path.read_text())


def main() -> None:
    """Measures what was asked for, writing each table as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = (*NAMES, *LONG, *PEERS)
    parser.add_argument("--only", nargs="+", default=NAMES, choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="few repetitions, and the page is left alone")
    options = parser.parse_args()
    readme = HERE / "README.md"
    for name in options.only:
        result = measure(name, options.quick)
        if not options.quick:
            readme.write_text(rewrite(readme.read_text(), name, result))


if __name__ == "__main__":
    main()
