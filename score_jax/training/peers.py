"""What becomes of a process when another refuses, fails or dies: it ends too, soon, with a line that says why.

Three ways lead there.
 1. A process that ends by an error says so first, in the store that all share (`hosts.store`). Every process looks
    there twice a second, tells whose error it is, and ends.
 2. One that is killed says nothing. Where a collective operation fails of it, as gloo's do at once, there is a roll
    call in the same store: whoever doesn't answer is dead.
 3. Else the runtime notices: at once if it is process 0 that died, of others after `hosts.HEARTBEAT` seconds. It then
    calls abort() after a page of C++ log, and no option of JAX changes that. So what C++ writes to file descriptors
    1 and 2 passes through a thread here: at the runtime's last words it ends the process with a line of its own.

A process that ends so leaves its checkpoints as a kill does: whole, or without a name.
"""

import contextlib
import ctypes
import json
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import jax

from score_jax.training import hosts
from score_jax.training.hosts import Cluster
from score_jax.types import InputError

_TOGETHER = (0, 128 + signal.SIGTERM, 128 + signal.SIGINT)  # exit codes with which all end at once
DIED = 1  # exit code where another process has died
_POLL = 0.5  # seconds between two looks at what others say
_LINGER = 0.5  # seconds between the runtime's last words and the end
_ANSWER = 3.0  # seconds within which a process that lives answers, or has heard
_STORE = "score_jax/peers/"
_GOES_ON = "the same command goes on from the last checkpoint"
_LAST_WORDS = "distributed service detected fatal errors"
_LOGGED = re.compile(r"[IWEF]\d{4} ")  # how a message begins, which may have more lines
_MORE = 50  # lines of a message that follow its first: what comes later is not the runtime's
_GLOO = re.compile(r"\[Gloo\]|connected peer ranks is")  # its threads write into each other's lines
_RUNTIME = re.compile(r"[IWEF]\d{4} \S+ +\d+ coordination_service")


class Refused(SystemExit):
    """The end of a command by an error of one line, which is `line`."""

    def __init__(self, line: str, code: int = 2):
        super().__init__(code)
        self.line = line


def run_joined(call: Callable[[], Any], cluster: Cluster, *, join_timeout: int) -> NoReturn:
    """Calls as one of several processes, then ends the process; by an error, the others end too.

    Args:
      call: returns, or raises SystemExit with the exit code, `Refused` with a line for the others to say.
      cluster: where the processes meet.
      join_timeout: seconds to wait for them.
    """
    peer, code = _Peer(cluster, join_timeout), 0
    try:
        hosts.join(cluster, join_timeout=join_timeout)
        peer.listen()
        call()
    except Refused as error:
        peer.fail(error, error.line, int(error.code or 0))
    except InputError as error:
        peer.fail(error, str(error), 2)
    except SystemExit as ending:
        code = int(ending.code or 0)
        if ending.__cause__ is not None:  # it failed after a signal, of which the others may not know yet
            peer.fail(ending, str(ending.__cause__), code)
        if code not in _TOGETHER:
            peer.fail(ending, f"it ended with code {code}", code)
    except BaseException as error:
        peer.fail(error, f"{type(error).__name__}: {error}", DIED, shown=traceback.format_exc())
    peer.leave(code)


