"""Tells whether everything works on this device, and how fast: one command for any machine with a GPU or a TPU.

    python benchmarks/check_device.py                          10 minutes, the most important first
    python benchmarks/check_device.py --stage=tests,families   some stages
    python benchmarks/check_device.py --minutes=60 --cache=~/.cache/score_jax

Stages, in this order:
    tests       numbers and gradients of this device against the CPU's, resume, hot loops (tests/device)
    families    a training step and a sampling call of every network family, float32 and bfloat16
    throughput  images/s of training and sampling, share of the peak, the loop's overhead, attention, layouts
    learn       digits, and Fashion-MNIST where its files are, trained, sampled and evaluated
    torch       the same networks in PyTorch, side by side

It needs no network and no installation: it runs from a clone with whatever is there, names the packages that are
absent, and leaves out what needs them. Every result is written as soon as it is there, to --out: results.json and
table.md. Started again it goes on with what was left, and tries again what failed. Networks have their published width
on a GPU or TPU and are tiny on a CPU, where it takes two minutes and shows that the check itself works (--tiny,
--notiny). The exit code is 1 if anything failed.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from checks.item import Item, Row, Scale, absent
from checks.results import START, Results

HERE = Path(__file__).resolve().parent
STAGES = ("tests", "families", "throughput", "learn", "torch")
# Packages that something needs, by the name they are imported by.
PACKAGES = ("pytest", "chex", "ml_collections", "grain", "tensorflow_datasets", "sklearn", "torch", "diffusers")
VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch", "diffusers")
# Programs of tiny networks are compiled fast rather than well, as the tests' are: their speed says nothing.
_FAST_COMPILATION = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
if importlib.metadata.version("jax") < "0.11":  # the flag is gone since, and XLA aborts on one it doesn't know
    _FAST_COMPILATION.append("--xla_cpu_use_fusion_emitters=false")


class Options(NamedTuple):
    """What was asked for, and how large that is here."""

    stages: tuple[str, ...]
    minutes: float
    cache: Path | None
    scale: Scale


# In a child, which has the device


def describe() -> Row:
    """Returns what the results are of: device, driver, memory, versions, what is absent."""
    import jax

    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "device memory, GiB": round((device.memory_stats() or {}).get("bytes_limit", 0) / 2**30, 1) or "not told",
        "runtime": " ".join(device.client.platform_version.split()),
        "driver": _driver(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in VERSIONS},
        "absent": absent(*PACKAGES),
        "flags": os.environ.get("XLA_FLAGS", ""),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> str:
    """The version of NVIDIA's driver, or nothing."""
    path = Path("/proc/driver/nvidia/version")
    return path.read_text().splitlines()[0] if path.exists() else ""


class Teller:
    """Appends what happens in a child to a file that the parent reads, a line of JSON each."""

    def __init__(self, path: Path):
        self._path = path

    def __call__(self, **event: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(event) + "\n")


def run_stage(stage: str, scale: Scale, done: set[str], tell: Teller) -> None:
    """Runs the items of a stage that are not done, telling each."""
    if stage == "tests":
        if missing := absent("pytest"):
            return tell(items=[stage], left_out=stage, why=f"needs {', '.join(missing)}")
        from checks import device_tests

        return device_tests.run(tell, done, scale.tiny)
    items = _items(stage, scale)
    tell(items=[item.name for item in items])
    for item in items:
        if item.name not in done:
            _run_item(item, tell)
    return None


def _items(stage: str, scale: Scale) -> list[Item]:
    from importlib import import_module

    name = {"torch": "in_torch"}.get(stage, stage)
    return import_module(f"checks.{name}").items(scale)


def _run_item(item: Item, tell: Teller) -> None:
    if missing := absent(*item.needs):
        return tell(left_out=item.name, why=f"needs {', '.join(missing)}")
    tell(start=item.name)
    try:
        row = item.run()
    except Exception as error:  # whatever goes wrong in one is a result, and the others follow
        traceback.print_exc()
        return tell(failed=item.name, why=f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])
    return tell(done=item.name, row=row)


# In the parent, which leaves the device alone


def environment_of(stage: str, tiny: bool = False, cache: Path | None = None) -> dict[str, str]:
    """Returns the environment of a child."""
    variables = dict(os.environ, PYTHONPATH=os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]))
    flags = [variables.get("XLA_FLAGS", "")]
    if stage == "tests":
        flags.append("--xla_gpu_deterministic_ops=true")  # else a resumed run need not be bit-identical on a GPU
    elif tiny:
        flags += _FAST_COMPILATION
    if stage == "torch":
        variables.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory too
    if cache:
        variables["JAX_COMPILATION_CACHE_DIR"] = str(cache.expanduser())
        variables.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    return variables | {"XLA_FLAGS": " ".join(flag for flag in flags if flag), "PYTHONUNBUFFERED": "1"}


def child(*arguments: str, environment: dict[str, str], log: Any) -> subprocess.Popen:
    """Starts this script as a child that has the device."""
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True)


