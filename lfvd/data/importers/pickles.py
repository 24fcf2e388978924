"""Pickles from strangers, read without unpickling: a small machine that knows plain data and nothing else.

`unpickled("IEMOCAP_features.pkl")`

Python's unpickler calls whatever a file names. This one calls nothing and imports nothing: it reads the opcodes of protocols
0 to 5 and builds containers, numbers, text and numpy arrays itself. A name in the file (`GLOBAL`) is looked up in a fixed
table; one that is not there ends the reading, with the name, before anything is built from it. Text of Python 2 is read
as latin1. Arrays are views of the mapped file, not copies, except where the protocol stores them as text.
"""

from __future__ import annotations

import mmap
import pickle
import re
import struct
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any

import numpy as np

from lfvd.data.importers.plain import (
    CALL,
    MAX_DEPTH,
    MAX_OBJECTS,
    NAMES,
    STORAGES,
    Array,
    Dtype,
    Name,
    NotPlain,
    array_of_state,
    as_dict,
    as_list,
    as_set,
    check_plain,
    checked_key,
    encoded,
    filled,
    ordered,
    raw_bytes,
    shaped,
)
from lfvd.files import InputError

_MAX_DIGITS = 128
_MAX_NAME = 256
_SPARE_COPIES = 2**20
_PLAIN_TEXT = 256  # below it, equal texts may be one object
_GONE = object()
_DROP = 2**24  # bytes between two calls of the system

_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.|$)", re.DOTALL)
_ESCAPES = {b"\\": b"\\", b"'": b"'", b'"': b'"', b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_TO_ARRAY = re.compile(rb"(?:q.|r.{4}|p[0-9]{1,9}\n)?t(?:q.|r.{4}|p[0-9]{1,9}\n)?b", re.DOTALL)
"""What follows the data of an array that Python 2 wrote: a tuple is closed, and given to the array."""


class PickleRefused(InputError):
    """A pickle that holds more than plain data, or is broken."""


def unpickled(path: str | Path) -> Any:
    """What a pickle file holds: lists, dicts, sets, tuples, numbers, text, bytes (long ones as memoryview), numpy arrays.

    Object arrays come as lists, numpy scalars as Python's, torch tensors as arrays. Arrays are read-only and keep the file
    mapped. Raises PickleRefused for a file that names anything outside the table or is broken, OSError where it
    cannot be read.
    """
    with Path(path).open("rb") as file:
        try:
            content: bytes | mmap.mmap = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file cannot be mapped
            content = b""
    return unpickled_bytes(content, source=str(path))


def unpickled_bytes(content: bytes | mmap.mmap, *, source: str) -> Any:
    """As `unpickled`, from memory; `source` names it in errors."""
    try:
        machine = _Machine(memoryview(content))
        value = machine.run()
        check_plain(value)
    except NotPlain as error:
        raise PickleRefused(f"{source}: {error}") from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError, struct.error) as error:
        reason = " ".join(str(error).split())[:200]
        raise PickleRefused(f"{source}: is cut off, damaged or not a pickle ({reason}): fetch the file again") from None
    return value


def drop_pages(content: Any) -> None:
    """Give back the memory of the mapped file behind an array or memoryview; what is read again is mapped again."""
    while not isinstance(content, mmap.mmap):
        if not isinstance(content, np.ndarray | memoryview):
            return
        content = content.base if isinstance(content, np.ndarray) else content.obj
    if hasattr(mmap, "MADV_DONTNEED"):
        content.madvise(mmap.MADV_DONTNEED)


def _refuse_name(name: str) -> NotPlain:
    shown = name if re.fullmatch(r"[\w.]+", name) else ascii(name)
    return NotPlain(
        f"names {shown}, which is code and not plain data, so it is not opened: "
        "have its maker write arrays, lists, dicts, text and numbers only"
    )


