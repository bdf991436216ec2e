"""What the commands in `experiments/` share: flags, configs, and errors of one line.

A command is a module with a `main()`; `run(main)` parses the flags and calls it. What the user can mend (an
`InputError`, a misspelt key or flag, a missing file) ends it with one line and exit code 2; anything else is a defect
and shows its traceback.
"""

import importlib.util
import json
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from score_jax import backend
from score_jax.training.checkpoint import read_config
from score_jax.types import InputError

T = TypeVar("T")


def _root() -> Path:
    """The clone that the running script stands in."""
    return Path(sys.argv[0]).resolve().parent.parent


def find_configs() -> None:
    """Makes `configs`, which is no part of the installed package, importable."""
    sys.path.insert(0, str(_root()))


def define_config(default: str) -> flags.FlagHolder:
    """Defines `--config=configs/FILE.py[:variant]` with overrides `--config.section.key=value`."""
    find_configs()
    attempt(lambda: check_settings(_read(given("config") or default), sys.argv[1:]))
    holder = config_flags.DEFINE_config_file("config", default, "config file, with :variant if it has some")
    _show_in_help("config")
    return holder


def _read(name: str) -> ConfigDict:
    """The config of FILE.py[:variant] without overrides: what is wrong with file or variant is said in one line."""
    file, *variant = name.split(":", 1)
    path = Path(file)
    spec = importlib.util.spec_from_file_location("config", path) if path.is_file() and path.suffix == ".py" else None
    if spec is None or spec.loader is None:
        raise InputError(f"--config={name}: expected a Python file, configs/digits.py or configs/digits.py:ssm")
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.get_config(*variant)
    except InputError as error:
        raise InputError(f"--config={name}: {error}") from error
    except Exception as error:  # whatever a file of the user's raises, as a line and the place
        where = traceback.extract_tb(error.__traceback__)[-1]
        line = error.lineno if isinstance(error, SyntaxError) else where.lineno
        raise InputError(f"--config={name}: {type(error).__name__}: {error} ({where.filename}, line {line})") from error


def check_settings(config: ConfigDict, arguments: Sequence[str]) -> None:
    """Refuses overrides `--config.section.key` of settings that `config` doesn't have, naming those it has."""
    for path in re.findall(r"^--?(?:no)?config\.([^=\n]+)", "\n".join(arguments), re.MULTILINE):
        if not config:
            raise InputError("settings are a run's: give its folder too, --workdir=FOLDER")
        section, name = config, "config"
        for part in re.sub(r"\[.*", "", path).split("."):
            if not isinstance(section, ConfigDict):
                raise InputError(f"{name} is {section}, which has no settings")
            if part not in section:
                raise InputError(f"{name} has no setting {part!r}: choose one of {', '.join(sorted(section))}")
            section, name = section[part], f"{name}.{part}"


def _show_in_help(*names: str) -> None:
    """Lists flags that are defined here among those of the script, which is all that --help shows."""
    for name in names:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])


def define_run_config(config: ConfigDict | None = None, change: Callable[[ConfigDict], None] | None = None) -> None:
    """Defines `--config.…` overrides: of `config`, or of the settings of the run in a required `--workdir`.

    Args:
      config: settings; None: those of the run.
      change: what short flags do to the run's settings before the overrides.
    """
    if config is None:
        flags.DEFINE_string("workdir", None, "folder of the run", required=True)
        _show_in_help("workdir")
        workdir = given("workdir")
        config = ConfigDict() if workdir is None else attempt(lambda: run_config(workdir))
        if workdir is not None:
            attempt(lambda: configure_backend(config))
            if change is not None:
                attempt(lambda: change(config))
    attempt(lambda: check_settings(config, sys.argv[1:]))
    config_flags.DEFINE_config_dict("config", config, "changes settings of the run, --config.sampler.name=ddim")
    _show_in_help("config")


def attempt(make: Callable[[], T]) -> T:
    """Returns `make()`, what flags are defined by, or ends the command with the one line of its error."""
    try:
        return make()
    except InputError as error:
        _fail(error)


def given(flag: str) -> str | None:
    """Returns what the command line gives for a string flag before flags are parsed: what others depend on."""
    found = re.findall(rf"^--?{flag}[=\n](.+)$", "\n".join(sys.argv[1:]), re.MULTILINE)
    return found[-1] if found else None


def given_count(flag: str, what: str) -> int | None:
    """Returns the number from 1 that the command line gives for a string flag: `what` says of what."""
    text = given(flag)
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 9 or int(text) == 0:
        raise InputError(f"--{flag} is {what}, from 1, got {text}")
    return int(text)


