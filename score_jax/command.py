"""What the commands in `experiments/` share: flags, configs, and errors of one line.

A command is a module with a `main()`; `run(main)` parses the flags and calls it. What the user can mend (an
`InputError`, a misspelt key or flag, a missing file) ends it with one line and exit code 2; anything else is a defect
and shows its traceback.
"""

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from score_jax.training.checkpoint import read_config
from score_jax.types import InputError

STOPPED = 128 + signal.SIGTERM  # exit code of a run that a signal ended after its checkpoint was written


def _root() -> Path:
    """The clone that the running script stands in."""
    return Path(sys.argv[0]).resolve().parent.parent


def define_config(default: str) -> flags.FlagHolder:
    """Defines `--config=configs/FILE.py[:variant]` with overrides `--config.section.key=value`."""
    sys.path.insert(0, str(_root()))  # config files import configs.base
    return config_flags.DEFINE_config_file("config", default, "config file, with :variant if it has some")


def define_run_config() -> None:
    """Defines `--workdir` and, as `--config.…` overrides, the settings of the run that is there."""
    flags.DEFINE_string("workdir", None, "folder of the run", required=True)
    given = [arg.split("=", 1)[1] for arg in sys.argv[1:] if re.match(r"--?workdir=", arg)]
    if given:
        try:
            config_flags.DEFINE_config_dict("config", run_config(given[-1]))
        except InputError as error:
            _fail(error)


def run_config(workdir: str | Path) -> ConfigDict:
    """Returns the config a run was started with; JSON's lists are tuples again."""
    tuples = lambda v: tuple(v) if isinstance(v, list) else v  # noqa: E731
    return ConfigDict(jax.tree.map(tuples, read_config(workdir), is_leaf=lambda v: isinstance(v, list)))


def as_json(config: ConfigDict) -> dict:
    """Returns the config as what JSON gives back: the form in which runs keep and compare it."""
    return json.loads(json.dumps(config.to_dict()))


def cache_compilations() -> None:
    """Keeps compiled programs between commands, in $JAX_COMPILATION_CACHE_DIR or ~/.cache/score_jax."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "score_jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Parses the command line and runs `main`, whose return value is the exit code (None: 0)."""

    def guarded(_: Sequence[str]) -> None:
        cache_compilations()
        logging.set_verbosity(logging.WARNING)  # Orbax narrates every write
        try:
            code = main()
        except InputError as error:
            _fail(error)
        sys.exit(code or 0)

    app.run(guarded, flags_parser=_parse)


def _parse(argv: Sequence[str]) -> Sequence[str]:
    try:
        rest = flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        _fail(error)
    if rest[1:]:
        _fail(f"{' '.join(rest[1:])}: flags are written --name=value; --help lists them")
    return rest


def _fail(error: object) -> NoReturn:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    sys.exit(2)
