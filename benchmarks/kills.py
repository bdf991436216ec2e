"""Kills a run at random moments until it ends, and compares it with one that nothing happened to, bit for bit.

    python benchmarks/kills.py --kills=20 --processes=2 --seed=0

The run is `experiments/train.py` on a toy with a checkpoint every 50 steps, of several processes by its own flags
(`--coordinator`, `--num_processes`, `--process_id`). An undisturbed run comes first and is the measure: parameters,
average, optimizer, key, counters, position in the data, and records but for their speed must be equal. Then runs are
killed with SIGKILL and started again by the same command. A moment is uniform over the duration of the undisturbed
run, counted from the start of the processes, so that a kill also comes while they start, restore or draw the last
pictures; every other kill waits from there for the next checkpoint that is being written, known by its temporary
folder, and comes within 30 ms of it. Killed is the first process, the last, or all, at random; those that are left must
stop by themselves within a minute. A run that ends is compared, and the next kills are of a new one. Exit code 1 if
anything differs.
"""

import argparse
import dataclasses
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from timing import Row, environment, table

from score_jax.lab import build, run, settings
from score_jax.training import checkpoint
from score_jax.training.logging import read_jsonl

ROOT = Path(__file__).resolve().parent.parent
_CONFIG = ["--config=configs/toy.py", "--config.data.n=5000", "--config.network.mlp.hidden=(32, 32)"]
_CONFIG += ["--config.sampler.n=200", "--config.sampler.batch_size=200", "--config.training.batch_size=64"]
_CONFIG += ["--config.training.log_every=20", "--config.training.checkpoint_every=50"]
_CONFIG += ["--config.training.steps_per_dispatch=10"]
_WITHIN = 0.03  # s after a checkpoint is begun
_JOIN = 40  # s for all processes to come: one that was killed before they met is waited for so long
_SURVIVE = 60.0  # s until a process whose peer was killed must have stopped
_CLOCK = ("examples_per_second", "seconds_left")

Processes = Sequence[subprocess.Popen]


class Kill(NamedTuple):
    """When and whom: seconds after the start, whether to wait from there for a checkpoint's write, which processes."""

    seconds: float
    writing: bool
    victims: tuple[int, ...]


def draw(rng: random.Random, number: int, duration: float, processes: int) -> Kill:
    """Draws a kill: of the first process, the last or all, at a moment of the duration; every other in a write."""
    victims = rng.choice([(0,), (processes - 1,), tuple(range(processes))])
    return Kill(rng.uniform(0, duration), bool(number % 2), victims)


def writing(workdir: Path) -> list[str]:
    """Returns the names of the temporary folders of checkpoints that are being written."""
    return [path.name for path in (workdir / "checkpoints").glob("*orbax-checkpoint-tmp*")]


def strike(processes: Processes, workdir: Path, kill: Kill, rng: random.Random) -> Row | None:
    """Kills the victims at their moment; returns what there was then, or None of a run that had ended before."""
    start = time.monotonic()
    ended = lambda: all(process.poll() is not None for process in processes)
    while not ended() and time.monotonic() - start < kill.seconds:
        time.sleep(0.001)
    while kill.writing and not ended() and not writing(workdir):
        time.sleep(0.001)
    time.sleep(rng.uniform(0, _WITHIN) if kill.writing else 0)
    if ended():
        return None
    for victim in kill.victims:
        processes[victim].kill()
    seconds, begun = time.monotonic() - start, writing(workdir)
    survived = stopped(processes)
    metrics = workdir / "metrics.jsonl"
    records = read_jsonl(metrics) if metrics.is_file() else []
    return {
        "s": seconds,
        "killed": "all" if len(kill.victims) == len(processes) else f"process {kill.victims[0]}",
        "last record": records[-1]["step"] if records else 0,
        "in a write": ", ".join(name.split(".")[0] for name in begun),
        "goes on from": max(checkpoint.steps(workdir), default=0),
        "others stopped after, s": survived,
    }


