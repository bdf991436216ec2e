"""Pickles read as data: a stack machine for the instructions of plain data, which runs nothing that a file names.

A pickle is a program. Python's own machine imports and calls whatever the program names, which is why unpickling a
stranger's file runs a stranger's code. Here a name stands for what the reader's table says, a constructor or a
constant of ours, and is refused where the table has nothing. The rest is restricted likewise: only constructors of the
table are called, only objects of ours take a state, only text, bytes and integers are keys and members of sets (hashing
nested tuples can take forever), and the memo is a dict (Python's own allocates as many slots as a program asks for).

The instructions are decoded by the standard library's `pickletools`, which also describes them.
"""

import pickletools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any, NamedTuple, Protocol

from score_jax.types import InputError

_MAX_INSTRUCTIONS = 5_000_000  # a tensor takes some thirty; five million take ten seconds
_REPEATED, _ALLOWANCE = 4, 2**20  # constructors are given this much more than the file has: its constants, used twice
_WIDEST = 120  # characters of a file's text in a message


class Stream(Protocol):
    """What pickles are read from: something that never allocates more than it holds, such as `BytesIO` or `mmap`."""

    def read(self, n: int = ..., /) -> bytes: ...
    def readline(self) -> bytes: ...
    def tell(self) -> int: ...


class Named(NamedTuple):
    """What a name in the file stands for: a constructor or a constant of the reader's table."""

    name: str
    value: Any


class Buildable:
    """An object of ours that takes the state which a pickle has for it, and ignores it unless overridden."""

    def build(self, state: Any) -> None:
        """Takes the state."""


class OrderedDict(dict[Any, Any], Buildable):
    """Stands for the standard library's; attributes are ignored (PyTorch keeps versions of modules there)."""

    def __init__(self, pairs: Any = ()):  # Python 2 wrote a list of pairs, Python 3 sets items one by one
        super().__init__()
        _set_items(self, [item for key, value in pairs for item in (key, value)])


def printable(value: Any) -> str:
    """Returns text of a file as something that fits into one line of a message; of anything else, what it is."""
    text = value if isinstance(value, str) else f"({type(value).__name__})"
    return (text if len(text) <= _WIDEST else text[:_WIDEST] + "...").encode("unicode_escape").decode()


def budget(n: int | None = None) -> Iterator[int]:
    """Returns the instructions that pickles, read with the same budget, may have together."""
    return iter(range(_MAX_INSTRUCTIONS if n is None else n))


def unpickle(
    stream: Stream,
    table: Mapping[str, Any],
    persistent: Callable[[Any], Any] | None = None,
    *,
    steps: Iterator[int] | None = None,
) -> Any:
    """Reads one pickle and leaves the stream behind it.

    Args:
      stream: at the pickle's first byte.
      table: what names stand for, `{"module.name": constructor or constant}`.
      persistent: what a persistent id stands for; None where there are none.
      steps: a `budget`, where other pickles share it.

    Raises:
      InputError: for a name outside the table, an instruction that data has no use for, or a damaged pickle.
    """
    machine, position, steps = _Machine(table, persistent), 0, budget() if steps is None else steps
    try:
        with warnings.catch_warnings(action="error"):  # text with escapes that mean nothing
            for code, argument, at in pickletools.genops(stream):  # type: ignore[arg-type]
                position = at or 0
                if next(steps, None) is None:
                    raise InputError("its pickles have more instructions than any file of data")
                machine.run(code.name, argument)
                if machine.given > _REPEATED * position + _ALLOWANCE:
                    raise InputError("its pickle hands the same data to constructors again and again: refused")
        (result,) = machine.stack
    except InputError:
        raise
    except (ValueError, TypeError, LookupError, OverflowError, MemoryError, Warning) as error:
        raise InputError(f"its pickle is damaged near byte {position}") from error
    return result


