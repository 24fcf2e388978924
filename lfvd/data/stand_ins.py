"""Stand-ins for all that a pickle of plain data names: containers, numpy arrays, torch tensors.

`Unpickler` is Python's own with a `find_class` that returns nothing else. The stand-ins describe arrays and never import numpy
or torch; they check each announced size against the bytes that are there.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

MAX_LENGTH = 1_000_000
"""Longest axis of an array without content."""
_FORMATS = dict(
    zip(["b1", "i1", "u1", "i2", "u2", "f2", "i4", "u4", "f4", "i8", "u8", "f8"], "?bBhHeiIfqQd", strict=True)
)
"""numpy's code of a number → that of `struct`."""


class Refused(Exception):
    """What is wrong with the file, without its name."""


class Name:
    """Stands for a name in the file; `call` is called in its place, or is None where the name is only passed on."""

    def __init__(self, name: str, call: Callable[..., Any] | None) -> None:
        self.name, self.call = name, call

    def __call__(self, *args: Any) -> Any:
        if self.call is None:
            raise no_plain_data(self.name)
        return self.call(*args)

    def __setstate__(self, _: Any) -> None:
        raise no_plain_data(f"the inside of {self.name}")


def no_plain_data(name: str) -> Refused:
    rule = "which is code and not plain data, so it is not opened"
    return Refused(f"names {name[:200]}, {rule}: have its maker write arrays, lists, dicts, text and numbers only")


def short_repr(value: Any) -> str:
    """A value in an error. Containers by kind alone: a few hundred bytes can stand for a terabyte of text."""
    if isinstance(value, str | bytes):
        return ascii(value[:60])
    if value is None or isinstance(value, int | float):
        return repr(value)[:60]
    shape = f" of shape {value.shape}" if hasattr(value, "shape") else ""
    return f"a {type(value).__name__}{shape}"


def as_bytes(data: Any = b"", encoding: Any = "latin1") -> bytes:
    """Bytes, which Python 2 and protocols 0 to 2 write as text."""
    if encoding not in ("latin1", "latin-1") or not isinstance(data, str | bytes | bytearray):
        raise ValueError(f"bytes are written as {short_repr(encoding)} and not as latin1")
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


class Dtype:
    """A numpy type: a number such as `f4`, text such as `U5`, or `O` for objects."""

    def __init__(self, code: Any, *_: Any) -> None:
        code = "O" if code == "O8" else code
        if not isinstance(code, str) or not (code in _FORMATS or re.fullmatch(r"O|[SU][1-9][0-9]{0,6}", code)):
            raise Refused(f"holds an array of the type {short_repr(code)}, but must hold numbers or text: convert it")
        self.code, self.order = code, "<"
        self.size = int(code[1:] or 0) * (4 if code[0] == "U" else 1)

    def __setstate__(self, state: Any) -> None:
        """Set the byte order."""
        version, order, *parts = state
        if version != 3 or order not in ("<", ">", "|", "="):
            raise ValueError("the type of an array is not described as numpy does it")
        if any(part is not None for part in parts[:3]):
            raise Refused("holds an array whose type has parts, but must hold numbers or text: convert it")
        self.order = ">" if order == ">" else "<"

    def text(self, raw: bytes) -> str:
        return raw.decode("utf-32-be" if self.order == ">" else "utf-32-le", "surrogatepass")