class _Machine:
    """The stack machine of the pickle protocols, over the bytes of one file."""

    def __init__(self, content: memoryview, *, storages: dict[str, np.ndarray] | None = None, start: int = 0):
        self.content = content
        self.at = self.dropped = start
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.last_put = -1
        self.objects = 0
        self.copied = 0
        self.unbuilt = 0
        self.storages = storages

    def run(self) -> Any:
        """The value of one pickle; `at` then lies behind it."""
        content, operations = self.content, _OPERATIONS
        while True:
            code = content[self.at]
            self.at += 1
            if code == pickle.STOP[0]:
                break
            operation = operations.get(code)
            if operation is None:
                raise NotPlain(_refused_opcode(code))
            operation(self)
        if self.unbuilt:
            raise ValueError("an array has no content")
        (value,) = self.stack
        return value

    def take(self, size: int) -> memoryview:
        """The next bytes of the file."""
        end = self.at + size
        if size < 0 or end > len(self.content):
            raise ValueError(f"{size} bytes are announced at byte {self.at} of {len(self.content)}")
        part = self.content[self.at : end]
        self.at = end
        if end > self.dropped + _DROP:
            self.dropped = end
            drop_pages(self.content)
        return part

    def line(self, most: int) -> bytes:
        """The next bytes up to a line's end, for the text opcodes of protocol 0."""
        found = self.content[self.at : self.at + most + 1].tobytes().find(b"\n")
        if found < 0:
            raise ValueError(f"no line ends within {most} bytes of byte {self.at}")
        part = self.take(found + 1)[:-1].tobytes()
        return part

    def long_line(self) -> bytes:
        most = 64
        while self.content[self.at : self.at + most].tobytes().find(b"\n") < 0 and self.at + most < len(self.content):
            most *= 2
        return self.line(most)

    def number(self, form: str) -> Any:
        """A little-endian number, by its letter in `struct`."""
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def count(self, size: int = 1) -> None:
        self.objects += size
        if self.objects > MAX_OBJECTS:
            raise NotPlain(
                f"holds more than {MAX_OBJECTS} objects, which no feature file does: write arrays, not lists"
            )

    def count_copies(self, values: tuple[Any, ...]) -> None:
        """Honest files give each part of theirs to one call; a part given to thousands would fill memory, or take for ever."""
        self.copied += len(values) + sum(len(value) for value in values if isinstance(value, Sized))
        if self.copied > 2 * len(self.content) + _SPARE_COPIES:
            raise NotPlain("copies the same data again and again, which no feature file does: fetch the file again")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_container(self, value: Any) -> None:
        self.count()
        self.stack.append(value)

    def push_view(self, size: int) -> None:
        """The next bytes of the file, as they lie there: small ones are mostly the view itself."""
        self.count(CALL)
        self.push(self.take(size))

    # Stack and memo.

    def mark(self) -> None:
        if len(self.marks) >= MAX_DEPTH:
            raise NotPlain(f"is nested more than {MAX_DEPTH} deep, which no feature file is: write it flatter")
        self.marks.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        """What was pushed since the last mark, which goes away."""
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def put(self, key: int) -> None:
        self.count()
        if not 0 <= key < 2**32:  # larger ones can be made to collide in the dict
            raise ValueError(f"a memo entry has the number {key}")
        self.memo[key] = self.stack[-1]
        self.last_put = key

    def get(self, key: int) -> None:
        value = self.memo[key]
        if value is _GONE:
            raise ValueError(f"the memo's entry {key} was made for one use")
        if isinstance(value, Array):
            if value.value is None:
                raise NotPlain("holds an array inside itself, which is no plain data: write it without")
            value = value.value
        self.stack.append(value)

    # Containers.

    def append(self) -> None:
        item = self.stack.pop()
        as_list(self.stack[-1]).append(item)

    def appends(self) -> None:
        items = self.marked()
        as_list(self.stack[-1]).extend(items)

    def set_item(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        as_dict(self.stack[-1])[checked_key(key)] = value

    def set_items(self) -> None:
        items = self.marked()
        filled(as_dict(self.stack[-1]), items)

    def add_items(self) -> None:
        items = self.marked()
        if not isinstance(self.stack[-1], set):
            raise ValueError("items are added to something that is not a set")
        self.count(len(items))
        self.stack[-1].update(map(checked_key, items))

    def marked_set(self) -> None:
        items = self.marked()
        self.count(len(items))
        self.push_container(as_set(items))

    def marked_dict(self) -> None:
        self.push_container(filled({}, self.marked()))

    def top_tuple(self, size: int) -> None:
        items = tuple(self.stack[len(self.stack) - size :])
        if len(items) < size:
            raise ValueError(f"a tuple of {size} lacks items")
        del self.stack[-size:]
        self.push_container(items)

    # Text.

    def old_text(self, size: int) -> None:
        """Python 2's `str`: text, unless it is the data of an array."""
        part = self.take(size)
        following = self.content[self.at : self.at + 22]
        self.push(part if _TO_ARRAY.match(following) else str(part, "latin1"))

    def old_text_line(self) -> None:
        text = self.long_line().strip()
        if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
            raise ValueError("a text has no quotes")
        self.push(_ESCAPE.sub(_unescaped, text[1:-1]).decode("latin1"))

    # Names, calls and arrays.

    def name(self, module: str, name: str) -> None:
        self.count(CALL)
        key = f"{module}.{name}"
        if self.storages is not None and module == "torch" and name in STORAGES:
            self.push(_STORAGES[key])
        elif self.storages is None and key in _NAMES:
            self.push(_NAMES[key])
        else:
            raise _refuse_name(key)

    def name_lines(self) -> None:
        module, name = (self.line(_MAX_NAME).decode(errors="replace") for _ in range(2))
        self.name(module, name)

    def name_stacked(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str) or len(name) + len(module) > 2 * _MAX_NAME:
            raise ValueError("a name is not text, or too long")
        self.name(module, name)

    def reduce(self) -> None:
        """Call what stands for a name of the table."""
        args, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, Name) or not isinstance(args, tuple):
            raise ValueError("something that has no name is called")
        if called.call is None:
            raise _refuse_name(f"{called.name}(…)")
        self.count_copies(args)
        if called.call is encoded:
            self.forget(args)
        made = called.call(*args)
        if isinstance(made, Array):
            self.unbuilt += 1
        self.count(CALL + (len(made) if isinstance(made, set) else 0))
        self.push(made)

    def forget(self, args: tuple[Any, ...]) -> None:
        """Protocol 2 writes bytes as a text made for that alone: let it go, or all features would lie in memory twice."""
        if len(args[0]) > _PLAIN_TEXT:
            for key in range(self.last_put - 2, self.last_put + 1):
                if self.memo.get(key) is args[0] or self.memo.get(key) is args:
                    self.memo[key] = _GONE

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(state, tuple):
            state, target = (), None
        self.count_copies(state)
        self.count(3 * CALL)
        if isinstance(target, Array) and target.value is None:
            target.value = self.stack[-1] = array_of_state(*state)
            self.unbuilt -= 1
        elif isinstance(target, Dtype):
            target.holds = ordered(target.holds, *state)
        else:
            raise NotPlain("sets the inside of an object, which is no plain data: write arrays, lists and dicts only")

    def persistent(self) -> None:
        """A storage, where torch wrote one; anywhere else, a name for something outside the file."""
        if self.storages is None:
            raise NotPlain(_refused_opcode(pickle.BINPERSID[0]))
        kind, storage, key, _, size, view = self.stack.pop()
        if kind != "storage" or not isinstance(storage, Name) or not isinstance(key, str) or view is not None:
            raise ValueError("a storage is not described as torch does it")
        dtype = STORAGES[storage.name.removeprefix("torch.")]
        if not isinstance(size, int) or not 0 <= size <= len(self.content):
            raise ValueError(f"a storage of {size} elements is announced in {len(self.content)} bytes")
        self.push(self.storages.setdefault(key, np.empty(0, dtype)))


