"""What the commands share: flags, settings, and errors of one line.

A command is a module with `define()`, which defines its flags, and `main()`; `run(main, define)` parses the flags and
calls it. What the user can mend (an `InputError`, a misspelt key or flag, a missing file, an own object that raises)
ends it with one line and exit code 2; anything else is a defect and shows its traceback.
"""

import ast
import copy
import importlib.util
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from score_jax import backend
from score_jax.lab import joining, own, settings
from score_jax.training import hosts, peers
from score_jax.types import InputError

_T = TypeVar("_T")

_CLONE = Path(__file__).parents[2]  # where the package is run from a clone


def define_config() -> None:
    """Defines `--config=FILE.py[:variant]`, by default all defaults, with overrides `--config.section.key=value`."""
    define_overrides(attempt(lambda: read_file(given("config"))), "config file, with :variant if it has some")


def define_overrides(config: ConfigDict, what: str) -> None:
    """Defines overrides of settings that are there: `what` says whose they are."""
    attempt(lambda: add_own_options(config, sys.argv[1:]))
    attempt(lambda: check_settings(config, sys.argv[1:]))
    described = f"{what}; --config.section.key=value changes a setting"
    config_flags.DEFINE_config_dict("config", config, described, sys_argv=_without_file(sys.argv))


def read_file(name: str | None) -> ConfigDict:
    """Returns the config of FILE.py[:variant] without overrides; the file is looked for here and in the clone.

    Raises:
      InputError: of what is wrong with file or variant, in one line.
    """
    if name is None:
        return settings.get_config()
    file, *variant = name.split(":", 1)
    module = read_module(f"--config={name}", file, "a variant stands behind it, FILE.py:variant")
    return of_user(f"--config={name}", lambda: module.get_config(*variant))


def read_module(flag: str, file: str, expected: str) -> Any:
    """Returns the module of a Python file of the user's, looked for here and in the clone.

    Args:
      flag: for messages.
      file: its path.
      expected: what to say of its form where there is no such file.

    Raises:
      InputError: of whatever is wrong, in one line, with the place.
    """
    path = Path(file) if Path(file).is_file() else _CLONE / file
    spec = importlib.util.spec_from_file_location("config", path) if path.is_file() and path.suffix == ".py" else None
    if spec is None or spec.loader is None:
        what = "is no Python file, FILE.py" if path.is_file() else "is not there"
        raise InputError(f"{flag}: {file} {what}; {expected}")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # what stands beside the file can be imported, as beside a script
    module, loader = importlib.util.module_from_spec(spec), spec.loader
    of_user(flag, lambda: loader.exec_module(module))
    return module


def of_user(flag: str, call: Callable[[], _T]) -> _T:
    """Returns what code in a file of the user's returns; whatever it raises is an InputError of a line."""
    try:
        return call()
    except InputError as error:
        raise InputError(f"{flag}: {error}") from error
    except Exception as error:  # whatever a file of the user's raises, as a line and the place
        raise InputError(f"{flag}: {own.told(error)}") from error


def add_own_options(config: ConfigDict, arguments: Sequence[str]) -> None:
    """Adds options of the user's own objects that only the command line gives, `--config.sde.options.beta=3.0`."""
    pattern = r"^--?config\.((?:\w+\.)*options)\.(\w+)[=\n](.*)$"
    for path, name, text in re.findall(pattern, "\n".join(arguments), re.MULTILINE):
        section = config
        for part in path.split("."):
            section = section.get(part) if isinstance(section, ConfigDict) else None
        if isinstance(section, ConfigDict) and name not in section:
            with section.unlocked():
                section[name] = _literal(text)