class _Peer:
    """This process among the others. The first of its threads that ends it has the word."""

    def __init__(self, cluster: Cluster, join_timeout: int):
        self._cluster, self._join_timeout = cluster, join_timeout
        self._joined, self._done, self._word = False, threading.Event(), threading.Lock()
        self._held: deque[str] = deque(maxlen=1000)  # what the runtime says of processes, before its last words
        # What Python writes takes no detour.
        self._stdout, self._stderr = os.dup(1), os.dup(2)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(one), "w", buffering=1) for one in (1, 2))
        threading.Thread(target=self._pass_on, args=[_diverted()], daemon=True).start()

    def listen(self) -> None:
        """Begins to hear what others say; only the first process goes on printing, and warns."""
        self._joined = True
        if not hosts.is_first():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            logging.getLogger("score_jax").setLevel(logging.ERROR)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def leave(self, code: int) -> NoReturn:
        """Ends once the others are done too."""
        if self._joined:
            hosts.wait_for_all()
            self._done.set()
            self._listener.join()
            jax.distributed.shutdown()
        os.dup2(self._stdout, 1)
        os.dup2(self._stderr, 2)
        sys.exit(code)

    def fail(self, error: BaseException, line: str, code: int, shown: str | None = None) -> NoReturn:
        """Ends by an error, or by the death of a process where that is its cause; the others hear of it.

        Args:
          error: what was raised.
          line: what it says.
          code: exit code.
          shown: what this process shows of it; the line by default.
        """
        dead = [] if _is_refusal(error) or not self._joined else self._missing()
        if dead:
            line, code = f"{_named(dead)} died or cannot be reached; {_GOES_ON}", DIED
            self._say(line, code)
            self._end(code, f"error: {line}")
        if self._joined:
            self._say(f"process {hosts.index()} {'failed' if code == DIED else 'refused'}: {line}", code)
        self._end(code, shown or f"error: {line}")

    def _say(self, line: str, code: int) -> None:
        """Tells the others; the first, without whom nothing is heard, waits until they have."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 is gone
            hosts.store().key_value_set(f"{_STORE}said/{hosts.index()}", json.dumps([line, code]))
            _let_hear()

    def _listen(self) -> None:
        me = hosts.index()
        while not self._done.wait(_POLL):
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 is gone: the runtime will tell
                found = dict(hosts.store().key_value_dir_get(_STORE))
                if f"{_STORE}roll_call" in found:
                    hosts.store().key_value_set(f"{_STORE}here/{me}", "", allow_overwrite=True)
                others = [place for place in sorted(found) if place.startswith(f"{_STORE}said/")]
                said = [found[place] for place in others if place != f"{_STORE}said/{me}"]
                if said:
                    hosts.store().key_value_set(f"{_STORE}heard/{me}", "", allow_overwrite=True)
                    _let_hear()
                    line, code = json.loads(said[0])
                    self._end(code, f"error: {line}")

    def _missing(self) -> list[int]:
        """Calls the roll; returns who doesn't answer."""
        everyone = set(range(hosts.total()))
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            hosts.store().key_value_set(f"{_STORE}roll_call", "", allow_overwrite=True)
            _soon(lambda: everyone <= _places("here"))
            return sorted(everyone - _places("here"))
        return [0]  # who keeps the store

    def _pass_on(self, pipe: int) -> None:
        """Passes on what C++ writes to file descriptors 1 and 2, but for what the runtime says of processes."""
        of_runtime = 0  # lines that its message may still have
        for line in os.fdopen(pipe, "r", errors="replace"):
            if _LOGGED.match(line):
                of_runtime = _MORE if _RUNTIME.match(line) or _LAST_WORDS in line else 0
            if of_runtime or _GLOO.search(line):
                of_runtime = max(of_runtime - 1, 0)
                self._held.append(line)
            else:
                os.write(self._stderr, line.encode())
            if _LAST_WORDS in line:  # more of them may come, but not for long
                threading.Timer(_LINGER, self._end_by_runtime).start()

    def _end_by_runtime(self) -> None:
        if hosts.is_first():
            time.sleep(_LINGER)  # of whom the others hear
        self._end(DIED, f"error: {self._of_runtime()}")

    def _of_runtime(self) -> str:
        """What the runtime's last words come to."""
        where, all_of_them = self._cluster.coordinator, self._cluster.num_processes
        if self._joined:
            dead = [int(line) for line in self._held if re.fullmatch(r"\d+\s*", line)] or [0]
            return f"{_named(dead)} died or cannot be reached; {_GOES_ON}"
        if any("ALREADY_EXISTS" in line for line in self._held):
            return f"another process has --process_id={self._cluster.process_id} too: each has one of its own"
        if self._cluster.process_id == 0:
            return (
                f"not all of {all_of_them} processes came to {where} within {self._join_timeout} s: were all started?"
            )
        return (
            f"process 0 wasn't reached at {where or 'the address that the cluster names'}, or not all processes were "
            f"there, within {self._join_timeout} s: was each started, with the same --num_processes?"
        )

    def _end(self, code: int, said: str | None = None) -> NoReturn:
        self._word.acquire()  # and never released
        if said is not None:
            os.write(self._stderr, f"{said.rstrip()}\n".encode())
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        hosts.throw_away()
        os._exit(code)


def _is_refusal(error: BaseException | None) -> bool:
    """Whether an error is this process's own: nothing in its chain came from the runtime."""
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    of_user = any(isinstance(one, InputError | Refused) for one in chain)
    return of_user and not any(isinstance(one, jax.errors.JaxRuntimeError) or "Gloo" in str(one) for one in chain)


def _named(processes: Iterable[int]) -> str:
    numbers = [str(one) for one in sorted(set(processes))]
    return f"process {numbers[0]}" if len(numbers) == 1 else f"processes {', '.join(numbers)}"


def _places(kind: str) -> set[int]:
    """The processes that stand in a folder of the store."""
    return {int(place.rsplit("/", 1)[1]) for place, _ in hosts.store().key_value_dir_get(f"{_STORE}{kind}/")}


def _let_hear() -> None:
    """In the first process, without whom nothing is heard, waits until the others have, but for those that spoke."""
    if hosts.is_first():
        others = set(range(1, hosts.total()))
        _soon(lambda: others <= _places("heard") | _places("said"))


def _soon(done: Callable[[], bool]) -> None:
    """Waits for it, but not long."""
    until = time.monotonic() + _ANSWER
    while not done() and time.monotonic() < until:
        time.sleep(_POLL / 5)


def _diverted() -> int:
    """Leads file descriptors 1 and 2 into a pipe, whose end it returns, and gives abort() the time to be told of.

    abort() calls the handler of SIGABRT and then ends the process all the same. As that handler the C library's
    `sleep` is called with the number of the signal, so that the thread that aborts sleeps for six seconds.
    """
    pipe, into = os.pipe()
    os.dup2(into, 1)
    os.dup2(into, 2)
    os.close(into)
    library = ctypes.CDLL(None)
    library.signal.argtypes, library.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    library.signal(signal.SIGABRT, ctypes.cast(library.sleep, ctypes.c_void_p))
    return pipe
