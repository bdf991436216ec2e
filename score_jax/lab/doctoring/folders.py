"""A run's folder: whether it can be read and written, who works in it, and whether its checkpoints are whole."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from score_jax.lab.doctoring.finding import NOTE, OK, WRONG, Finding
from score_jax.training import checkpoint, digests
from score_jax.types import InputError


def check_workdir(workdir: Path) -> Iterator[Finding]:
    """Looks at a run's folder; nothing in it is changed."""
    what = "workdir"
    if not workdir.exists():
        yield Finding(OK, what, f"{workdir} is not there yet: training makes it")
        return
    if not os.access(workdir, os.R_OK | os.W_OK | os.X_OK):
        yield Finding(WRONG, what, f"{workdir} cannot be written", f"chmod -R u+rwX {workdir}")
    try:
        checkpoint.read_config(workdir)
        yield Finding(OK, what, f"{workdir} is the folder of a run")
    except InputError as error:
        yield Finding(WRONG, what, str(error), f"mv {workdir} {workdir}-damaged, or give another folder")
    yield from _locked(workdir)
    yield from check_checkpoints(workdir)


def _locked(workdir: Path) -> Iterator[Finding]:
    """Says whether a process has the folder: the lock is the system's, so that one left by a dead process is none."""
    try:
        with (workdir / ".lock").open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return
    except BlockingIOError:
        yield Finding(NOTE, "workdir", f"a process trains in {workdir}: fuser {workdir / '.lock'} tells which")
    except OSError as error:
        said = f"{workdir} cannot be locked ({error.strerror}): let no second process train in it"
        yield Finding(NOTE, "workdir", said)


def check_checkpoints(workdir: Path) -> Iterator[Finding]:
    """Compares every checkpoint with its digests."""
    what, damaged, steps = "checkpoints", {}, checkpoint.steps(workdir)
    for step in steps:
        try:
            digests.check_digests(workdir / "checkpoints" / str(step))
        except (ValueError, OSError) as error:
            damaged[step] = " ".join(str(error).split())[:200]
    whole = [step for step in steps if step not in damaged]
    listed = "; ".join(f"{step} ({reason})" for step, reason in damaged.items())
    if steps and not whole:
        cure = f"mv {workdir} {workdir}-damaged, and train anew"
        yield Finding(WRONG, what, f"none of {len(steps)} can be read: {listed}", cure)
    elif damaged:
        used = f"step {whole[0]} is the newest that is whole"
        yield Finding(WRONG if steps[0] in damaged else NOTE, what, f"damaged: {listed}; {used}", _again(workdir))
    else:
        yield Finding(OK, what, f"{len(steps)}, all whole" + (f", the newest of step {steps[0]}" if steps else ""))
    drafts = sorted(path.name for path in (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))
    if drafts:
        said = f"{len(drafts)} unfinished, {drafts[0]}: being written, or left by a process that died"
        yield Finding(NOTE, what, f"{said}; training removes them")


def _again(workdir: Path) -> str:
    return f"python experiments/train.py --workdir={workdir} --config=…  (goes on from there, keeps these in damaged/)"
