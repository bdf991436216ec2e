"""Run folders and checkpoints: what a run leaves behind, and how it goes on from there.

A run folder is known by its `config.json`, and bound to it by the first checkpoint: what a start that failed before
leaves is overwritten by the next. `claim` takes a folder only if it is new, empty, such a start's, or a run of the same
config, so that nothing of anyone else's is overwritten and no two settings mix in one curve; and it holds a lock on
it, so that no two processes train in it at once.

A checkpoint (Orbax, written in the background) has two items. `state` is the `TrainState`: parameters, their average,
optimizer, step and key. `run` is JSON: the position in the data, the partial sums of the metrics, the config, the step,
and a checksum of the state as it was on the device. Beside them `sha256.json` has the digest of every file, itself
included, written before the checkpoint takes its name: Orbax notices some missing and cut-off files, and no flipped
bit. A damaged checkpoint is named and the one before it used.
"""

import base64
import contextlib
import fcntl
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from score_jax.training import digests, hosts, leaks, quiet
from score_jax.training.logging import write_json
from score_jax.training.state import TrainState
from score_jax.types import Array, InputError, PyTree

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

_log = logging.getLogger(__name__)

_LOCK = ".lock"
_CHECKPOINTS = "checkpoints"
_DAMAGED = "damaged"
_FILES = (_LOCK, "config.json", "environment.json", "metrics.jsonl", "wandb_run.txt")  # of a run folder
_FOLDERS = (_CHECKPOINTS, _DAMAGED, "tensorboard")
_LEFT = {*_FILES, _CHECKPOINTS, "tensorboard", "wandb"}  # by a start that failed before its first checkpoint
_SHOWN = 8  # differences of two configs that an error lists


class Restored(NamedTuple):
    """A checkpoint read back: the state, the loader's position, the metrics' partial sums, and the step."""

    state: TrainState
    position: Any
    window: Any
    step: int


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, Mapping):
        return {prefix[:-1]: config}
    return {key: value for name, part in config.items() for key, value in _flat(part, f"{prefix}{name}.").items()}


