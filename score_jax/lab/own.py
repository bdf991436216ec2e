"""Objects of the user's own: `module:attribute` of any importable package, wherever a setting is a name.

    config.sde.name = "mylab.sdes:MySDE";  config.sde.options = {"beta": 3.0}

What the attribute has to be is a `Kind` (`build.kinds`): a class of the kind, or a function that takes what the kind is
called with, by these names. That is looked at before anything of it is called, and options that it doesn't take are
named.
"""

import contextlib
import importlib
import inspect
import re
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, get_type_hints

from score_jax.types import InputError

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
MARK = "object "  # what config.json has in place of a name where an object was handed to `build.experiment`


class Kind(NamedTuple):
    """What an object has to be.

    Attributes:
      words: for messages.
      makes: the classes that it is, or is an instance of, or makes according to its annotation; none of functions.
        `module:attribute` is a class of a library that is imported where it is asked for.
      takes: names of the arguments that a function of this kind is called with, in their order.
      keywords: names of those that it is called with by name.
    """

    words: str
    makes: tuple[type | str, ...] = ()
    takes: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[type, ...]:
        """The classes that `makes` names."""
        return tuple(imported(self.words, made) if isinstance(made, str) else made for made in self.makes)

    @property
    def expected(self) -> str:
        """What an object of this kind is, in words."""
        if self.makes:
            return " or ".join(f"{made.__module__.split('._')[0]}.{made.__name__}" for made in self.classes)
        marked = (*self.takes, *(("*", *self.keywords) if self.keywords else ()))
        return f"a function of ({', '.join(marked)})"


def is_own(name: Any) -> bool:
    """Whether a setting's value is written as `module:attribute`."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def names_in(settings: Any) -> Iterator[str]:
    """Yields every `module:attribute` among the values of nested settings, keys included."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from names_in(key)
            yield from names_in(value)
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from names_in(value)
    elif is_own(settings):
        yield settings


def require_trust(where: str | Path, settings: Any, trusted: Collection[str]) -> None:
    """Refuses names that only a file at `where` gives: a run folder is data, and importing a module executes it.

    Args:
      where: the file, for the message.
      settings: what it holds.
      trusted: packages, modules or names that the user has confirmed.

    Raises:
      InputError: of the first name in no trusted package.
    """
    for name in names_in(settings):
        module = name.split(":")[0]
        parents = {".".join(module.split(".")[: i + 1]) for i in range(module.count(".") + 1)}
        if not ({name} | parents) & set(trusted):
            raise InputError(
                f"{where} names {name}, code of another package, which loading it would execute: if you trust it give "
                f"--trust={module.split('.')[0]}, or the config file that names it, --config=FILE"
            )


