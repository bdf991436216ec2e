"""Looks at what can be wrong on this machine, and says what mends it.

    python experiments/doctor.py
    python experiments/doctor.py --config=configs/digits.py --workdir=runs/digits --json=doctor.json
    python -m score_jax.lab.doctor

Prints a line for everything it looks at: ok, note (worth knowing) or wrong, what, what was found; below what is wrong
the command that mends it. Python and packages, devices, the cache of compiled programs, data, weights, memory, disk,
clock, locale, open files, and ten seconds of training and sampling a toy on the device in force. With --config its
data, and what it needs of memory and disk; with --workdir that run's folder and checkpoints. Nothing is written but
--json.
Exit code 1 if anything is wrong, else 0.
"""

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from score_jax.lab.doctoring import packages
from score_jax.lab.doctoring.finding import OK, WRONG, Finding, findings_of, in_lines

# What else there is to import may not be installed: it is imported when the packages have been looked at.


def define() -> None:
    """Defines the flags."""
    from absl import flags

    from score_jax.lab import command

    if command.given("config") is None:
        flags.DEFINE_string(
            "config", None, "config file whose data and needs are looked at, with :variant if it has some"
        )
    else:
        command.define_config()
    flags.DEFINE_string("workdir", None, "folder of a run to look at")
    flags.DEFINE_string("json", None, "file to write the findings into")


def main() -> int:
    """Looks at everything, a line at a time; returns the exit code."""
    from absl import flags

    found: list[Finding] = []
    for what, check in _checks(flags.FLAGS.config, flags.FLAGS.workdir):
        lines = findings_of(what, check)
        print(in_lines(lines), flush=True) if lines else None
        found += lines
    if flags.FLAGS.json:
        _write(Path(flags.FLAGS.json), found)
    wrong = sum(finding.state == WRONG for finding in found)
    print(f"{wrong} of {len(found)} are wrong" if wrong else f"nothing of {len(found)} is wrong")
    return int(wrong > 0)


def _write(path: Path, found: list[Finding]) -> None:
    from score_jax import backend
    from score_jax.training.logging import write_json

    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"findings": [finding._asdict() for finding in found], "in_force": backend.in_force()})


def _checks(asked: Any, workdir: str | None) -> Iterator[tuple[str, Callable[[], Iterable[Finding]]]]:
    """Yields what is looked at, in this order: what comes first explains what comes after."""
    from score_jax.lab.doctoring import (
        compilations,
        devices,
        disk,
        folders,
        memory_here,
        sources,
        surroundings,
        trained_toy,
        weights,
    )

    yield "packages", packages.all_of_packages
    yield "plugin", lambda: packages.check_plugins(devices.accelerators())
    yield "devices", devices.all_of_devices
    seen = devices.seen_by_jax()
    yield "surroundings", surroundings.all_of_surroundings
    cache = compilations.compile_folder()
    if not seen.error:
        yield "compile cache", lambda: compilations.check_compile_cache(cache)
    needs = _Needs()
    if asked is None:
        yield "data", sources.check_known_data
    elif not seen.error:
        yield "config", lambda: _of_config(asked, needs)
    yield "weights", weights.check_weights
    yield "memory", lambda: memory_here.all_of_memory(needs.memory, seen.memory)
    places = {"workdir": Path(workdir or "runs"), "temporary files": Path(tempfile.gettempdir())}
    places |= {"compile cache": cache} if cache else {}
    yield "disk", lambda: disk.check_disk(places, {"workdir": needs.disk})
    if workdir is not None:
        yield "workdir", lambda: folders.check_workdir(Path(workdir))
    if not seen.error:
        yield "self-test", trained_toy.check_toy


class _Needs:
    """What a config takes, once it has been looked at: bytes of memory in training, and of its checkpoints."""

    memory: int | None = None
    disk: int = 0


def _of_config(asked: Any, needs: _Needs) -> Iterator[Finding]:
    """Builds the experiment that the flags describe, and says what of it cannot be, or what its data are."""
    import jax

    from score_jax.lab import build, memory, run
    from score_jax.lab.doctoring import sources
    from score_jax.types import InputError

    try:
        experiment = build.experiment(asked)
    except InputError as error:
        yield Finding(WRONG, "config", str(error), "change the setting that this names, --config.SECTION.KEY=VALUE")
        return
    yield Finding(OK, "config", experiment.summary[0])
    yield from sources.check_data(experiment.data.name, experiment.data.train, experiment.summary[1:])
    how, state = experiment.training, jax.eval_shape(lambda: run.first_state(experiment))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state) if hasattr(leaf.dtype, "itemsize"))
    batches = memory.of_batches(experiment.examples.shape, how.batch_size, how.every.dispatch)
    needs.memory = memory.of_parameters(experiment.model.variables) + batches
    needs.disk = (how.keep_last + 1) * size  # the next is written before the oldest goes


def examine() -> NoReturn:
    """Looks at the packages first: where one is missing, nothing else can be imported, and that is said alone."""
    found = findings_of("packages", packages.all_of_packages)
    if any(finding.state == WRONG for finding in found):
        print(in_lines(found), "the rest is looked at once these are mended", sep="\n")
        sys.exit(1)
    from score_jax.lab import command

    command.run(main, define, start=lambda: None)


if __name__ == "__main__":
    examine()