class Array:
    """An array as its type, bytes, shape and strides (in bytes); `items` where it holds objects."""

    def __init__(self, *_: Any) -> None:
        self.dtype: Dtype | None = None
        self.items: list[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, fortran, data = state
        if version != 1 or not isinstance(dtype, Dtype) or self.dtype is not None:
            raise ValueError("an array does not go on as numpy writes it")
        if dtype.code != "O":
            self.fill(data, dtype, shape, "F" if fortran else "C")
        elif not isinstance(data, list) or sizes(shape) != (len(data),):
            raise Refused("holds an array of objects with more than one axis, but must hold numbers: convert it")
        else:
            self.dtype, self.items = dtype, data

    def fill(self, data: Any, dtype: Any, shape: Any, order: Any = "C", axes: Any = None) -> Array:
        """Set the content once the announced size is found to be the size of `data`; `axes` where numpy 2 exchanged them."""
        if not isinstance(dtype, Dtype) or order not in ("C", "F", "K"):
            raise ValueError("an array does not go on as numpy writes it")
        need = math.prod(sizes(shape)) * dtype.size
        if need != len(data) or dtype.code == "O" or max(shape, default=0) > max(need, MAX_LENGTH):
            raise Refused(
                f"announces an array of shape {shape} of {dtype.code} ({need} bytes) where it has {len(data)} bytes: "
                "fetch the file again"
            )
        if dtype.code[0] == "U":
            dtype.text(as_bytes(data))  # numpy would make broken texts of what is none
        self.dtype, self.data, self.shape = dtype, data, shape
        self.strides = dense(shape[::-1], dtype.size)[::-1] if order == "F" else dense(shape, dtype.size)
        if axes is not None:
            self.shape, self.strides = (tuple(part[axis] for axis in axes) for part in (shape, self.strides))
        return self


def sizes(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or len(shape) > 8 or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise ValueError("the shape of an array is not a tuple of sizes")
    return shape


def dense(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Strides of an array in C order."""
    return tuple(size * math.prod(shape[i + 1 :]) for i in range(len(shape)))


def scalar(dtype: Any, data: Any = b"") -> Any:
    """A numpy number or text as Python's own."""
    raw = as_bytes(Array().fill(data, dtype, ()).data)
    if dtype.code[0] in "SU":
        return raw.rstrip(b"\0") if dtype.code[0] == "S" else dtype.text(raw).rstrip("\0")
    return struct.unpack(dtype.order + _FORMATS[dtype.code], raw)[0]


def storage(data: Any) -> Array:
    """A storage of torch: pickles of a number, a version, the system, the type and the key, then size and data."""
    file = io.BytesIO(as_bytes(data))
    magic, version, _, dtype, keys = (Unpickler(file).load() for _ in range(5))
    if (magic, version) != (0x1950A86A20F9469CFC6C, 1001) or len(keys) != 1:
        raise ValueError("the storage of a tensor is not written as torch writes it")
    (size,) = struct.unpack("<q", file.read(8))
    return Array().fill(file.read(), dtype, (size,))


def tensor(source: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Array:
    """A tensor as an array that has the part of the storage which it spans."""
    if not isinstance(source, Array) or source.dtype is None or len(source.shape) != 1 or type(offset) is not int:
        raise ValueError("a tensor is not described as torch does it")
    (there,), size, count, steps = source.shape, source.dtype.size, math.prod(sizes(shape)), sizes(stride)
    span = sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    end = offset + span + 1 if count else 0
    if count > there or offset < 0 or end > there or max(shape, default=0) > max(there, MAX_LENGTH):
        raise Refused(f"announces a tensor of shape {shape} in a storage of {there} numbers: fetch the file again")
    made = Array()
    made.dtype, made.shape, made.strides = source.dtype, shape, tuple(size * step for step in steps)
    made.data = as_bytes(source.data)[offset * size : end * size] if count else b""
    return made


_STORAGES = {"Double": "f8", "Float": "f4", "Half": "f2", "Long": "i8", "Int": "i4", "Short": "i2"}
_STORAGES |= {"Char": "i1", "Byte": "u1", "Bool": "b1"}
NAMES: dict[str, Callable[..., Any] | None] = {
    "numpy.ndarray": None,
    "numpy.dtype": Dtype,
    "_codecs.encode": as_bytes,
    "collections.OrderedDict": dict,
    "collections.defaultdict": lambda *_: {},  # its items are set afterwards
    "torch._utils._rebuild_tensor_v2": tensor,
    "torch.storage._load_from_bytes": storage,
    **{f"torch.{name}Storage": None for name in _STORAGES},
}
"""Everything that a file may name, and what is called in its place."""
for _core in ("core", "_core"):
    NAMES[f"numpy.{_core}.multiarray._reconstruct"] = Array
    NAMES[f"numpy.{_core}.multiarray.scalar"] = scalar
    NAMES[f"numpy.{_core}.numeric._frombuffer"] = lambda *args: Array().fill(*args)
for _builtins in ("builtins", "__builtin__"):
    NAMES |= {f"{_builtins}.{name}": None for name in ("list", "dict", "int", "float")}
    NAMES |= {f"{_builtins}.{name}": set for name in ("set", "frozenset")}
    NAMES |= {f"{_builtins}.{name}": as_bytes for name in ("bytes", "bytearray")}


class Unpickler(pickle.Unpickler):
    """Python's own, which finds stand-ins only."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        key = f"{module}.{name}"
        if key not in NAMES:
            raise no_plain_data(key)
        return Name(key, NAMES[key])

    def persistent_load(self, pid: Any) -> Any:
        """The type of a storage, which torch refers to in the file of the storage."""
        kind, storage_type, _, _, _, view = pid
        if kind != "storage" or not isinstance(storage_type, Name) or view is not None:
            raise ValueError("a storage is not described as torch does it")
        return Dtype(_STORAGES[storage_type.name.removeprefix("torch.").removesuffix("Storage")])