def imported(setting: str, name: str) -> Any:
    """Returns the attribute that `name`, `module:attribute`, stands for.

    Raises:
      InputError: where there is no such module or attribute, or importing it raises.
    """
    module_name, attribute = name.split(":")
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{setting} {name!r}: there is no module {error.name!r} to import: install its package, or put its folder "
            "into PYTHONPATH"
        ) from error
    except (Exception, SystemExit) as error:  # whatever somebody's module raises while it is imported
        raise InputError(f"{setting} {name!r}: {told(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            has = ", ".join(n for n in dir(found) if not n.startswith("_")) or "nothing"
            raise InputError(f"{setting} {name!r}: {module_name} has no {part!r}; it has {has}")
        found = getattr(found, part)
    return found


def require_kind(setting: str, name: str, found: Any, kind: Kind) -> None:
    """Raises InputError unless `found` is of a kind; nothing of it is called."""
    if kind.makes:
        fits = _is_made(found, kind.classes) or _makes(found, kind.classes)
        expected = f"a class of {kind.expected}, or a function whose annotation says that it returns one"
    else:
        named = {*kind.takes, *kind.keywords} <= set(_parameters(found))
        fits, expected = callable(found) and not isinstance(found, type) and named, kind.expected
    if not fits:
        raise InputError(f"{setting} {name!r} is no {kind.words}: expected {expected}, got {_described(found)}")


def require_handed(argument: str, found: Any, kind: Kind) -> None:
    """Raises InputError unless an object handed over from Python is of a kind: a function may name what it takes."""
    fits = _is_made(found, kind.classes) if kind.makes else _can_be_called(found, kind)
    if not fits:
        article = "an instance of " if kind.makes else ""
        raise InputError(f"{argument} is no {kind.words}: expected {article}{kind.expected}, got {_described(found)}")


def require_returned(what: str, found: Any, kinds: tuple[type, ...]) -> Any:
    """Returns what a factory made if it is of one of the kinds; raises InputError else."""
    if not _is_made(found, kinds):
        raise InputError(f"{what} returned {_described(found)}: expected {Kind('', makes=kinds).expected}")
    return found


def _can_be_called(found: Any, kind: Kind) -> bool:
    if not callable(found) or isinstance(found, type):
        return False
    try:
        inspect.signature(found).bind(*kind.takes, **dict.fromkeys(kind.keywords))
    except TypeError:
        return False
    except ValueError:  # a builtin that doesn't tell
        return True
    return True


def _makes(found: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(found, type):
        return any(_has_kind(found, kind) for kind in kinds)
    if not inspect.isfunction(found):
        return False
    try:
        made = get_type_hints(found).get("return")
    except (NameError, TypeError, AttributeError):  # an annotation that cannot be resolved says nothing
        return False
    return isinstance(made, type) and any(_has_kind(made, kind) for kind in kinds)


def _is_made(found: Any, kinds: tuple[type, ...]) -> bool:
    """Whether it is an object of a kind as it stands, rather than what makes one."""
    return not isinstance(found, type) and any(_has_kind(type(found), kind) for kind in kinds)


def _has_kind(found: type, kind: type) -> bool:
    """Whether a class is a kind's, or has all that a protocol asks for."""
    if not getattr(kind, "_is_protocol", False):
        return issubclass(found, kind)
    asked = [name for name in vars(kind) if not name.startswith("_") or name == "__len__"]
    return found is kind or all(hasattr(found, name) or name in _fields(found) for name in asked)


def _fields(found: type) -> set[str]:
    return {name for base in found.__mro__ for name in inspect.get_annotations(base)}


def _parameters(found: Any) -> Mapping[str, inspect.Parameter]:
    init = getattr(found, "__init__", None) if isinstance(found, type) else None
    if init is not None and init is not object.__init__:  # a metaclass may hide the class's signature
        return dict(list(inspect.signature(init).parameters.items())[1:])
    try:
        return inspect.signature(found).parameters
    except (ValueError, TypeError):  # of a builtin that doesn't tell
        return {}


def _described(found: Any) -> str:
    if isinstance(found, type):
        return f"the class {found.__name__}"
    names = ", ".join(_parameters(found))
    return f"a function of ({names})" if callable(found) else " ".join(f"{type(found).__name__} {found!r}".split())[:80]


def made(setting: str, name: str, kind: Kind, options: Mapping[str, Any], **given: Any) -> Any:
    """Returns an object of a kind: the class or factory `name` called with `options`, or an instance as it stands.

    Args:
      setting: the setting that names it, for messages.
      name: `module:attribute`.
      kind: with `makes`.
      options: keywords of the user's.
      given: keywords that it gets where it takes any of these names.
    """
    found = imported(setting, name)
    require_kind(setting, name, found, kind)
    if _is_made(found, kind.classes):
        if options:
            raise InputError(f"{setting} {name!r} is made already and takes no options, got {', '.join(options)}")
        return found
    taken = {key: value for key, value in given.items() if key in _parameters(found)}
    require_options(setting, name, found, options, given=tuple(taken))
    try:
        result = found(**taken, **options)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # of somebody's constructor
        raise InputError(f"{setting} {name!r}: {told(error)}") from error
    return require_returned(f"{setting} {name!r}", result, kind.classes)


def function(setting: str, name: str, kind: Kind, options: Mapping[str, Any]) -> Callable[..., Any]:
    """Returns the function `name` of a kind with its options bound."""
    found = imported(setting, name)
    require_kind(setting, name, found, kind)
    require_options(setting, name, found, options, given=(*kind.takes, *kind.keywords))
    return partial(found, **options) if options else found


def options_by_name(setting: str, options: Mapping[str, Any], listed: Collection[str]) -> Mapping[str, Any]:
    """Returns the options of objects that a setting lists, by the last part of their names.

    Raises:
      InputError: where a section is of no object that is listed, or no section.
    """
    for short, section in options.items():
        if short not in listed:
            raise InputError(
                f"{setting} has {short!r}, which is none of those listed: {', '.join(listed) or 'nothing'}"
            )
        if not isinstance(section, Mapping):
            raise InputError(f"{setting}.{short} is {section!r}: expected options by their names")
    return options


def short_name(name: str) -> str:
    """Returns the last part of `module:attribute`."""
    return re.split("[:.]", name)[-1]


def handed_name(given: Any) -> str:
    """Returns what an object is called that was handed over: `module:attribute` of it, or of its class."""
    kind = given if isinstance(given, type) or hasattr(given, "__qualname__") else type(given)
    return f"{kind.__module__}:{kind.__qualname__}"


def guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that raises an InputError with the place of whatever `function`, of `name`, raises."""

    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except InputError:
            raise
        except Exception as error:  # of somebody's function
            raise InputError(blamed(error, [name]) or told(error)) from error

    return call


def require_options(
    setting: str, name: str, found: Callable[..., Any], options: Mapping[str, Any], *, given: Collection[str]
) -> None:
    """Raises InputError of options that `found` doesn't take, and of arguments without a default that none gives."""
    parameters = _parameters(found)
    free = {
        key: p for key, p in parameters.items() if key not in given and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    strange = [key for key in options if key not in free]
    listed = ", ".join(free) or "none"
    if strange and not anything:
        raise InputError(f"{setting} {name!r} has no option {strange[0]!r}: it takes {listed}")
    lacking = [key for key, p in free.items() if p.default is p.empty and key not in options]
    if lacking:
        section = setting.rpartition(".")[0] or setting
        raise InputError(f"{setting} {name!r} needs the option {lacking[0]!r}: set {section}.options.{lacking[0]}")


def told(error: BaseException) -> str:
    """Returns an error as a line, with the place that raised it."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


@contextlib.contextmanager
def blaming(names: Collection[str]) -> Iterator[None]:
    """Raises an InputError in place of an error that was raised in, or below, the code of one of `names`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # somebody's code, unless no frame is of it
        line = blamed(error, names)
        if line is None:
            raise
        raise InputError(line) from error


def blamed(error: BaseException, names: Collection[str]) -> str | None:
    """Returns an error as a line if it was raised in, or below, the code of one of `names`, else None."""
    packages = {name.split(":")[0].split(".")[0] for name in names}
    for place in reversed(list(_frames(error.__traceback__))):
        module = str(place.tb_frame.f_globals.get("__name__", ""))
        if module.split(".")[0] in packages:
            code = place.tb_frame.f_code
            what = " ".join(str(error).split())
            return (
                f"{_owner(module, code.co_qualname, names)}: {type(error).__name__}: {what[:400]} ({code.co_filename}, "
                f"line {place.tb_lineno}, in {code.co_name})"
            )
    return None


def _owner(module: str, function: str, names: Collection[str]) -> str:
    """Which of `names` a function is or belongs to; its module where it is none of them."""
    same = [name for name in names if name.split(":")[0] == module]
    exact = [name for name in same if name.split(":")[1].split(".")[0] == function.split(".")[0]]
    return exact[0] if exact else same[0] if len(same) == 1 else module


def _frames(place: TracebackType | None) -> Iterator[TracebackType]:
    while place is not None:
        yield place
        place = place.tb_next
