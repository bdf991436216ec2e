"""Several processes as one program: how they find each other and how they agree.

    join(cluster)  ─▶  the devices of all processes are one list; what follows runs in each of them, at the same time

JAX runs the same program in every process, on a mesh of all devices. Process 0, the first, alone writes and prints.
What depends on a file, a folder or a clock is found out by the first and told to the others (`told_by_first`): two
processes that found it out for themselves might part, and a collective operation of one would wait for ever. So the
others also make what the first writes, pictures and tables, and put it into a folder that is thrown away (`own`).

What is agreed on goes through the key-value store of JAX's coordinator, by which the runtime itself and Orbax agree
too: no device waits for it, nor it for a device, however long a process takes. With one process there is nothing to
agree on: `told_by_first(make)` is `make()`.

JAX's own notice of a pre-emption is switched off: it would take SIGTERM for itself, which is every scheduler's notice
(SLURM's, Kubernetes', that of a TPU VM that is taken away). `signals` notes it in any process, and all stop by it.
"""

import atexit
import contextlib
import io
import itertools
import json
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax._src import distributed  # the store has no public name; Orbax reaches it so too
from jax.experimental import multihost_utils

from score_jax.types import InputError

_T = TypeVar("_T")

HEARTBEAT = 20  # seconds without a sign of life after which the runtime holds a process to be dead
_SHUTDOWN = 600  # seconds within which processes that are done leave together
_VISIBLE = 10.0  # seconds within which a file that one process wrote is seen by all, on a file system that they share
_MARK = ".shared-"  # how the name of such a file begins
_AT_ONCE = 2**20  # bytes of a value in the store
_AGREED = itertools.count()  # a number for everything that is agreed on: all processes agree on the same in turn


class Cluster(NamedTuple):
    """Where the processes meet and which of them this is; all None: JAX finds out by SLURM, TPU, Kubernetes, Open MPI.

    Attributes:
      coordinator: "host:port" of process 0, a port that is free there.
      num_processes: how many processes there are.
      process_id: which this is, from 0.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def cluster_of(coordinator: str | None, num_processes: int | None, process_id: int | None) -> Cluster:
    """Returns the cluster of processes that are told of each other.

    Raises:
      InputError: unless all three are given, and possible.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if coordinator is None or num_processes is None or process_id is None:
        raise InputError(
            f"{' and '.join(missing)} missing: several processes need --coordinator=HOST:PORT, --num_processes=N and "
            "--process_id=K, or --distributed alone where a scheduler starts them"
        )
    if not 0 <= process_id < num_processes:
        raise InputError(
            f"--process_id is 0 to {num_processes - 1} of --num_processes={num_processes}, got {process_id}"
        )
    found = re.fullmatch(r"(.+):(\d{1,5})", coordinator)
    if not found or not 0 < int(found[2]) < 2**16:
        raise InputError(f"--coordinator is HOST:PORT of process 0, such as node1:12345, got {coordinator!r}")
    return Cluster(coordinator, num_processes, process_id)


def join(cluster: Cluster, *, join_timeout: int) -> None:
    """Joins the other processes; to be called before the first array is made.

    Args:
      cluster: which processes.
      join_timeout: seconds to wait for the others; where they don't come the runtime ends the process (`peers`).

    Raises:
      InputError: where there is no cluster, the coordinator's name is unknown, or its port taken.
    """
    jax.config.update("jax_enable_preemption_service", False)
    detection = None
    if cluster.coordinator is not None:
        _require_address(cluster)
        detection = "deactivate"  # what is not given stays so: the devices are all that the process sees
    try:
        jax.distributed.initialize(
            *cluster,
            cluster_detection_method=detection,
            initialization_timeout=join_timeout,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=_SHUTDOWN,
        )
    except Exception as error:  # JAX's detection raises all kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if cluster.coordinator is not None:
            raise InputError(f"--coordinator={cluster.coordinator}: {reason}") from error
        raise InputError(
            f"--distributed: JAX finds no cluster here ({reason}): start the processes by srun, on all workers of a "
            "TPU, in Kubernetes or by mpirun; elsewhere give --coordinator, --num_processes and --process_id"
        ) from error


def _require_address(cluster: Cluster) -> None:
    """Refuses a name that is unknown and, in process 0, a port that is taken: the runtime would try for minutes."""
    assert cluster.coordinator is not None
    host, port = cluster.coordinator.rsplit(":", 1)
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except OSError as error:
        raise InputError(f"--coordinator={cluster.coordinator}: {host} is unknown ({error.strerror})") from error
    try:
        if cluster.process_id == 0:
            socket.create_server(("", int(port))).close()
    except OSError as error:
        raise InputError(
            f"--coordinator={cluster.coordinator}: port {port} cannot be had ({error.strerror}): choose another"
        ) from error


def meet() -> None:
    """Lets the devices of all processes meet: gloo gives up on a first meeting that takes more than 30 seconds."""
    wait_for_all()
    multihost_utils.sync_global_devices("met")


def store() -> Any:
    """Returns the key-value store that the processes share."""
    return distributed.global_state.client


def index() -> int:
    """Returns which process this is, as `jax.process_index()`, but without starting JAX's backend."""
    return distributed.global_state.process_id