def given_size(flag: str) -> tuple[int, int] | None:
    """Returns height and width that the command line gives for a string flag, as a pair or as one number for both."""
    text = given(flag)
    if text is None:
        return None
    pair = re.fullmatch(r"([1-9]\d{0,8})(?:[x,]([1-9]\d{0,8}))?", text)
    if not pair:
        raise InputError(f"--{flag} is the side of the images in pixels, or their height and width, 32x48, got {text}")
    return int(pair[1]), int(pair[2] or pair[1])


def define_sampler() -> None:
    """Defines `--sampler` and `--steps`, of which `given_sampler` tells before flags are parsed."""
    flags.DEFINE_string("sampler", None, "--config.sampler.name, on a grid of times and with a step size that suit it")
    flags.DEFINE_string("steps", None, "--config.sampler.steps")
    _show_in_help("sampler", "steps")


def given_sampler() -> dict[str, Any]:
    """Returns the sampler and the number of steps that the command line names, each None where it names none."""
    return {"sampler": given("sampler"), "steps": given_count("steps", "a number of steps")}


def require_writable(folder: Path) -> Path:
    """Makes a folder to write into and returns it.

    Raises:
      InputError: where it cannot be made or written: before, not after, what is to be written has been computed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}): give another folder, --out=FOLDER") from error


def run_config(workdir: str | Path) -> ConfigDict:
    """Returns the config a run was started with; JSON's lists are tuples again.

    Raises:
      InputError: where there is no run, or its config lacks a setting of configs/base.py.
    """
    find_configs()
    from configs import base

    config = read_config(workdir)
    missing = sorted(_settings(base.get_config().to_dict()) - _settings(config))
    if missing:
        raise InputError(
            f"{Path(workdir) / 'config.json'} lacks {missing[0]} ({len(missing)} setting(s) of configs/base.py in "
            'all): restore it, from "config" in checkpoints/STEP/run/metadata'
        )
    tuples = lambda v: tuple(v) if isinstance(v, list) else v  # noqa: E731
    return ConfigDict(jax.tree.map(tuples, config, is_leaf=lambda v: isinstance(v, list)))


def _settings(config: Mapping[str, Any], prefix: str = "") -> set[str]:
    """The dotted names of all settings."""
    names = set()
    for name, value in config.items():
        names |= _settings(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name}
    return names


def as_json(config: ConfigDict) -> dict:
    """Returns the config as what JSON gives back: the form in which runs keep and compare it."""
    return json.loads(json.dumps(config.to_dict()))


def configure_backend(config: ConfigDict) -> None:
    """Applies `config.device` and the command line's changes of it: for what needs JAX before flags are parsed."""
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config.copy_and_resolve_references(), flag_values=values)
        values(sys.argv, known_only=True)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError):
        return  # which parsing tells
    backend.configure(**values.config.device)
    backend.require_device()


def run(main: Callable[[], int | None]) -> NoReturn:
    """Parses the command line and runs `main`, whose return value is the exit code (None: 0)."""

    def guarded(_: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        try:
            backend.configure(**(flags.FLAGS.config.device if "config" in flags.FLAGS else {}))
            backend.require_device()
            code = main()
        except InputError as error:
            _fail(error)
        except BrokenPipeError:  # whoever read the output has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)
        except OSError as error:
            if error.strerror is None:
                raise
            _fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
        except (KeyboardInterrupt, SystemExit) as ending:
            _end(ending)
        sys.exit(code or 0)

    app.run(guarded, flags_parser=_parse)


def _end(ending: BaseException) -> NoReturn:
    """Ends a command as a signal had it: once the training has stopped, or at once, whatever is still being written."""
    code = getattr(ending, "code", 128 + signal.SIGINT)
    if ending.args:
        print(ending)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # while Python ends, another would show a traceback
        sys.exit(code)
    sys.stdout.flush()
    os._exit(code)


def _parse(argv: Sequence[str]) -> Sequence[str]:
    try:
        rest = flags.FLAGS(argv)
        if "config" in flags.FLAGS:
            flags.FLAGS.config.keys()  # a file that could not be loaded says so only when it is used
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        _fail(error)
    if rest[1:]:
        _fail(f"{' '.join(rest[1:])}: flags are written --name=value; --help lists them")
    return rest


def _fail(error: object) -> NoReturn:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    sys.exit(2)