def _normal(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what comes back when the config is written as JSON and read again."""
    return json.loads(json.dumps(config, default=str))


def binding(config: Mapping[str, Any], may_differ: Collection[str] = ()) -> dict[str, Any]:
    """Returns the settings, by dotted key, that a run cannot go on with changed: all but `may_differ`."""
    free = lambda key: any(key == name or key.startswith(f"{name}.") for name in may_differ)
    return {key: value for key, value in _flat(_normal(config)).items() if not free(key)}


def config_differences(was: Mapping[str, Any], now: Mapping[str, Any], may_differ: Collection[str] = ()) -> list[str]:
    """Lists `key: was → now` for every key that differs; `may_differ` names keys, or sections, that are let pass."""
    old, new = binding(was, may_differ), binding(now, may_differ)
    show = lambda side, key: json.dumps(side[key]) if key in side else "absent"
    keys = sorted(old.keys() | new.keys())
    return [f"{key}: {show(old, key)} → {show(new, key)}" for key in keys if show(old, key) != show(new, key)]


def _refuse_other_config(where: Path, was: Mapping[str, Any], now: Mapping[str, Any], may_differ) -> None:
    differences = config_differences(was, now, may_differ)
    if differences:
        more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise InputError(
            f"{where} belongs to another config ({'; '.join(differences[:_SHOWN])}{more}): "
            "restore these values, or give a new workdir"
        )


def read_config(workdir: Path | str) -> dict[str, Any]:
    """Returns the config of a run folder.

    Raises:
      InputError: where there is no run.
    """
    path = Path(workdir) / "config.json"
    _refuse_odd_entries(Path(workdir))
    try:
        config = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{workdir} is not the folder of a run: it has no config.json") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}): it should hold the config of a run") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} should hold the config of a run, a JSON object, not {type(config).__name__}")
    return config


def _refuse_odd_entries(workdir: Path) -> None:
    """Refuses a folder where a run's file is a folder or a pipe, which would hang, or its folder a file."""
    there = [name for name in (*_FILES, *_FOLDERS) if os.path.exists(workdir / name)]
    odd = [name for name in there if not (os.path.isdir if name in _FOLDERS else os.path.isfile)(workdir / name)]
    if odd:
        kind = "a folder" if odd[0] in _FOLDERS else "a file"
        raise InputError(f"{workdir / odd[0]} should be {kind} of the run: move it away, or give a new workdir")


@contextlib.contextmanager
def claim(workdir: Path | str, config: Mapping[str, Any], *, may_differ: Collection[str] = ()) -> Iterator[Path]:
    """While the context lasts, `workdir` is the folder of the run with this config, and of no other process; its path.

    Args:
      workdir: a new or empty folder, that of a run with the same config, or of one that failed before it had a
        checkpoint.
      config: nested mapping that JSON can hold.
      may_differ: keys, or sections, that may change when a run goes on, such as "training.steps"; the new values are
        written to config.json.

    Raises:
      InputError: of a folder with other things in it, another run's, one that another process trains in, or one that
        cannot be written; it is not touched. Of several processes the first claims the folder, for all.
    """
    workdir = Path(workdir).absolute()
    with contextlib.ExitStack() as stack:
        if hosts.is_first():
            _claim(workdir, config, may_differ, stack)
        hosts.require_shared(workdir)
        yield workdir


def _claim(workdir: Path, config: Mapping[str, Any], may_differ: Collection[str], stack: contextlib.ExitStack) -> None:
    try:
        _refuse_foreign(workdir, config, may_differ)
        workdir.mkdir(parents=True, exist_ok=True)
        _lock(workdir, stack)
        _refuse_foreign(workdir, config, may_differ)  # it may have become another's before it was locked
        if not _is_bound(workdir):
            for name in ("metrics.jsonl", "environment.json"):
                (workdir / name).unlink(missing_ok=True)
        for name in filter(hosts.is_mark, os.listdir(workdir)):
            (workdir / name).unlink()
        write_json(workdir / "config.json", _normal(config))
    except OSError as error:
        raise InputError(f"workdir {workdir} cannot be written ({error.strerror}): give another folder") from error


def steps(workdir: Path) -> list[int]:
    """Returns the steps of the checkpoints that have taken their name, newest first, damaged ones included."""
    folder = workdir / _CHECKPOINTS
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted((int(name) for name in names if re.fullmatch(r"0|[1-9]\d{0,17}", name)), reverse=True)


def _refuse_foreign(workdir: Path, config: Mapping[str, Any], may_differ: Collection[str]) -> None:
    _refuse_pattern(workdir)
    if not workdir.exists():
        return
    if not workdir.is_dir():
        raise InputError(f"workdir {workdir} is a file: give a new or empty folder")
    _refuse_odd_entries(workdir)
    entries = sorted(os.listdir(workdir))
    if "config.json" in entries:
        if _is_bound(workdir):
            _refuse_other_config(workdir, read_config(workdir), config, may_differ)
        return
    # A process that died in its first moment leaves the lock and perhaps the draft of config.json.
    others = [name for name in entries if name != _LOCK and not _is_draft(name)]
    if others:
        listed = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        raise InputError(f"workdir {workdir} holds {listed} but no config.json, so it is no run: give a new folder")


def _refuse_pattern(workdir: Path) -> None:
    """Refuses a name that Orbax looks for as a pattern: it writes there, and then finds no checkpoint, or another's."""
    odd = re.search(r"[\[*?\\]", str(workdir))
    if odd:
        raise InputError(f"{workdir} has {odd[0]} in its name, which Orbax takes for a pattern: give it another name")


def _is_bound(workdir: Path) -> bool:
    """Whether a folder is someone else's, or a run's that has checkpoints or more than a start that failed leaves."""
    entries = {name for name in os.listdir(workdir) if not _is_draft(name)}
    return _LOCK not in entries or bool(steps(workdir)) or not entries <= _LEFT


def _is_draft(name: str) -> bool:
    """Whether it is what a process that died while it wrote a file leaves."""
    return (
        hosts.is_mark(name)
        or re.fullmatch(r"\.(config|environment)\.json\.\d+|\.metrics\.jsonl\.\d+", name) is not None
    )


def _lock(workdir: Path, stack: contextlib.ExitStack) -> None:
    """Locks the folder until the stack closes, or the process dies in whatever way."""
    file = stack.enter_context((workdir / _LOCK).open("a"))  # a link's target is not to be emptied
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"another process is training in {workdir}: wait for it, or give a new workdir") from error
    except OSError as error:
        _log.warning("%s cannot be locked (%s): let no second process train in it", workdir, error.strerror)