def total() -> int:
    """Returns how many processes there are, likewise."""
    return distributed.global_state.num_processes


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return index() == 0


def several() -> bool:
    """Whether there are other processes."""
    return total() > 1


def own(folder: Path) -> Path:
    """Returns the folder in the first process, in any other one of its own, which `throw_away` removes."""
    return folder if is_first() else Path(_waste(), folder.name)


@cache
def _waste() -> str:
    atexit.register(throw_away)
    return tempfile.mkdtemp(prefix="score_jax-")


def throw_away() -> None:
    """Removes what this process, not the first, has written: at its end, of whatever kind."""
    if _waste.cache_info().currsize:
        shutil.rmtree(_waste(), ignore_errors=True)


def wait_for_all() -> None:
    """Returns once every process is here."""
    any_of(0)


def any_of(number: int) -> int:
    """Returns a number other than 0 that a process gives, the same in all; 0 where none does. Waits for all."""
    if not several():
        return number
    turn = next(_AGREED)
    place = f"score_jax/agreed/{turn}"
    if number:
        store().key_value_set(f"{place}/number", str(number), allow_overwrite=True)
    store().key_value_increment(f"{place}/here", 1)
    _until(lambda: _read(f"{place}/here") == str(total()))
    if is_first():
        store().key_value_delete(f"score_jax/agreed/{turn - 1}/")  # which all have left
    return int(_read(f"{place}/number") or 0)


def told_by_first(make: Callable[[], _T]) -> _T:
    """Returns in all processes what `make` returns in the first, of what JSON holds; the others don't call it.

    What it raises in the first ends that process, and so the others.
    """
    if not several():
        return make()
    return json.loads(_bytes_by_first(lambda: json.dumps(make()).encode()))


def arrays_by_first(make: Callable[[], dict[str, np.ndarray] | None]) -> dict[str, np.ndarray] | None:
    """Returns in all processes the arrays by name that `make` returns in the first, or None likewise."""
    if not several():
        return make()

    def written() -> bytes:
        made, file = make(), io.BytesIO()
        if made is not None:
            np.savez(file, **made)  # type: ignore[arg-type]
        return file.getvalue()

    told = _bytes_by_first(written)
    return dict(np.load(io.BytesIO(told), allow_pickle=False)) if told else None


def _bytes_by_first(make: Callable[[], bytes]) -> bytes:
    """In pieces that the store takes, and out of it again once all have them."""
    place = f"score_jax/told/{next(_AGREED)}"
    if is_first():
        made = make()
        pieces = [made[i : i + _AT_ONCE] for i in range(0, len(made), _AT_ONCE)]
        for i, piece in enumerate(pieces):
            store().key_value_set_bytes(f"{place}/{i}", piece)
        store().key_value_set(place, str(len(pieces)))
    _until(lambda: _read(place) is not None)
    told = b"".join(store().key_value_try_get_bytes(f"{place}/{i}") for i in range(int(_read(place) or 0)))
    wait_for_all()
    if is_first():
        store().key_value_delete(f"{place}/")
    return told


def _read(place: str) -> str | None:
    """What the store has in a place, if anything."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # NOT_FOUND; of a store that is gone the runtime tells
        return store().key_value_try_get(place)
    return None


def _until(done: Callable[[], bool]) -> None:
    """Looks often at first, later ten times a second: in between, signals and other threads have their turn."""
    pause = 0.001
    while not done():
        time.sleep(pause)
        pause = min(2 * pause, 0.1)


def require_alike(facts: Mapping[str, Any]) -> None:
    """Checks that what has to be equal in all processes is.

    Args:
      facts: what JSON holds, by name.

    Raises:
      InputError: in a process that differs from the first: with what differs.
    """
    mine = json.loads(json.dumps(facts, default=str))
    first = told_by_first(lambda: mine)
    other = [name for name in sorted(first.keys() | mine.keys()) if first.get(name) != mine.get(name)]
    if other:
        shown = [f"{name} is {mine.get(name)} here and {first.get(name)} in process 0" for name in other[:3]]
        more = [f"and {len(other) - 3} more"] if len(other) > 3 else []
        raise InputError(f"all processes have to be started alike: {'; '.join(shown + more)}")


def require_shared(folder: Path) -> None:
    """Checks that all processes see the folder that the first has made.

    Raises:
      InputError: in a process that doesn't.
    """
    if not several():
        return
    mark = folder / told_by_first(lambda: _MARK + secrets.token_hex(4))
    if is_first():
        mark.touch()
    wait_for_all()
    until = time.monotonic() + _VISIBLE
    _until(lambda: mark.exists() or time.monotonic() > until)
    if not mark.exists():
        raise InputError(
            f"{folder} on {socket.gethostname()} is not the folder that process 0 writes into: several processes need "
            "one on a file system that all of them share"
        )
    wait_for_all()
    if is_first():
        mark.unlink()


def is_mark(name: str) -> bool:
    """Whether a file is one that `require_shared` makes, left by processes that died meanwhile."""
    return re.fullmatch(re.escape(_MARK) + "[0-9a-f]{8}", name) is not None