def described() -> Row:
    """Returns `describe()` of a child; ends the command where JAX does not start."""
    process = child("--child=describe", environment=environment_of(""), log=subprocess.PIPE)
    out = process.communicate()[0]
    if process.returncode:
        sys.exit(f"error: JAX does not start here: {(out.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(out.splitlines()[-1])


class Watch:
    """Follows the events of one stage's children into the results."""

    def __init__(self, stage: str, options: Options, results: Results):
        self._stage, self._options, self._results = stage, options, results
        self._running: str | None = None
        self._tried: set[str] = set()  # by this call, whatever came of it

    def until(self, deadline: float) -> None:
        """Runs the stage until it is over or the deadline has come; a process that dies is replaced."""
        while self._once(deadline):
            pass

    def _once(self, deadline: float) -> bool:
        """One process; whether there is to be another."""
        events = self._results.folder / f"{self._stage}.events"
        events.unlink(missing_ok=True)
        self._results.begin(self._stage)
        read, self._running = 0, None
        with (self._results.folder / f"{self._stage}.log").open("a") as log:
            environment = environment_of(self._stage, self._options.scale.tiny, self._options.cache)
            process = child(*self._arguments(events), environment=environment, log=log)
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
                read = self._read(events, read)
            code = process.poll()
            process.kill()
            process.wait()
        self._read(events, read)
        events.unlink(missing_ok=True)
        if not code:
            return False  # it is over, or its time is
        self._results.fail(self._stage, self._running or START, f"its process ended with code {code}: see its log")
        return self._running is not None

    def _arguments(self, events: Path) -> list[str]:
        scale = self._options.scale
        arguments = [f"--child={self._stage}", f"--events={events}", "--tiny" if scale.tiny else "--notiny"]
        arguments += [f"--fashion_mnist={scale.fashion_mnist}"] if scale.fashion_mnist else []
        return arguments + [f"--done={name}" for name in {*self._results.done(self._stage), *self._tried}]

    def _read(self, events: Path, read: int) -> int:
        """Takes in the events after the first `read`; returns how many there are."""
        lines = events.read_text().splitlines(keepends=True) if events.exists() else []
        complete = [line for line in lines if line.endswith("\n")]
        for line in complete[read:]:
            self._take(json.loads(line))
        return len(complete)

    def _take(self, event: Row) -> None:
        if "items" in event:
            self._results.expect(self._stage, event["items"])
        if "start" in event:
            self._running = event["start"]
            self._tried.add(self._running)
            return
        for kind, name in event.items():
            if kind == "done":
                self._results.add(self._stage, name, event["row"])
            elif kind == "failed":
                self._results.fail(self._stage, name, event["why"])
            elif kind == "left_out":
                self._results.leave_out(self._stage, name, event["why"])
            else:
                continue
            self._running = None


def check(given: argparse.Namespace, stages: tuple[str, ...]) -> int:
    """Runs the stages; returns the exit code."""
    start, environment = time.monotonic(), described()
    tiny = environment["platform"] == "cpu" if given.tiny is None else given.tiny
    folder = given.out or HERE / "results" / _folder_name(environment, tiny)
    # Tiny programs are compiled once for all stages: how long that takes says nothing.
    cache = given.cache or (folder / "compiled" if tiny else None)
    options = Options(stages, given.minutes, cache, Scale(tiny, given.fashion_mnist))
    results = Results(folder, environment | {"networks": "tiny" if tiny else "published width"})
    print(results.heading(), flush=True)
    end = start + 60 * options.minutes

    def run(place: int) -> None:
        now = time.monotonic()
        # Of the time that is left every stage may take its equal share; what it leaves is the others'.
        deadline = now + max(0.0, end - now) / (len(stages) - place)
        Watch(stages[place], options, results).until(deadline)
        print(results.summary(stages[place]), flush=True)

    # One after the other on a device; a CPU compiles tiny programs two stages at a time, and is not timed.
    with ThreadPoolExecutor(2 if tiny else 1) as pool:
        list(pool.map(run, range(len(stages))))
    print(results.closing(stages, time.monotonic() - start))
    return 1 if results.failed(stages) else 0


def _folder_name(environment: Row, tiny: bool) -> str:
    words = f"{environment['device']} jax {environment['versions']['jax']}{' tiny' * tiny}"
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in words).lower().split())


def main() -> None:
    """The command line, of the parent and of its children."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", default=",".join(STAGES), help="stages, separated by commas")
    parser.add_argument("--minutes", type=float, default=10.0, help="when to stop and list what was left")
    parser.add_argument("--out", type=Path, help="folder of the results; by default in benchmarks/results")
    parser.add_argument("--cache", type=Path, help="folder that keeps compiled programs; without it none are kept")
    parser.add_argument("--tiny", action=argparse.BooleanOptionalAction, help="small networks")
    parser.add_argument("--fashion_mnist", type=Path, help="folder of Fashion-MNIST's four files")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--events", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--done", action="append", default=[], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child == "describe":
        return print(json.dumps(describe()))
    if given.child:
        return run_stage(given.child, Scale(given.tiny, given.fashion_mnist), set(given.done), Teller(given.events))
    stages = tuple(name for name in given.stage.split(",") if name)
    if unknown := [name for name in stages if name not in STAGES] or (not stages and ["nothing"]):
        parser.error(f"--stage: {', '.join(unknown)} does not exist: choose among {', '.join(STAGES)}")
    if not given.minutes > 0:
        parser.error(f"--minutes is a time above 0, got {given.minutes:g}")
    sys.exit(check(given, stages))


if __name__ == "__main__":
    main()