def open_checkpoints(
    workdir: Path | str, *, keep_last: int = 3, keep_every: int | None = None, read_only: bool = False
) -> "ocp.CheckpointManager":
    """Opens `workdir/checkpoints`.

    Args:
      workdir: the run folder.
      keep_last: number of newest checkpoints to keep, at least 1.
      keep_every: also keep those whose step is a multiple of this.
      read_only: for sampling and evaluation: makes and removes nothing.
    """
    import orbax.checkpoint as ocp  # deferred, here and below: half a second

    from score_jax.training.unfinished import Unfinished

    if keep_last < 1 or (keep_every is not None and keep_every < 1):
        raise InputError(f"keep_last and keep_every must be at least 1, got {keep_last} and {keep_every}")
    policies = ocp.checkpoint_managers
    kept: list[Any] = [policies.LatestN(keep_last)]
    if keep_every is not None:
        kept.append(policies.EveryNSteps(keep_every))
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(kept),
        save_interval_steps=0 if read_only else 1,
        create=not read_only,
        read_only=read_only,
        cleanup_tmp_directories=not read_only,  # of a process that died while it wrote
        lightweight_initialize=True,  # a damaged description is none of the other checkpoints' business
        temporary_path_class=Unfinished,
    )
    workdir = Path(workdir).absolute()
    folder = workdir / _CHECKPOINTS
    _refuse_pattern(workdir)
    _refuse_odd_entries(workdir)
    if read_only and not folder.is_dir():
        raise InputError(f"{workdir} has no checkpoints yet: train first, or give another workdir")
    quiet.orbax()
    leaks.mend()
    handlers = {"state": ocp.StandardCheckpointHandler(), "run": ocp.JsonCheckpointHandler()}
    return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)


@jax.jit
def checksum(tree: PyTree) -> Array:
    """Returns a uint32 that changes with any single number of `tree`: sum of bits × odd weights, modulo 2³²."""

    def of_leaf(x: Array) -> Array:
        x = jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        x = x.astype(jnp.uint8) if x.dtype == bool else x
        width = min(x.dtype.itemsize, 4)
        bits = jax.lax.bitcast_convert_type(x, f"uint{8 * width}").ravel().astype(jnp.uint32)
        return (bits * (2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1)).sum(dtype=jnp.uint32)

    sums = jnp.stack([of_leaf(leaf) for leaf in jax.tree.leaves(tree)])
    return of_leaf(sums)


def _as_json(position: Any) -> Any:
    return {"base64": base64.b64encode(position).decode()} if isinstance(position, bytes) else position


def _from_json(position: Any) -> Any:
    if isinstance(position, dict) and position.keys() == {"base64"}:
        return base64.b64decode(position["base64"])
    return position


def save_state(
    manager: "ocp.CheckpointManager",
    step: int,
    state: TrainState,
    *,
    config: Mapping[str, Any],
    position: Any = None,
    window: Any = None,
) -> None:
    """Starts writing a checkpoint; returns once the arrays are copied, so that `state` may be donated.

    Args:
      manager: of `open_checkpoints`.
      step: number of updates made.
      state: to be saved.
      config: of the run.
      position: the loader's `get_state()`, JSON or bytes.
      window: partial sums of the metrics, JSON.
    """
    import orbax.checkpoint as ocp

    run = {
        "checksum": int(checksum(state)),
        "config": _normal(config),
        "position": _as_json(position),
        "step": step,
        "window": window,
    }
    items = ocp.args.Composite(state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run))
    if not manager.save(step, args=items):
        raise RuntimeError(f"Orbax declined to write the checkpoint of step {step} into {manager.directory}")


def _leaves(tree: PyTree) -> dict[str, str]:
    """Returns dtype and shape of every array by its path, the same for a state and for Orbax's description of one."""
    with_paths = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    leaves = {_path(path): x for path, x in with_paths if hasattr(x, "shape")}
    leaves.pop("key", None)  # Orbax describes the key's words
    return {name: f"{jnp.dtype(x.dtype)} {tuple(x.shape)}" for name, x in leaves.items()}


def _path(path: tuple[Any, ...]) -> str:
    return ".".join(str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k)))) for k in path)


def parameters(workdir: Path | str) -> int | None:
    """Returns how many parameters a run trains, by the description of its newest checkpoint; None if there is none."""
    there = steps(Path(workdir))
    if not there:
        return None
    try:
        with open_checkpoints(workdir, read_only=True) as manager:
            tree = manager.item_metadata(there[0])["state"]
        leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
        return sum(math.prod(x.shape) for path, x in leaves if _path(path).startswith("params."))
    except Exception as error:  # Orbax and TensorStore raise all kinds
        _log.warning("%s: %s", workdir, error_line(error))
        return None


def _refuse_other_arrays(where: Path, manager: "ocp.CheckpointManager", step: int, template: TrainState) -> None:
    saved, wanted = _leaves(manager.item_metadata(step)["state"]), _leaves(template)
    if not saved:
        raise ValueError("its description cannot be read")
    different = [name for name in sorted(saved.keys() | wanted.keys()) if saved.get(name) != wanted.get(name)]
    if different:
        name = different[0]
        raise InputError(
            f"{where} doesn't fit this network and optimizer: {name} is {saved.get(name, 'absent')} there and "
            f"{wanted.get(name, 'absent')} here ({len(different)} array(s) differ)"
        )


