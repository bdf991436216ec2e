"""The cells of a plan run by several processes on this machine: each is given a job whenever it is free.

A job is a training, or those that go together. A worker is the same command with `--worker`: it reads the places of the
cells of a job from its standard input, a line each, and answers `ANSWER`. One that dies (out of memory, killed) fails
the job it was at and is replaced.
"""

import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from score_jax.lab.sweeps.plan import Group, Plan, places_of
from score_jax.lab.sweeps.running import begin, record_failed

ANSWER = "\x00done"
_COMMAND = (sys.executable, "-m", "score_jax.lab.sweep")


def run_workers(out: Path, made: Plan, arguments: Sequence[str], n: int, say: Callable[[str], None]) -> None:
    """Has n processes train and evaluate what is not done yet.

    Args:
      out: the folder of the sweep.
      made: its plan.
      arguments: of this command, which the workers are given too.
      n: number of processes.
      say: is told how it goes, in lines.
    """
    begin(out, made.cells)
    waiting: queue.Queue[list[Group]] = queue.Queue()
    for job in made.jobs(n):
        waiting.put(job)
    crew = [_Worker(out, made, arguments, number, waiting, say) for number in range(1, min(n, waiting.qsize()) + 1)]
    threads = [threading.Thread(target=worker.work, daemon=True) for worker in crew]
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.05)
    except (KeyboardInterrupt, SystemExit):
        for worker in crew:
            worker.stop()
        for thread in threads:
            thread.join()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminated(number: int, frame: FrameType | None) -> None:
    del frame
    ending = SystemExit("stopped by SIGTERM; the same command goes on from there")
    ending.code = 128 + number
    raise ending


class _Worker:
    """A process, and the next one where it dies."""

    def __init__(
        self,
        out: Path,
        made: Plan,
        arguments: Sequence[str],
        number: int,
        waiting: "queue.Queue[list[Group]]",
        say: Callable[[str], None],
    ):
        self._out, self._made, self._waiting, self._say = out, made, waiting, say
        self._command, self._log = [*_COMMAND, *arguments, "--worker"], out / "logs" / f"worker-{number}.log"
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False
        self._said_before = 0  # bytes of the log that are not this process's

    def work(self) -> None:
        """Takes one job after another until none waits."""
        while not self._stopped:
            try:
                job = self._waiting.get_nowait()
            except queue.Empty:
                break
            try:
                if not self._handed(job) and not self._stopped:
                    self._fail(job)
            except Exception as error:  # no process to be had, a full disk: the other jobs are not to be lost
                self._say(f"{job[0].run}: not run: {' '.join(str(error).split())}")
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()

    def stop(self) -> None:
        """Ends the process as a signal would, after a checkpoint."""
        self._stopped = True
        if self._process is not None:
            self._process.terminate()

    def _handed(self, job: Sequence[Group]) -> bool:
        """Whether the process came to the end of a job that it was given."""
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(",".join(map(str, places_of(job))) + "\n")
            process.stdin.flush()
        except OSError:
            return False
        for line in process.stdout:
            said = line.rstrip("\n").removesuffix(ANSWER)  # which an object's own output may stand before
            if said:
                self._say(said)
            if line.rstrip("\n").endswith(ANSWER):
                return True
        return False

    def _started(self) -> "subprocess.Popen[str]":
        if self._process is None or self._process.poll() is not None:
            self._log.parent.mkdir(exist_ok=True)
            with self._log.open("a") as log:
                self._said_before = log.tell()
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    start_new_session=True,  # a Ctrl-C is for the parent, which ends them with a checkpoint each
                )
            if self._stopped:  # meanwhile
                self._process.terminate()
        return self._process

    def _fail(self, job: Sequence[Group]) -> None:
        assert self._process is not None
        code = self._process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        how += f" ({signal.Signals(-code).name})" if -code in set(signal.Signals) else ""
        reason = f"the process that ran it ended with {how}"
        said = self._log.read_bytes()[self._said_before :].decode(errors="replace").strip().splitlines()
        if code >= 0 and said:
            reason += f": {said[-1][:300]}"
        record_failed(self._out, [self._made.cells[i] for i in places_of(job)], reason)
        for group in job:
            self._say(f"{group.run}: failed: {reason}")