def _unescaped(found: re.Match[bytes]) -> bytes:
    """What an escape of Python 2's `repr` stands for."""
    code = found[1]
    if code[:1] == b"x":
        return bytes([int(code[1:], 16)])
    return _ESCAPES[code]


def _refused_opcode(code: int) -> str:
    name = {v[0]: k for k, v in vars(pickle).items() if k in _REFUSED}.get(code)
    if name is None:
        return f"is damaged or not a pickle (0x{code:02x} is no opcode): fetch the file again"
    return f"uses {name} ({_REFUSED[name]}), which plain data do not need, so it is not opened: have its maker write arrays"


_REFUSED = {
    "PERSID": "a name for something outside the file",
    "BINPERSID": "a name for something outside the file",
    "INST": "an object of a class",
    "OBJ": "an object of a class",
    "NEWOBJ": "an object of a class",
    "NEWOBJ_EX": "an object of a class",
    "EXT1": "a registered class",
    "EXT2": "a registered class",
    "EXT4": "a registered class",
    "NEXT_BUFFER": "data outside the file",
    "READONLY_BUFFER": "data outside the file",
    "DUP": "one value twice",
    "POP": "a value that is thrown away",
    "POP_MARK": "values that are thrown away",
}

# torch.

_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_TORCH_VERSION = 1001


def _storage(data: Any) -> np.ndarray:
    """A storage inside a tensor: `torch.save`'s old format, that is five pickles, then the size and the data of the storage."""
    content = memoryview(raw_bytes(data))
    storages: dict[str, np.ndarray] = {}
    at, parts = 0, []
    for _ in range(5):
        machine = _Machine(content, storages=storages, start=at)
        parts.append(machine.run())
        at = machine.at
    if parts[:2] != [_TORCH_MAGIC, _TORCH_VERSION] or len(storages) != 1 or parts[4] != list(storages):
        raise ValueError("a tensor's storage is not written as torch writes it")
    dtype = parts[3].dtype
    (size,) = struct.unpack_from("<q", content, at)
    return shaped(content[at + 8 :], Dtype(dtype), (size,), order="C")


_NAMES = {key: Name(key, call) for key, call in {**NAMES, "torch.storage._load_from_bytes": _storage}.items()}
"""Everything that a file may name."""
_STORAGES = {key: Name(key, None) for key in (f"torch.{name}" for name in STORAGES)}
"""And what a storage of torch may."""


# The opcodes.


