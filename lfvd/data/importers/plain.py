"""What a pickle of plain data may name, and what is made in its place: containers, numpy arrays, torch tensors.

`NAMES` is the whole of it; lfvd.data.importers.pickles reads the file and calls these functions with what it finds there, so that none of
them may trust its arguments. An announced size is checked against the bytes that are there before anything is made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_OBJECTS = 3_000_000
"""Containers, calls and memo entries of a file; the largest published one has a tenth of them."""
MAX_DEPTH = 50
"""Containers inside one another; published files have four."""
_MAX_KEY = 2**53
_LAST_CHARACTER = 0x10FFFF
CALL = 3
"""Objects that a call, a name or a view counts for, and the content of an array three times: they take as much time and memory."""

_NUMBER = re.compile(r"b1|[iu][1248]|f[248]")
_TEXT = re.compile(r"[SU][1-9][0-9]{0,6}")


class NotPlain(Exception):
    """What is wrong, for `PickleRefused`, which also names the file."""


def shown(value: Any) -> str:
    """A value in an error. Containers by kind alone: a few hundred bytes can stand for a terabyte of text."""
    if isinstance(value, str | bytes):
        return ascii(value[:60])
    return repr(value)[:60] if value is None or isinstance(value, int | float) else f"a {type(value).__name__}"


@dataclass(frozen=True)
class Name:
    """A name of the table, as the file gives it; `call` is what stands for it here, None where it is only passed on."""

    name: str
    call: Callable[..., Any] | None


@dataclass
class Dtype:
    """A numpy dtype between its making and its byte order; `holds` is None where the items are objects."""

    holds: np.dtype[Any] | None


@dataclass
class Array:
    """A numpy array between its making and its content."""

    value: Any = None


# Containers.


def as_list(target: Any) -> list[Any]:
    if not isinstance(target, list):
        raise ValueError("items are appended to something that is not a list")
    return target


def as_dict(target: Any) -> dict[Any, Any]:
    if not isinstance(target, dict):
        raise ValueError("items are set in something that is not a dict")
    return target


def filled(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    target.update(zip(map(checked_key, items[::2]), items[1::2], strict=True))
    return target


def checked_key(key: Any) -> Any:
    """A key of a dict or set. Tuples as keys could take for ever to hash, and huge numbers be made to collide."""
    if key is None or isinstance(key, str | bytes) or (isinstance(key, int | float) and abs(key) < _MAX_KEY):
        return key
    raise NotPlain(
        f"has a key that is a {type(key).__name__} or huge, but keys must be text or numbers: name dialogues so"
    )


def _pairs(pairs: Iterable[Any] = ()) -> dict[Any, Any]:
    """OrderedDict."""
    return {checked_key(key): value for key, value in pairs}


def _default_dict(factory: Any = None) -> dict[Any, Any]:
    if factory is not None and not isinstance(factory, Name):
        raise ValueError("a defaultdict has no plain factory")
    return {}


def as_set(items: Iterable[Any] = ()) -> set[Any]:
    return set(map(checked_key, items))


def _bytes(data: Any = b"", encoding: str = "latin1") -> bytes | memoryview:
    """Protocols 0 to 2 write what is empty as `bytes()`, and bytearrays as text."""
    return encoded(data, encoding) if isinstance(data, str) else raw_bytes(data)


def encoded(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes are written as {shown(encoding)} and not as latin1")
    return text.encode("latin1")


def raw_bytes(data: Any) -> bytes | memoryview:
    """The bytes of an array's data; Python 2's came as text."""
    if isinstance(data, str):
        return data.encode("latin1")
    if not isinstance(data, bytes | memoryview):
        raise ValueError(f"an array's data are a {type(data).__name__}")
    return data


# numpy.


def _dtype(code: Any, *_: Any) -> Dtype:
    if code in ("O", "O8"):
        return Dtype(None)
    if not isinstance(code, str) or not (_NUMBER.fullmatch(code) or _TEXT.fullmatch(code)):
        raise NotPlain(f"holds an array of the type {shown(code)}, but must hold numbers or text: convert it")
    return Dtype(np.dtype(code))


def ordered(dtype: np.dtype[Any] | None, version: int, order: str, *rest: Any) -> np.dtype[Any] | None:
    """A dtype with its byte order; `rest` says nothing more for the types that `_dtype` lets through."""
    if version != 3 or order not in ("<", ">", "|", "=") or any(part is not None for part in rest[:3]):
        raise NotPlain("holds an array whose type has parts, but must hold numbers or text: convert it")
    return dtype if dtype is None or order == "|" else dtype.newbyteorder(order)  # type: ignore[arg-type]


def _new_array(kind: Any, shape: Any, _: Any) -> Array:
    if not isinstance(kind, Name) or kind.name != "numpy.ndarray" or shape != (0,):
        raise ValueError("an array does not begin as numpy begins it")
    return Array()


def array_of_state(version: Any, shape: Any, dtype: Any, fortran: Any, data: Any) -> Any:
    if version != 1 or not isinstance(dtype, Dtype):
        raise ValueError("an array does not go on as numpy writes it")
    if dtype.holds is None:
        if not isinstance(data, list) or _sizes(shape) != (len(data),):
            raise NotPlain("holds an array of objects with more than one axis, but must hold numbers: convert it")
        return data
    return shaped(raw_bytes(data), dtype, shape, order="F" if fortran else "C")


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    """Protocol 5. `axes`: how numpy 2 writes an array whose axes were exchanged."""
    if not isinstance(dtype, Dtype) or order not in ("C", "F", "K"):
        raise ValueError("an array does not go on as numpy writes it")
    array = shaped(raw_bytes(data), dtype, shape, order="F" if order == "F" else "C")
    return array if axes is None else array.transpose(_sizes(axes))


def shaped(data: bytes | memoryview, dtype: Dtype, shape: Any, *, order: str) -> np.ndarray:
    """An array over `data`, once its announced size is found to be the size of `data`."""
    sizes = _sizes(shape)
    if dtype.holds is None:
        raise ValueError("an array of objects has data")
    need = math.prod(sizes) * dtype.holds.itemsize
    if need != len(data):
        raise NotPlain(
            f"announces an array of shape {sizes} of {dtype.holds} ({need} bytes) where it has {len(data)} bytes: "
            "fetch the file again"
        )
    if not need and max(sizes, default=0) > MAX_OBJECTS:
        raise NotPlain(f"announces an empty array of shape {sizes}: fetch the file again")
    array = np.frombuffer(data, dtype.holds) if need else np.empty(0, dtype.holds)
    if need and array.dtype.kind == "U" and array.view(array.dtype.str[0] + "u4").max() > _LAST_CHARACTER:
        raise ValueError("a text array holds what is no character")  # numpy would make broken texts of it
    return array.reshape(sizes, order="F" if order == "F" else "C")


def _sizes(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or len(shape) > 8 or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise ValueError("the shape of an array is not a tuple of sizes")
    return shape


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, Dtype):
        raise ValueError("a number has no numpy type")
    return shaped(raw_bytes(data), dtype, (), order="C").item()


# torch.

STORAGES: dict[str, np.dtype[Any]] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    """A tensor as an array: a view of its storage, which may neither reach beyond it nor be larger."""
    sizes, steps = _sizes(size), _sizes(stride)
    if not isinstance(storage, np.ndarray) or storage.ndim != 1 or len(steps) != len(sizes) or type(offset) is not int:
        raise ValueError("a tensor is not described as torch does it")
    last = offset + sum((n - 1) * step for n, step in zip(sizes, steps, strict=True))
    if math.prod(sizes) > len(storage) or offset < 0 or (0 not in sizes and last >= len(storage)):
        raise NotPlain(
            f"announces a tensor of shape {sizes} in a storage of {len(storage)} numbers: fetch the file again"
        )
    if 0 in sizes:
        return shaped(b"", Dtype(storage.dtype), sizes, order="C")
    strides = tuple(step * storage.itemsize for step in steps)
    return np.ndarray(sizes, storage.dtype, storage, offset * storage.itemsize, strides)


NAMES: dict[str, Callable[..., Any] | None] = {
    "numpy.ndarray": None,
    "numpy.dtype": _dtype,
    **{
        f"numpy.{core}.{name}": call
        for core in ("core", "_core")
        for name, call in (
            ("multiarray._reconstruct", _new_array),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _from_buffer),
        )
    },
    "_codecs.encode": encoded,
    "collections.OrderedDict": _pairs,
    "collections.defaultdict": _default_dict,
    **{
        f"{module}.{name}": call
        for module in ("builtins", "__builtin__")
        for name, call in (
            ("list", None),
            ("dict", None),
            ("int", None),
            ("float", None),
            ("set", as_set),
            ("frozenset", as_set),
            ("bytes", _bytes),
            ("bytearray", _bytes),
        )
    },
    "torch._utils._rebuild_tensor_v2": _tensor,
}
"""Everything that a file may name, and what is done in its place."""


# The result.

_LEAVES = (type(None), bool, int, float, str, bytes, memoryview, np.ndarray)


def check_plain(root: Any) -> None:
    """Refuse what is left over of the machine's own types, and containers that hold themselves or lie too deep."""
    done: set[int] = set()
    path: set[int] = set()
    todo: list[tuple[Any, bool]] = [(root, False)]
    while todo:
        value, leaving = todo.pop()
        if leaving:
            path.discard(id(value))
            done.add(id(value))
            continue
        if id(value) in path:
            raise NotPlain("holds a container inside itself, which no feature file does: write it without")
        if id(value) in done:
            continue
        if not isinstance(value, list | tuple | dict | set):
            if not isinstance(value, _LEAVES):
                raise NotPlain(f"holds {shown(value)}, which is no plain data: write arrays, lists and dicts only")
            continue
        path.add(id(value))
        if len(path) > MAX_DEPTH:
            raise NotPlain(f"is nested more than {MAX_DEPTH} deep, which no feature file is: write it flatter")
        todo.append((value, True))
        items = value.values() if isinstance(value, dict) else value
        if not set(map(type, items)) <= set(_LEAVES):
            todo.extend((item, False) for item in items if not isinstance(item, _LEAVES))
