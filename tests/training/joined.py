"""Several processes of one program, on this machine: `launch` starts them, and each is what stands in `SCENES`.

python -m tests.training.joined SCENE ARGUMENT … --coordinator=localhost:PORT --num_processes=N --process_id=K
"""

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).parents[2]
LONG = 600.0  # seconds after which a test gives up: on a busy machine, every start of JAX takes a while


class Ended(NamedTuple):
    """How a process ended: exit code, what it printed, when (the clock, in seconds)."""

    code: int
    out: str
    err: str
    at: float


def free_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def flags(n, port):
    """The flags of each process."""
    return [[f"--coordinator=localhost:{port}", f"--num_processes={n}", f"--process_id={k}"] for k in range(n)]


class Processes:
    """Processes that were started."""

    def __init__(self, commands, devices):
        forced = f"--xla_force_host_platform_device_count={devices}"
        speed = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        environment = {**os.environ, "XLA_FLAGS": f"{forced} {speed}", "PYTHONPATH": str(ROOT)}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment, "cwd": ROOT}
        self.all = [subprocess.Popen([sys.executable, "-m", *command], **options) for command in commands]

    def ended(self):
        """Waits for all; how each ended."""
        until, at = time.monotonic() + LONG, {}
        while len(at) < len(self.all) and time.monotonic() < until:
            at |= {k: time.time() for k, one in enumerate(self.all) if k not in at and one.poll() is not None}
            time.sleep(0.02)
        for one in self.all:
            one.kill()
        said = [one.communicate() for one in self.all]
        return [Ended(one.returncode, *said[k], at.get(k, float("inf"))) for k, one in enumerate(self.all)]


def start(scene, *arguments, n=2, devices=1):
    commands = [["tests.training.joined", scene, *map(str, arguments), *told] for told in flags(n, free_port())]
    return Processes(commands, devices)


def launch(scene, *arguments, n=2, devices=1):
    """Runs a scene in n processes; how each ended."""
    return start(scene, *arguments, n=n, devices=devices).ended()


def refuse(who):
    """One refuses what the others wait for."""
    from score_jax.training import hosts
    from score_jax.types import InputError

    if hosts.is_first() == (who == "0"):
        raise InputError("its data are gone")
    hosts.wait_for_all()


def die(who, how):
    """One is killed, while the others sum with it, or are busy by themselves."""
    import jax
    from jax.experimental import multihost_utils

    multihost_utils.process_allgather(np.zeros(1))
    if jax.process_index() == int(who):
        print(f"killed at {time.time()}", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "busy":
        time.sleep(LONG)
    multihost_utils.process_allgather(np.zeros(1))


def interleaved():
    """All devices in turn of one process and another, as a mesh that follows the wires of a machine may have them."""
    import jax

    return sorted(jax.devices(), key=lambda device: (device.id % jax.local_device_count(), device.process_index))


def train_on(workdir, steps, *, fsdp=1, devices=None, gone_after=None, met=None, **changes):
    """Trains the tiny model on all devices, each process on its rows of shuffled batches; the result.

    Args:
      workdir: folder of the run.
      steps: in all.
      fsdp: parts of the state.
      devices: all by default.
      gone_after: batches after which the data are gone; never by default.
      met: called with each hand-out of batches, which it may change.
      changes: of what the loop is told.
    """
    from score_jax import data, training
    from score_jax.losses import times
    from tests.training import tiny

    placement = training.make_placement(fsdp=fsdp, min_size=0, devices=devices)
    x = np.random.default_rng(0).normal(size=(50, tiny.DIMS)).astype(np.float32)
    rows = training.sharding.own_rows(tiny.BATCH, placement.mesh)
    source = data.ArraySource(x)
    if gone_after is not None:
        source = Gone(source, gone_after)
    loader = data.Loader(source, batch_size=tiny.BATCH, steps_per_batch=tiny.K, rows=rows)
    loader = loader if met is None else Met(loader, met)
    how = {"times": times.uniform(), "placement": placement, "decay": training.ema_decay(0.9)}
    step = training.make_train_step(tiny.model(), tiny.objective, tiny.chain(), **how)
    told = {"log_every": 10, "checkpoint_every": 10, "progress": False, "config": tiny.CONFIG} | changes
    return training.train(
        tiny.state(), step, loader, workdir=workdir, placement=placement, steps=steps, steps_per_dispatch=tiny.K, **told
    )


class Wrapped:
    """What it holds, but for what a subclass does otherwise."""

    def __init__(self, held, changed):
        self._held, self._changed = held, changed

    def __getattr__(self, name):
        return getattr(self._held, name)


class Met(Wrapped):
    """A loader whose batches are looked at, or changed, before they are handed out."""

    def __next__(self):
        batches = next(self._held)
        self._changed(batches)
        return batches


def fatal_in_step_12(batches):
    """Of the rows that the second of two processes has."""
    from tests.training import tiny

    step, row = divmod(batches["index"].astype(int), tiny.BATCH)
    batches["x"] = np.where(((step == 12) & (row >= tiny.BATCH // 2))[..., None], tiny.FATAL, batches["x"])


class Gone(Wrapped):
    """A source whose data are gone after so many batches."""

    def __len__(self):
        return len(self._held)

    def batch(self, rows):
        from score_jax.types import InputError

        self._changed -= 1
        if self._changed < 0:
            raise InputError("row 7 cannot be read")
        return self._held.batch(rows)


def vanish(workdir, who):
    """The data of one process are gone in mid-training, with a checkpoint on its way."""
    from score_jax.training import hosts

    train_on(Path(workdir), 10**6, gone_after=8 if hosts.index() == int(who) else None, checkpoint_every=10)


def back(workdir):
    """The second process has batches that no loss is finite of: all go back."""
    train_on(Path(workdir), 30, met=fatal_in_step_12, rollbacks=1)


def full(workdir, who):
    """The disk of one process is full before the second checkpoint."""
    from score_jax.training import hosts
    from tests.training import tiny

    def fill(batches):
        if hosts.index() == int(who) and batches["index"].min() >= 15 * tiny.BATCH:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    train_on(Path(workdir), 10**6, met=fill)


def apart(*workdirs):
    """Each process is given another folder, as on hosts that share none."""
    from score_jax.training import hosts

    train_on(Path(workdirs[hosts.index()]), 10)


def train(workdir, steps, fsdp="1", order="plain"):
    """Goes on with a training, then one process refuses."""
    import jax

    from score_jax.training import hosts
    from score_jax.types import InputError

    devices = interleaved() if order == "interleaved" else None
    result = train_on(Path(workdir), int(steps), fsdp=int(fsdp), devices=devices)
    print(f"{result.step} steps by {jax.process_count()} processes")
    if jax.process_index() == 1:
        raise InputError("its data are gone")
    hosts.wait_for_all()


SCENES = {"refuse": refuse, "die": die, "train": train, "vanish": vanish, "apart": apart, "back": back, "full": full}


def main(scene, *arguments):
    """Plays a scene as one of several processes."""
    from score_jax.lab import joining
    from score_jax.training import peers

    told = [word for word in arguments if not word.startswith("--")]
    cluster, timeout = joining.asked_for()
    peers.run_joined(lambda: SCENES[scene](*told), cluster, join_timeout=timeout)


if __name__ == "__main__":
    main(*sys.argv[1:])