def _whole(text: bytes) -> int | bool:
    if text in (b"00", b"01"):
        return text == b"01"
    return int(text.strip().removesuffix(b"L"))


def _long(machine: _Machine, size: int) -> int:
    if not 0 <= size <= _MAX_DIGITS:
        raise ValueError(f"a number of {size} bytes")
    return int.from_bytes(machine.take(size), "little", signed=True)


def _utf8(machine: _Machine, size: int) -> str:
    return str(machine.take(size), "utf-8", "surrogatepass")


_OPERATIONS: dict[int, Callable[[_Machine], None]] = {
    code[0]: operation
    for code, operation in (
        (pickle.PROTO, lambda m: m.take(1)),
        (pickle.FRAME, lambda m: m.take(8)),
        (pickle.MARK, _Machine.mark),
        (pickle.PUT, lambda m: m.put(int(m.line(_MAX_DIGITS)))),
        (pickle.BINPUT, lambda m: m.put(m.number("B"))),
        (pickle.LONG_BINPUT, lambda m: m.put(m.number("I"))),
        (pickle.MEMOIZE, lambda m: m.put(len(m.memo))),
        (pickle.GET, lambda m: m.get(int(m.line(_MAX_DIGITS)))),
        (pickle.BINGET, lambda m: m.get(m.number("B"))),
        (pickle.LONG_BINGET, lambda m: m.get(m.number("I"))),
        (pickle.NONE, lambda m: m.push(None)),
        (pickle.NEWTRUE, lambda m: m.push(True)),
        (pickle.NEWFALSE, lambda m: m.push(False)),
        (pickle.INT, lambda m: m.push(_whole(m.line(_MAX_DIGITS)))),
        (pickle.LONG, lambda m: m.push(_whole(m.line(_MAX_DIGITS)))),
        (pickle.BININT, lambda m: m.push(m.number("i"))),
        (pickle.BININT1, lambda m: m.push(m.number("B"))),
        (pickle.BININT2, lambda m: m.push(m.number("H"))),
        (pickle.LONG1, lambda m: m.push(_long(m, m.number("B")))),
        (pickle.LONG4, lambda m: m.push(_long(m, m.number("i")))),
        (pickle.FLOAT, lambda m: m.push(float(m.line(_MAX_DIGITS)))),
        (pickle.BINFLOAT, lambda m: m.push(struct.unpack(">d", m.take(8))[0])),
        (pickle.STRING, _Machine.old_text_line),
        (pickle.BINSTRING, lambda m: m.old_text(m.number("i"))),
        (pickle.SHORT_BINSTRING, lambda m: m.old_text(m.number("B"))),
        (pickle.UNICODE, lambda m: m.push(m.long_line().decode("raw-unicode-escape"))),
        (pickle.BINUNICODE, lambda m: m.push(_utf8(m, m.number("I")))),
        (pickle.BINUNICODE8, lambda m: m.push(_utf8(m, m.number("Q")))),
        (pickle.SHORT_BINUNICODE, lambda m: m.push(_utf8(m, m.number("B")))),
        (pickle.BINBYTES, lambda m: m.push_view(m.number("I"))),
        (pickle.BINBYTES8, lambda m: m.push_view(m.number("Q"))),
        (pickle.BYTEARRAY8, lambda m: m.push_view(m.number("Q"))),
        (pickle.SHORT_BINBYTES, lambda m: m.push(bytes(m.take(m.number("B"))))),
        (pickle.EMPTY_LIST, lambda m: m.push_container([])),
        (pickle.EMPTY_DICT, lambda m: m.push_container({})),
        (pickle.EMPTY_SET, lambda m: m.push_container(set())),
        (pickle.EMPTY_TUPLE, lambda m: m.push(())),
        (pickle.LIST, lambda m: m.push_container(m.marked())),
        (pickle.DICT, _Machine.marked_dict),
        (pickle.TUPLE, lambda m: m.push_container(tuple(m.marked()))),
        (pickle.TUPLE1, lambda m: m.top_tuple(1)),
        (pickle.TUPLE2, lambda m: m.top_tuple(2)),
        (pickle.TUPLE3, lambda m: m.top_tuple(3)),
        (pickle.FROZENSET, _Machine.marked_set),
        (pickle.APPEND, _Machine.append),
        (pickle.APPENDS, _Machine.appends),
        (pickle.SETITEM, _Machine.set_item),
        (pickle.SETITEMS, _Machine.set_items),
        (pickle.ADDITEMS, _Machine.add_items),
        (pickle.GLOBAL, _Machine.name_lines),
        (pickle.STACK_GLOBAL, _Machine.name_stacked),
        (pickle.REDUCE, _Machine.reduce),
        (pickle.BUILD, _Machine.build),
        (pickle.BINPERSID, _Machine.persistent),
    )
}