class _Machine:
    """The stack, the memo and what names and ids stand for."""

    def __init__(self, table: Mapping[str, Any], persistent: Callable[[Any], Any] | None):
        self.table, self.persistent = table, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.given = 0  # characters, bytes and items, to constructors

    def run(self, code: str, argument: Any) -> None:
        """Executes one instruction."""
        if code not in _INSTRUCTIONS:
            raise InputError(
                f"its pickle has the instruction {code}, which plain data has no use for: nothing was executed"
            )
        _INSTRUCTIONS[code](self, argument)

    def push(self, value: Any) -> None:
        """Pushes a value."""
        self.stack.append(value)

    def pop(self, n: int) -> list[Any]:
        """Pops n values, the top one last."""
        return [self.stack.pop() for _ in range(n)][::-1]

    def pop_marked(self) -> list[Any]:
        """Pops what was pushed since the last mark."""
        return self.pop(len(self.stack) - self.marks.pop())

    def name(self, module: Any, name: Any) -> None:
        """Pushes what a name stands for."""
        full = ".".join([module, name])  # TypeError unless both are text
        if full not in self.table:
            what = f"names {printable(full)}, which plain data has no use for"
            raise InputError(f"{what}: refused, nothing was executed")
        self.push(Named(full, self.table[full]))

    def call(self, function: Any, arguments: Any) -> None:
        """Pushes what a constructor of the table makes of its arguments."""
        if type(function) is not Named or not callable(function.value) or type(arguments) is not tuple:
            raise TypeError("not a constructor and its arguments")
        self.given += sum(len(argument) for argument in arguments if isinstance(argument, Sized))
        self.push(function.value(*arguments))

    def new(self, kind: Any, arguments: Any) -> None:
        """Pushes an object of one of our classes for objects with a state."""
        if type(kind) is not Named or not isinstance(kind.value, type) or not issubclass(kind.value, Buildable):
            raise TypeError("not a class of ours")
        self.call(kind, arguments)

    def build(self, state: Any) -> None:
        """Hands a state to the object on top."""
        if not isinstance(self.stack[-1], Buildable):
            raise TypeError("takes no state")
        self.stack[-1].build(state)

    def identify(self, identity: Any) -> None:
        """Pushes what a persistent id stands for."""
        if self.persistent is None:
            raise TypeError("no persistent ids were expected")
        self.push(self.persistent(identity))

    def extend(self, items: list[Any]) -> None:
        """Appends to the list on top."""
        if type(self.stack[-1]) is not list:
            raise TypeError("not a list")
        self.stack[-1].extend(items)

    def add(self, items: list[Any]) -> None:
        """Adds members to the set on top."""
        if type(self.stack[-1]) is not set or not all(isinstance(item, str | bytes | int) for item in items):
            raise TypeError("not a set, or members that are neither text, bytes nor integers")
        self.stack[-1].update(items)

    def mapping(self, items: list[Any]) -> None:
        """Pushes a dict of items."""
        self.push({})
        self.update(items)

    def update(self, items: list[Any]) -> None:
        """Sets items of the dict on top."""
        _set_items(self.stack[-1], items)


def _set_items(target: Any, items: list[Any]) -> None:
    if not isinstance(target, dict) or not all(isinstance(key, str | bytes | int) for key in items[::2]):
        raise TypeError("not a dict, or keys that are neither text, bytes nor integers")
    target.update(zip(items[::2], items[1::2], strict=True))


_Instruction = Callable[[_Machine, Any], Any]
_LITERALS: list[str] = [
    *["INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"],
    *["STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"],
    *["BINBYTES", "SHORT_BINBYTES", "BINBYTES8"],
]
_INSTRUCTIONS: dict[str, _Instruction] = {
    **dict.fromkeys(["PROTO", "FRAME", "STOP"], lambda m, argument: None),
    **dict.fromkeys(_LITERALS, lambda m, argument: m.push(argument)),
    **dict.fromkeys(["PUT", "BINPUT", "LONG_BINPUT"], lambda m, i: m.memo.update({i: m.stack[-1]})),
    **dict.fromkeys(["GET", "BINGET", "LONG_BINGET"], lambda m, i: m.push(m.memo[i])),
    "MEMOIZE": lambda m, _: m.memo.update({len(m.memo): m.stack[-1]}),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.pop(1),
    "POP_MARK": lambda m, _: m.pop_marked(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE1": lambda m, _: m.push(tuple(m.pop(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.pop(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.pop(3))),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_marked())),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "LIST": lambda m, _: m.push(m.pop_marked()),
    "APPEND": lambda m, _: m.extend(m.pop(1)),
    "APPENDS": lambda m, _: m.extend(m.pop_marked()),
    "EMPTY_SET": lambda m, _: m.push(set()),
    "ADDITEMS": lambda m, _: m.add(m.pop_marked()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "DICT": lambda m, _: m.mapping(m.pop_marked()),
    "SETITEM": lambda m, _: m.update(m.pop(2)),
    "SETITEMS": lambda m, _: m.update(m.pop_marked()),
    "GLOBAL": lambda m, argument: m.name(*argument.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(*m.pop(2)),
    "REDUCE": lambda m, _: m.call(*m.pop(2)),
    "NEWOBJ": lambda m, _: m.new(*m.pop(2)),
    "BUILD": lambda m, _: m.build(*m.pop(1)),
    "BINPERSID": lambda m, _: m.identify(*m.pop(1)),
}
