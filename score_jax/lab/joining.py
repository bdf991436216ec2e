"""The flags by which a command is one of several processes, and what has to be equal in all of them."""

import sys
from typing import Any

import jax
from absl import flags

from score_jax.training import hosts
from score_jax.training.checkpoint import binding
from score_jax.training.hosts import Cluster
from score_jax.training.logging import environment
from score_jax.types import InputError

_OWN = ("process_id", "config")  # flags that differ, or whose parts are compared


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags."""
    told: dict[str, Any] = {"flag_values": values, "module_name": __name__}
    detected = "one of several processes, as SLURM, a TPU pod, Kubernetes or Open MPI tell it"
    flags.DEFINE_boolean("distributed", False, detected, **told)
    flags.DEFINE_string("coordinator", None, "else: where the processes meet, HOST:PORT of process 0", **told)
    flags.DEFINE_integer("num_processes", None, "… how many there are", lower_bound=1, **told)
    flags.DEFINE_integer("process_id", None, "… and which this is, from 0", lower_bound=0, **told)
    flags.DEFINE_integer("join_timeout", 300, "seconds to wait for the other processes", lower_bound=1, **told)


def asked_for() -> tuple[Cluster, int] | None:
    """Returns which processes the command line speaks of and how long to wait for them, before flags are parsed.

    Raises:
      InputError: of flags that contradict each other.
    """
    values = flags.FlagValues()
    define(values)
    try:
        values(sys.argv, known_only=True)
    except flags.Error as error:
        raise InputError(str(error)) from error
    told = [values.coordinator, values.num_processes, values.process_id]
    named = [one for one in told if one is not None]
    if values.distributed and named:
        raise InputError(
            "--distributed finds out what --coordinator, --num_processes and --process_id tell: leave out one"
        )
    if not values.distributed and not named:
        return None
    return (hosts.cluster_of(*told) if named else Cluster()), values.join_timeout


def require_same_start() -> None:
    """Refuses to run with processes that were started otherwise, or with other code.

    Raises:
      InputError: which names what differs.
    """
    told = flags.FLAGS.num_processes
    if told is not None and told != jax.process_count():
        raise InputError(f"--num_processes={told} in this process, but the coordinator has {jax.process_count()}")
    if not hosts.several():
        return
    command = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    facts = {f"--{flag.name}": flag.value for flag in command if flag.name not in _OWN}
    if "config" in flags.FLAGS:
        facts |= {f"--config.{key}": value for key, value in binding(flags.FLAGS.config.to_dict()).items()}
    here = environment()
    facts |= here["packages"] | {name: here[name] for name in ("revision", "python", "settings")}
    hosts.require_alike(facts | {"number of devices": jax.local_device_count()})
    hosts.meet()
