"""The opcodes of pickles, protocols 0 to 5 (pickletools in the standard library describes them).

``pickle.Unpickler`` with its ``find_class`` overridden is not enough: a file could still set
attributes of our own functions (BUILD), ask for gigabytes by one number (LONG_BINPUT), or nest
tuples until Python's own C code runs out of stack. So the opcodes are interpreted here, over the
mapped file: long byte strings are slices of it, not copies.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any

from ...base.errors import InteropError
from .records import Global, Record, check_key

# A file of weights has some 30 for each tensor; a million tensors have not been seen.
_MOST_OPCODES = 4_000_000
# Short byte strings are copied, which makes them ordinary values; long ones are the arrays.
_COPIED = 64

Find = Callable[[str, str], object]
Resolve = Callable[[object], object]

_MARK: Any = object()


def load(
    data: memoryview, where: str, find: Find, persistent: Resolve | None = None
) -> tuple[Any, int]:
    """What a pickle describes, made of dicts, lists, tuples, numbers, strings and records.

    Args:
      data: begins with the pickle.
      where: the file and the entry, for errors.
      find: the object for a module and a name; raises InteropError for those not allowed.
      persistent: the object for a persistent id; None if the file must not have any.

    Returns:
      The object, and the number of bytes that were read.

    Raises:
      InteropError: for anything damaged, and for opcodes that no file of arrays needs.
    """
    machine = _Machine(data, find, persistent)
    try:
        return machine.run(), machine.at
    except InteropError as error:
        place = f"{where}, byte {machine.opcode_at} of the pickle"
        raise InteropError(
            f"{place}: {error.problem}", expected=error.expected, got=error.got, hint=error.hint
        ) from None
    except (LookupError, TypeError, ValueError, OverflowError, struct.error) as error:
        # A stack or memo without the entry, a text that is not UTF-8, arguments of a wrong kind.
        raise InteropError(
            f"{where}, byte {machine.opcode_at} of the pickle: it is damaged",
            got=f"{type(error).__name__}: {error}"[:200],
        ) from None


class _Machine:
    def __init__(self, data: memoryview, find: Find, persistent: Resolve | None):
        self.data, self.find, self.persistent = data, find, persistent
        self.at = self.opcode_at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        opcodes = _OPCODES
        for _ in range(_MOST_OPCODES):
            self.opcode_at = self.at
            code = self.take(1)[0]
            if code == 0x2E:  # STOP
                return self.pop()
            operation = opcodes.get(code)
            if operation is None:
                raise InteropError(
                    "this opcode has no place in a file of arrays", got=repr(chr(code))
                )
            operation(self)
        raise InteropError("the pickle has no end", expected=f"at most {_MOST_OPCODES:,} opcodes")

    def take(self, count: int) -> memoryview:
        if count < 0 or count > len(self.data) - self.at:
            raise InteropError(
                "the pickle is truncated or damaged",
                expected=f"{count:,} more bytes" if count > 0 else "a length",
                got=f"{len(self.data) - self.at:,}" if count > 0 else f"{count}",
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, code: str) -> Any:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def line(self) -> bytes:
        # Names and numbers of protocol 0; the slice bounds the search.
        found = bytes(self.data[self.at : self.at + 4096])
        end = found.find(b"\n")
        if end < 0:
            raise InteropError("the pickle is damaged", expected="a line of at most 4,096 bytes")
        self.at += end + 1
        return found[:end]

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise InteropError("the pickle is damaged", got="a mark instead of an object")
        return value

    def pop_to_mark(self) -> list[Any]:
        stack = self.stack
        for i in range(len(stack) - 1, -1, -1):
            if stack[i] is _MARK:
                values = stack[i + 1 :]
                del stack[i:]
                return values
        raise InteropError("the pickle is damaged", expected="a mark on its stack")

    def top(self) -> Any:
        value = self.stack[-1]
        if value is _MARK:
            raise InteropError("the pickle is damaged", got="a mark instead of an object")
        return value

    # Containers.

    def append(self, values: list[Any]) -> None:
        to = self.top()
        if type(to) is list:
            to.extend(values)
        elif type(to) is Record:
            to.items.extend(values)
        else:
            raise InteropError("the pickle is damaged", expected="a list", got=type(to).__name__)

    def set_items(self, values: list[Any]) -> None:
        to = self.top()
        if len(values) % 2:
            raise InteropError("the pickle is damaged", got="a key without a value")
        entries = to.entries if type(to) is Record else to
        if type(entries) is not dict:
            raise InteropError("the pickle is damaged", expected="a dict", got=type(to).__name__)
        for key, value in zip(values[::2], values[1::2], strict=True):
            entries[check_key(key)] = value

    # Names, and what is made of them.

    def name(self, module: object, name: object) -> None:
        if type(module) is not str or type(name) is not str:
            raise InteropError("the pickle is damaged", expected="the names of a global")
        self.push(self.find(module, name))

    def call(self, made: object, args: object) -> None:
        if type(made) is not Global or made.make is None:
            got = f"{made.name}" if type(made) is Global else type(made).__name__
            raise InteropError("this cannot be called", got=got)
        if type(args) is not tuple:
            raise InteropError("the pickle is damaged", expected="a tuple of arguments")
        self.push(made.make(*args))

    def build(self) -> None:
        state = self.pop()
        to = self.top()
        if type(to) is dict:  # an OrderedDict's attributes: torch's _metadata
            return
        build = getattr(to, "build", None) if type(to).__module__ == Record.__module__ else None
        if build is None:
            raise InteropError("the pickle is damaged", got=f"a state for {type(to).__name__}")
        build(state)

    def persistent_id(self) -> None:
        if self.persistent is None:
            raise InteropError("refers to an object outside of the file")
        self.push(self.persistent(self.pop()))


def _bytes(machine: _Machine, count: int) -> None:
    data = machine.take(count)
    machine.push(bytes(data) if count <= _COPIED else data)


def _text(machine: _Machine, count: int) -> None:
    # As pickle writes them: lone surrogates are allowed.
    machine.push(str(machine.take(count), "utf-8", "surrogatepass"))


def _old_text(machine: _Machine, count: int) -> None:
    # Python 2's strings: names, or the bytes of an array, each byte a character.
    machine.push(str(machine.take(count), "latin1"))


def _quoted(machine: _Machine) -> None:
    line = machine.line()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise InteropError("the pickle is damaged", expected="a string in quotes")
    text, _ = codecs.escape_decode(line[1:-1])
    machine.push(text.decode("latin1"))


def _int(machine: _Machine) -> None:
    line = machine.line()
    # How protocols 0 and 1 write False and True.
    machine.push(line == b"01" if line in (b"00", b"01") else int(line))


def _long(machine: _Machine, count: int) -> None:
    if count > 1024:
        raise InteropError("the pickle is damaged", expected="a number", got=f"{count:,} bytes")
    machine.push(int.from_bytes(machine.take(count), "little", signed=True))


def _tuple(machine: _Machine, count: int) -> None:
    values = [machine.pop() for _ in range(count)]
    machine.push(tuple(reversed(values)))


def _dict(machine: _Machine) -> None:
    values = machine.pop_to_mark()
    machine.push({})
    machine.set_items(values)


def _reduce(machine: _Machine) -> None:
    args = machine.pop()
    machine.call(machine.pop(), args)


def _new_with_words(machine: _Machine) -> None:
    words = machine.pop()
    args = machine.pop()
    if words != {}:
        raise InteropError("this cannot be made", got="named arguments")
    machine.call(machine.pop(), args)


def _stack_global(machine: _Machine) -> None:
    name = machine.pop()
    machine.name(machine.pop(), name)


def _global(machine: _Machine) -> None:
    module = machine.line().decode("utf-8")
    machine.name(module, machine.line().decode("utf-8"))


def _put(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.top()


def _get(machine: _Machine, index: int) -> None:
    machine.push(machine.memo[index])


def _append_one(machine: _Machine) -> None:
    value = machine.pop()
    machine.append([value])


def _set_one(machine: _Machine) -> None:
    value = machine.pop()
    key = machine.pop()
    machine.set_items([key, value])


_OPCODES: dict[int, Callable[[_Machine], object]] = {
    ord(code): operation
    for code, operation in {
        "\x80": lambda m: m.take(1),  # PROTO
        "\x95": lambda m: m.take(8),  # FRAME
        "(": lambda m: m.stack.append(_MARK),
        "0": lambda m: m.stack.pop(),
        "1": lambda m: m.pop_to_mark(),
        "2": lambda m: m.push(m.top()),
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "I": _int,
        "J": lambda m: m.push(m.number("<i")),
        "K": lambda m: m.push(m.number("B")),
        "M": lambda m: m.push(m.number("<H")),
        "L": lambda m: m.push(int(m.line().rstrip(b"L"))),
        "\x8a": lambda m: _long(m, m.number("B")),
        "\x8b": lambda m: _long(m, m.number("<i")),
        "F": lambda m: m.push(float(m.line())),
        "G": lambda m: m.push(m.number(">d")),
        "S": _quoted,
        "T": lambda m: _old_text(m, m.number("<i")),
        "U": lambda m: _old_text(m, m.number("B")),
        "V": lambda m: m.push(m.line().decode("raw-unicode-escape")),
        "X": lambda m: _text(m, m.number("<I")),
        "\x8c": lambda m: _text(m, m.number("B")),
        "\x8d": lambda m: _text(m, m.number("<Q")),
        "B": lambda m: _bytes(m, m.number("<I")),
        "C": lambda m: _bytes(m, m.number("B")),
        "\x8e": lambda m: _bytes(m, m.number("<Q")),
        "\x96": lambda m: _bytes(m, m.number("<Q")),
        ")": lambda m: m.push(()),
        "\x85": lambda m: _tuple(m, 1),
        "\x86": lambda m: _tuple(m, 2),
        "\x87": lambda m: _tuple(m, 3),
        "t": lambda m: m.push(tuple(m.pop_to_mark())),
        "]": lambda m: m.push([]),
        "l": lambda m: m.push(m.pop_to_mark()),
        "a": _append_one,
        "e": lambda m: m.append(m.pop_to_mark()),
        # A set has no order of its own; the file's is as good.
        "\x8f": lambda m: m.push([]),
        "\x90": lambda m: m.append(m.pop_to_mark()),
        "\x91": lambda m: m.push(m.pop_to_mark()),
        "}": lambda m: m.push({}),
        "d": _dict,
        "s": _set_one,
        "u": lambda m: m.set_items(m.pop_to_mark()),
        "p": lambda m: _put(m, int(m.line())),
        "q": lambda m: _put(m, m.number("B")),
        "r": lambda m: _put(m, m.number("<I")),
        "\x94": lambda m: _put(m, len(m.memo)),
        "g": lambda m: _get(m, int(m.line())),
        "h": lambda m: _get(m, m.number("B")),
        "j": lambda m: _get(m, m.number("<I")),
        "c": _global,
        "\x93": _stack_global,
        "R": _reduce,
        "\x81": _reduce,  # NEWOBJ: of a class, which is one of ours too
        "\x92": _new_with_words,
        "b": lambda m: m.build(),
        "Q": lambda m: m.persistent_id(),
    }.items()
}