def _read(manager: "ocp.CheckpointManager", step: int, template: TrainState) -> tuple[TrainState, dict[str, Any]]:
    import chex
    import orbax.checkpoint as ocp

    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or first), template)
    items = ocp.args.Composite(state=ocp.args.StandardRestore(like), run=ocp.args.JsonRestore())
    read = manager.restore(step, args=items)
    # Orbax casts and reshapes to what it is asked for, and bits, which the checksum is of, know no types.
    chex.assert_trees_all_equal_shapes_and_dtypes(read["state"], like)
    if int(checksum(read["state"])) != read["run"]["checksum"]:
        raise ValueError("its checksum is wrong")
    if read["run"]["step"] != step:
        raise ValueError(f"it is of step {read['run']['step']}")
    return read["state"], read["run"]


def restore_state(
    manager: "ocp.CheckpointManager",
    template: TrainState,
    *,
    config: Mapping[str, Any] | None = None,
    may_differ: Collection[str] = (),
    step: int | None = None,
    every: int = 1,
) -> Restored | None:
    """Reads the newest checkpoint that is whole, or that of `step`; None if there is none.

    Args:
      manager: of `open_checkpoints`.
      template: a state with the shapes, dtypes and shardings wanted (arrays or `jax.ShapeDtypeStruct`s).
      config: if given, the checkpoint must be of this config.
      may_differ: keys that may differ.
      step: which; None is the newest, and a damaged one is named and passed over.
      every: of the newest, only those whose step is a multiple of this count, if there are such.

    Raises:
      InputError: of another config, of other shapes, of a step that isn't there, or if all are damaged.
    """
    there = hosts.told_by_first(lambda: steps(Path(manager.directory).parent))
    if step is not None and step not in there:
        raise InputError(f"{manager.directory} has no checkpoint of step {step}; it has {sorted(there) or 'none'}")
    damaged = []
    newest = [candidate for candidate in there if candidate % every == 0] or there
    for candidate in newest if step is None else [step]:
        where = Path(manager.directory) / str(candidate)
        try:
            _check_files(where)
            _refuse_other_arrays(where, manager, candidate, template)
            state, run = _read(manager, candidate, template)
        except InputError:
            raise
        except Exception as error:  # Orbax and TensorStore raise all kinds, bare Exception included
            damaged.append(f"{where} ({error_line(error)})")
            _log.warning("checkpoint %s is damaged and passed over", damaged[-1])
            continue
        if config is not None:
            _refuse_other_config(where, run["config"], config, may_differ)
        return Restored(state, _from_json(run["position"]), run["window"], candidate)
    if damaged:
        raise InputError(f"no checkpoint can be read: {'; '.join(damaged)}. Restore them, or give a new workdir")
    return None


def _check_files(checkpoint: Path) -> None:
    """Raises ValueError of a checkpoint whose files are not as they were written: the first process reads them all."""

    def damage() -> str:
        try:
            digests.check_digests(checkpoint)
        except Exception as error:  # of a file system, all kinds
            return error_line(error)
        return ""

    found = hosts.told_by_first(damage)
    if found:
        raise ValueError(found)


def error_line(error: BaseException) -> str:
    """Returns what an error says, in a line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    number = re.search(r"os_error_code='(\d+)'", str(error))  # at the end of a long line of TensorStore's
    if number:
        return os.strerror(int(number[1]))
    text = str(error).strip().splitlines() or [type(error).__name__]
    return text[0][:120]


def remove_unfinished(workdir: Path, step: int) -> None:
    """Removes what a checkpoint that could not be written left."""
    if hosts.is_first():
        for folder in (workdir / _CHECKPOINTS).glob(f"{step}.orbax-checkpoint-tmp*"):
            shutil.rmtree(folder, ignore_errors=True)


def set_aside_after(workdir: Path, step: int) -> None:
    """Moves checkpoints later than `step`, which were passed over, to `damaged/`: training redoes them."""
    later = [other for other in steps(workdir) if other > step]
    for other in later if hosts.is_first() else []:
        target = workdir / _DAMAGED / str(other)
        target.parent.mkdir(exist_ok=True)
        taken = len(list(target.parent.glob(f"{other}*")))  # the same step may be damaged more than once
        (workdir / _CHECKPOINTS / str(other)).rename(target.with_name(f"{other}-{taken}") if taken else target)
    hosts.wait_for_all()
