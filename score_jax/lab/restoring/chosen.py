"""Options of what is chosen by name: the keywords of its function, as the command line gives them."""

import ast
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from score_jax.types import InputError


def chosen_options(
    owner: str, make: Callable[..., Any], given: Sequence[tuple[str, str]], *, without: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns all keywords of a function but those `without`: as given, or by default.

    Args:
      owner: for messages, "task deblur", whose first word is the flag's.
      make: takes them.
      given: pairs of name and text.
      without: keywords that are not options.

    Raises:
      InputError: of a name that is none of them, a text that is no such value, or one that is missing.
    """
    found = inspect.signature(make).parameters.values()
    known = {p.name: p.default for p in found if p.kind is p.KEYWORD_ONLY and p.name not in without}
    kind = owner.split()[0]
    for name, _ in given:
        if name not in known:
            has = f"choose one of {', '.join(known)}" if known else "it has none"
            raise InputError(f"{owner} has no option {name!r}: {has}")
    values = known | {name: _value(f"--{kind}.{name}", text, known[name]) for name, text in given}
    missing = [name for name, value in values.items() if value is inspect.Parameter.empty]
    if missing:
        raise InputError(f"{owner} needs --{kind}.{missing[0]}=NUMBER")
    return values


def _value(flag: str, text: str, default: Any) -> Any:
    """The number that a text is: whole where the default is."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    whole = isinstance(default, int) and not isinstance(default, bool)
    if isinstance(value, bool | str) or not isinstance(value, int if whole else int | float):
        such = "" if default is inspect.Parameter.empty else f", such as {default}"
        raise InputError(f"{flag} is a {'whole ' if whole else ''}number{such}, got {text!r}")
    return float(value) if isinstance(default, float) else value
