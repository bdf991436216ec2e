"""Damages files at random, 10,000 by default, and has every reader read them; prints what became of them.

    python -m tests.fuzz                          make fuzz
    python -m tests.fuzz --seed=1 --cases=300     others, or fewer
    python -m tests.fuzz --case=1234              one case of seed 0, with its traceback
    python -m tests.fuzz --case=1234 --into=DIR   its files, to look at

A case is right if the reader returns, or raises what it says it raises, in one line of plain text; it is wrong if the
process dies, if it takes 20 seconds or memory out of all proportion, or if anything but the reader's own code is run or
written. Cases run in processes of their own: one that kills its process is reported like the others. Exit code 1 if
any case is wrong.
"""

import argparse
import os
import subprocess
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from tests.fuzz import cases, guard
from tests.fuzz.cases import Outcome
from tests.fuzz.readers import READERS

_BEGIN, _END = "begin", "end"


def main() -> int:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="tests.fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--case", type=int)
    parser.add_argument("--into", type=Path)
    parser.add_argument("--worker", type=int, nargs=3, metavar=("FIRST", "STOP", "STEP"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        return _work(given.seed, range(*given.worker))
    if given.case is not None:
        return _one(given.seed, given.case, given.into)
    return _all(given.seed, given.cases, given.workers)


def _one(seed: int, case: int, into: Path | None) -> int:
    if into is not None:
        cases.lay(into, seed, case)
        print(f"case {case} of {cases.reader_of(case)}: {into}")
        try:
            READERS[cases.reader_of(case)].read(into)
        except BaseException:
            traceback.print_exc()
        return 0
    cases.warm()
    outcome = cases.run(seed, case)
    print(*outcome)
    return int(outcome.state == cases.WRONG)


def _work(seed: int, numbers: range) -> int:
    """Runs some cases; a line at the beginning and the end of each."""
    sys.dont_write_bytecode = True  # of what is imported late: nothing is to be written
    cases.warm()
    for case in numbers:
        print(_BEGIN, case, flush=True)
        outcome = cases.run(seed, case)
        print(_END, outcome.state, outcome.said.encode("unicode_escape").decode(), flush=True)
    return 0


def _all(seed: int, n: int, workers: int) -> int:
    with ThreadPoolExecutor(workers) as pool:
        found = [
            o
            for part in pool.map(lambda i: list(_supervised(seed, range(i, n, workers))), range(workers))
            for o in part
        ]
    print(report(seed, found))
    return int(any(outcome.state == cases.WRONG for outcome in found))


def _supervised(seed: int, numbers: range) -> Iterator[Outcome]:
    """Yields the outcomes of cases that another process runs, which is started anew when a case ends it."""
    while numbers:
        done = 0
        for outcome in _until_death(seed, numbers):
            done += 1
            if outcome.state == cases.WRONG:
                print(f"case {outcome.case}: {outcome.reader}: {outcome.said}", flush=True)
            yield outcome
        if not done:
            raise RuntimeError("no case could be run: python -m tests.fuzz --case=0 shows why")
        numbers = numbers[done:]


def _until_death(seed: int, numbers: range) -> Iterator[Outcome]:
    command = [sys.executable, "-m", "tests.fuzz", f"--seed={seed}"]
    command += ["--worker", *map(str, (numbers.start, numbers.stop, numbers.step))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        begun, bell = -1, threading.Timer(1, process.kill)
        for line in process.stdout:
            word, *rest = line.rstrip("\n").split(" ", 2)
            bell.cancel()
            if word == _BEGIN:
                begun = int(rest[0])
                bell = threading.Timer(15 * guard.SECONDS, process.kill)  # code that no alarm reaches, or that waits
                bell.start()
            elif word == _END:
                yield Outcome(begun, cases.reader_of(begun), rest[0], rest[1] if len(rest) > 1 else "")
                begun = -1
        bell.cancel()
    if begun >= 0:
        yield Outcome(begun, cases.reader_of(begun), cases.WRONG, f"its process died, {_death(process.returncode)}")


def _death(code: int) -> str:
    return f"of signal {-code}" if code < 0 else f"with exit code {code}"


def report(seed: int, found: list[Outcome]) -> str:
    """Returns how many cases of each reader were read, refused and wrong."""
    counts = Counter((outcome.reader, outcome.state) for outcome in found)
    states = (cases.READ, cases.REFUSED, cases.WRONG)
    rows = [(name, *(counts[name, state] for state in states)) for name in READERS]
    rows.append(("all", *(sum(row[i] for row in rows) for i in (1, 2, 3))))
    lines = [f"{name:28} {read:7} {refused:7} {wrong:7}" for name, read, refused, wrong in rows]
    return "\n".join([f"seed {seed}, {len(found)} cases", f"{'':28} {'read':>7} {'refused':>7} {'wrong':>7}", *lines])


if __name__ == "__main__":
    sys.exit(main())