def _literal(text: str) -> Any:
    """A number, tuple, … as Python writes it, or else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


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


def define_run(change: Callable[[ConfigDict], None]) -> None:
    """Defines the required `--workdir`, `--trust` and overrides of that run's settings.

    Args:
      change: what short flags do to the settings before the overrides.
    """
    flags.DEFINE_string("workdir", None, "folder of the run", required=True)
    flags.DEFINE_string("trust", "", "packages whose code the run's config.json may name, separated by commas")
    workdir = given("workdir")
    if workdir is None:
        return define_overrides(ConfigDict(), "of the run")
    config = attempt(lambda: settings.of_run(workdir, trusted=trusted()))
    attempt(lambda: configure_backend(config))
    attempt(lambda: change(config))
    return define_overrides(config, "the run's config file, if its config.json names code of other packages")


def trusted() -> list[str]:
    """Returns the packages that the command line confirms, and the names in the config file that it gives again."""
    file = given("config")
    return [*(given("trust") or "").split(","), *([] if file is None else own.names_in(read_file(file).to_dict()))]


def overridden(config: ConfigDict, key: str, text: str) -> ConfigDict:
    """Returns a copy of `config` as `--config.KEY=TEXT` would have it.

    Raises:
      InputError: of a key that does not exist, or a text that is no value of its type.
    """
    before = settings.value_of(config, key)
    if before is None or isinstance(before, dict):  # an option that has no type yet, or all options
        return settings.changed(config, {key: _literal(text)})
    changed, values = copy.deepcopy(config), flags.FlagValues()
    flag = f"--config.{key}={text}"
    try:
        config_flags.DEFINE_config_dict("config", changed, flag_values=values, sys_argv=["", flag])
        values(["", flag])
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, SyntaxError) as error:
        kind = type(before).__name__.replace("list", "tuple")
        raise InputError(f"{key} is of type {kind}, such as {before!r}, got {text!r}") from error
    return values.config


def taken(prefix: str) -> list[tuple[str, str]]:
    """Takes `--prefix.KEY=TEXT` and `--prefix.KEY TEXT` out of the command line; returns the pairs of key and text.

    Raises:
      InputError: of one without a text.
    """
    kept, pairs, words = sys.argv[:1], [], iter(sys.argv[1:])
    for word in words:
        found = re.fullmatch(rf"--?{prefix}\.([^=\n]+)(?:=(.*))?", word, re.DOTALL)
        if not found:
            kept.append(word)
            continue
        text = found[2] if found[2] is not None else next(words, None)
        if text is None or (found[2] is None and text.startswith("--")):
            raise InputError(f"{word} needs values: --{prefix}.{found[1]}=VALUE,VALUE")
        pairs.append((found[1], text))
    sys.argv[:] = kept
    return pairs


def show_in_help(module: str) -> None:
    """Lists the flags that a module defines among those of the script, which is all that --help shows."""
    for flag in [*flags.FLAGS.get_flags_for_module(module), *flags.FLAGS.get_flags_for_module(__name__)]:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def attempt(make: Callable[[], _T]) -> _T:
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


def configure_backend(config: ConfigDict) -> None:
    """Applies `config.device` and the command line's changes of it: for what needs JAX before flags are parsed."""
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config.copy_and_resolve_references(), flag_values=values)
        values(sys.argv, known_only=True)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError):
        return  # which parsing tells
    _configure(values.config)
    backend.require_device()


def _configure(config: ConfigDict) -> None:
    backend.configure(**config.device)
    backend.choose_products(config.network.dtype)


def run(
    main: Callable[[], int | None],
    define: Callable[[], None],
    *,
    start: Callable[[], None] = backend.require_device,
    several: bool = False,
) -> NoReturn:
    """Defines flags, parses the command line and runs `main`, whose return value is the exit code (None: 0).

    Args:
      main: the command.
      define: defines its flags.
      start: is called before it, once JAX is configured: starts JAX, or raises InputError.
      several: whether it may be one of several processes (`joining`), which it joins before anything else.
    """
    command = partial(_run, main, define, [start, joining.require_same_start] if several else [start])
    try:
        joined = None
        if several:
            joining.define()
            joined = attempt(joining.asked_for)
        if joined is not None:
            peers.run_joined(command, joined[0], join_timeout=joined[1])
        command()
    except peers.Refused as error:
        print(f"error: {error.line}", file=sys.stderr)
        sys.exit(error.code)


def _run(main: Callable[[], int | None], define: Callable[[], None], before: Sequence[Callable[[], None]]) -> NoReturn:
    def guarded(_: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        try:
            _configure(flags.FLAGS.config if _has_config() else settings.get_config())
            for call in before:
                call()
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
        except Exception as error:
            names = own.names_in(flags.FLAGS.config.to_dict()) if _has_config() else ()
            line = own.blamed(error, list(names))
            if line is None:
                raise
            _fail(line)
        sys.exit(code or 0)

    define()
    show_in_help(define.__module__)
    show_in_help(joining.__name__)
    app.run(guarded, flags_parser=_parse)


def _has_config() -> bool:
    """Whether the command has settings, and they are given."""
    return "config" in flags.FLAGS and flags.FLAGS["config"].value is not None


def _end(ending: BaseException) -> NoReturn:
    """Ends a command as a signal had it: once the training has stopped, or at once, whatever is still being written."""
    code = getattr(ending, "code", 128 + signal.SIGINT)
    if ending.args:
        print(ending, file=sys.stdout if hosts.is_first() else sys.stderr)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # while Python ends, another would show a traceback
        raise SystemExit(code) from ending.__cause__
    sys.stdout.flush()
    os._exit(code)


def _parse(argv: Sequence[str]) -> Sequence[str]:
    try:
        rest = flags.FLAGS(_without_file(argv))
        if _has_config():
            flags.FLAGS.config.keys()  # a file that could not be loaded says so only when it is used
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        _fail(error)
    if rest[1:]:
        _fail(f"{' '.join(rest[1:])}: flags are written --name=value; --help lists them")
    return rest


def _without_file(argv: Sequence[str]) -> list[str]:
    """The command line without `--config=FILE`, which was read before its flag was defined."""
    kept = list(argv)
    for i, word in enumerate(argv):
        if re.fullmatch(r"--?config", word) and i + 1 < len(argv):
            kept[i : i + 2] = ["--", "--"]
        elif re.match(r"--?config=", word):
            kept[i] = "--"
    return [word for word in kept if word != "--"]


def _fail(error: object) -> NoReturn:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    raise peers.Refused(" ".join(text.split()))