def stopped(processes: Processes) -> str:
    """Waits for all to stop; returns after how many seconds the others did, or that one had to be killed."""
    start = time.monotonic()
    for process in processes:
        try:
            process.wait(_SURVIVE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return f"not within {_SURVIVE:.0f}"
    others = any(process.returncode != -signal.SIGKILL for process in processes)
    return f"{time.monotonic() - start:.1f}" if others else ""


def command(workdir: Path, steps: int, processes: int) -> list[list[str]]:
    """Returns the command line of each process."""
    train = [sys.executable, str(ROOT / "experiments" / "train.py"), f"--workdir={workdir}", *_CONFIG]
    train.append(f"--config.training.steps={steps}")
    if processes == 1:
        return [train]
    joined = [f"--coordinator=localhost:{_free_port()}", f"--num_processes={processes}"]
    joined.append(f"--join_timeout={_JOIN}")
    return [[*train, *joined, f"--process_id={i}"] for i in range(processes)]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def started(commands: Sequence[Sequence[str]], log: Path) -> Processes:
    """Starts the processes, whose output is added to a file."""
    with log.open("ab") as file:
        return [subprocess.Popen(one, cwd=ROOT, stdout=file, stderr=file, env=os.environ) for one in commands]


def differences(workdir: Path, whole: Path) -> list[str]:
    """Returns what of a run's end differs from another's: arrays of the state, position in the data, records."""
    ends = [jax.tree_util.tree_leaves_with_path(_end_of(folder)) for folder in (workdir, whole)]
    same = lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes()
    found = [jax.tree_util.keystr(path) for (path, x), (_, y) in zip(*ends, strict=True) if not same(x, y)]
    return found + ([] if _records(workdir) == _records(whole) else ["metrics.jsonl"])


def _records(workdir: Path) -> list[Row]:
    records = read_jsonl(workdir / "metrics.jsonl")
    return [{name: value for name, value in record.items() if name not in _CLOCK} for record in records]


def _end_of(workdir: Path) -> Any:
    experiment = build.experiment(settings.of_run(workdir))
    with checkpoint.open_checkpoints(workdir, read_only=True) as manager:
        read = checkpoint.restore_state(manager, run.first_state(experiment))
    assert read is not None
    numbers = dataclasses.replace(read.state, key=jax.random.key_data(read.state.key))
    return jax.device_get(numbers), read.position, read.window, read.step


def finished(processes: Processes, log: Path) -> None:
    """Waits for the end of a run.

    Raises:
      RuntimeError: with the end of its output, if it is not a good one.
    """
    codes = [process.wait() for process in processes]
    if any(codes):
        raise RuntimeError(f"a run ended with exit codes {codes}:\n" + log.read_text()[-3000:])


def killed_runs(
    kills: int, duration: float, start: Callable[[Path], Processes], folder: Path, whole: Path, rng: random.Random
) -> tuple[list[Row], list[str]]:
    """Kills runs, one after another, so often in all; returns a row a kill, and what differs at their ends.

    Args:
      kills: how many.
      duration: of the undisturbed run in seconds.
      start: starts the processes of a run in a folder, by the same command each time.
      folder: for the runs and their output.
      whole: the undisturbed run.
      rng: of the moments.
    """
    rows: list[Row] = []
    differ: list[str] = []
    for number in itertools.count(1):
        if len(rows) >= kills:
            return rows, differ
        workdir, row = folder / f"killed-{number}", None
        while True:
            running = start(workdir)
            if len(rows) < kills:
                row = strike(running, workdir, draw(rng, len(rows), duration, len(running)), rng)
            if len(rows) >= kills or row is None:
                break
            rows.append({"kill": len(rows) + 1, "run": number, **row})
            print(*rows[-1].values(), sep=", ", flush=True)
        finished(running, folder / "output.txt")
        differ += [f"run {number}: {name}" for name in differences(workdir, whole)]
    raise AssertionError


def measure(kills: int, processes: int, seed: int, steps: int, folder: Path) -> Row:
    """Runs once undisturbed, then kills; returns the rows of the kills, and what differs in the end."""
    log = folder / "output.txt"
    start = lambda workdir: started(command(workdir, steps, processes), log)
    finished(start(folder / "warm"), log)  # so that all others find their programs compiled
    before = time.monotonic()
    finished(start(folder / "whole"), log)
    duration = time.monotonic() - before
    print(f"undisturbed: {steps} steps, {duration:.1f} s", flush=True)
    rows, differ = killed_runs(kills, duration, start, folder, folder / "whole", random.Random(seed))
    return {"rows": rows, "differ": differ, "processes": processes, "duration": duration, "seed": seed}


def main() -> int:
    """Prints the kills, and what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2, help="of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--steps", type=int, default=3000, help="of each run, a multiple of 50")
    parser.add_argument("--quick", action="store_true", help="4 kills of one process: to see that it runs")
    parser.add_argument("--json", type=Path, help="file to write the result to")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kills, processes, seed, steps = (
            (4, 1, 0, 1000) if options.quick else (options.kills, options.processes, options.seed, options.steps)
        )
        result = {**measure(kills, processes, seed, steps, Path(folder)), "environment": environment()}
    writes = sum(row["in a write"] != "" for row in result["rows"])
    print(f"\n{table(result['rows'])}\n\n{result['environment']}")
    runs = result["rows"][-1]["run"]
    print(f"{len(result['rows'])} kills of {runs} runs, {writes} of them with a checkpoint half written")
    print("differs: " + "; ".join(result["differ"]) if result["differ"] else "bit for bit as the undisturbed run")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(bool(result["differ"]))


if __name__ == "__main__":
    sys.exit(main())
