"""Hostile pickles: they try to run code, to fill memory, to corrupt it or to hang a reader. Other files: hostile_files.

Those that run make the file `CANARY` in the working directory.
"""

from __future__ import annotations

import itertools
import os
import pickle
import struct
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

CANARY = "ran"
SHELL = f"touch {CANARY}"
PRIME = 2**61 - 1
"""All multiples of this have the same hash."""


@dataclass(frozen=True)
class Attack:
    """A file and what its refusal must say."""

    name: str
    content: bytes
    says: str = ""
    suffix: str = ".pkl"
    runs: bool = False
    """Makes the canary where pickle.load reads it."""
    harmless: bool = False
    """May be read as well: what is odd about it is never used."""


class Call:
    """Pickles as the call of something, then the setting of a state."""

    def __init__(self, called: Any, *args: Any, state: Any = None) -> None:
        self.reduced = (called, args) if state is None else (called, args, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


EVIL = Call(os.system, SHELL)
INNER = pickle.dumps(EVIL, 4)
OPCODES = {  # each calls, or names, by another opcode
    "global": b"cos\nsystem\n(Vtouch ran\ntR",
    "dotted": b"\x8c\x06shutil\x8c\x09os.system\x93(Vtouch ran\ntR",
    "inst": b"(Vtouch ran\nios\nsystem\n",
    "obj": b"(cos\nsystem\nVtouch ran\no",
    "popped": b"cos\nsystem\n(Vtouch ran\ntR0]",
    "computed": b"]\x8c\x02os\x94a]\x8c\x06system\x94ah\x00h\x01\x93(Vtouch ran\ntR",
}


def _names() -> Iterator[Attack]:
    """A forbidden name by every opcode that calls, and round the check of names."""
    for name, body in OPCODES.items():
        yield Attack(name, b"\x80\x04" + body + b".", "os.system", runs=True)
    array, storage = _array("f4", (1,), EVIL), pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + INNER
    for name, value in {
        "inside": [1, {"a": (EVIL,)}],
        "as-state": Call(OrderedDict, state=EVIL),
        "as-data": array,
        "as-dtype": Call(np.dtype, EVIL),
        "eval": Call(eval, f"open('{CANARY}', 'w').close()"),
        "memmap": Call(np.memmap, CANARY, "float32", "w+", 0, (1,)),
    }.items():
        yield Attack(name, pickle.dumps(value, 4), {"eval": "eval", "memmap": "memmap"}.get(name, "system"), runs=True)
    for name, content in {
        "inside-a-storage": b"ctorch.storage\n_load_from_bytes\n(" + pickle.dumps(storage, 3)[2:-1] + b"tR",
        "newobj": b"cos\nsystem\n(Vtouch ran\nt\x81",
        "newobj-ex": b"cos\nsystem\n(Vtouch ran\nt}\x92",
        "as-default-factory": b"ccollections\ndefaultdict\n(cos\nsystem\ntR",
    }.items():
        yield Attack(name, b"\x80\x04" + content + b".", "system")
    for name, content, says in (
        ("name-not-text", b"K\x01K\x02\x93", ""),
        ("name-with-escapes", b"\x8c\x02os\x8c\x08\x1b[2J\x1b[1m\x93)R", r"\x1b"),
        ("name-inside-an-allowed-one", b"\x8c\x05numpy\x8c\x0endarray.tofile\x93)R", "numpy.ndarray.tofile"),
        ("extension-code", b"\x82\x01)R", ""),
        ("persistent-id", b"Vos.system\nQ", ""),
        ("other-codec", b"c_codecs\nencode\n(Vaaa\nVidna\ntR", "latin1"),
        ("attribute-of-a-name", b"cnumpy\ndtype\n(N}Vcall\nK\x01stb", "inside"),
        ("name-as-a-value", b"cnumpy\ndtype\n", "numpy.dtype"),
        ("call-of-a-list", b"](K\x01tR", ""),
    ):
        yield Attack(name, b"\x80\x04" + content + b".", says)


def _dtype(code: str, state: Any = None) -> Call:
    return Call(np.dtype, code, False, True, state=state or (3, "<", None, None, None, -1, -1, 0))


def _array(code: str | Call, shape: tuple[int, ...], data: Any, *, state: bool = True) -> Call:
    """An array as numpy pickles it."""
    described = code if isinstance(code, Call) else _dtype(code)
    start = (np._core.multiarray._reconstruct, np.ndarray, (0,), b"b")
    return Call(*start, state=(1, shape, described, False, data) if state else None)


def _arrays() -> Iterator[Attack]:
    """Arrays that lie. Numpy trusts the state of a dtype: lying flags make it take raw bytes for pointers."""
    huge, pointer, lies = 2**40, b"\x10" * 8, (3, "|", None, None, None, 8, 1, 63)
    scalar, rebuilt = np._core.multiarray.scalar, __import__("torch")._utils._rebuild_tensor_v2
    numbers = _array("f4", (1,), b"1234")
    for name, value in {
        "beyond-the-file": _array("f4", (huge,), b"1234"),
        "beyond-64-bits": _array("f4", (2**62, 2**62), b"1234"),
        "negative-product": _array("f4", (-2, -2), b"1" * 16),
        "shorter-than-its-bytes": _array("f4", (1,), b"12345678"),
        "many-axes": _array("f4", (1,) * 99, b"1234"),
        "much-nothing": _array("f4", (huge, 0), b""),
        "without-state": _array("f4", (1,), b"", state=False),
        "scalar-of-wide-text": Call(scalar, _dtype("U500000000")),
        "scalar-of-object": Call(scalar, _dtype("O8"), pointer),
        "object-array-by-pointer": _array("O8", (1,), pointer),
        "void-that-says-object": _array(_dtype("V8", lies), (1,), pointer),
        "subarray": _array(_dtype("f8", (3, "|", (_dtype("f8"), (9,)), None, None, 8, 1, 0)), (1,), pointer),
        "text-of-no-characters": _array("U2", (2,), b"\xff" * 16),
        "tensor-beyond-its-storage": Call(rebuilt, numbers, 0, (10**9,), (1,)),
        "tensor-of-stride-zero": Call(rebuilt, numbers, 0, (10**12,), (0,)),
        "tensor-before-its-storage": Call(rebuilt, numbers, -5, (1,), (1,)),
    }.items():
        yield Attack(name, pickle.dumps(value, 4))


def _bombs() -> Iterator[Attack]:
    """Files that would take much memory, much time or the whole stack."""
    laughs = b"]q\x00" + b"".join(b"](" + (b"h" + bytes([i])) * 10 + b"eq" + bytes([i + 1]) for i in range(12))
    ints = [b"\x8a\x08" + (i * PRIME).to_bytes(8, "little") for i in range(4)]
    colliding = b"".join(b"(" + b"".join(t) + b"tN" for t in itertools.product(ints, repeat=7))
    text = b"X" + struct.pack("<I", 1_000_000) + b"ab" * 500_000 + b"q\x00"
    for name, body in {
        "laughing-lists": b"(" + laughs + b"l",
        "list-of-itself": b"]q\x00h\x00a",
        "nested-lists": b"]" * 400_000 + b"a" * 399_999,
        "nested-tuples-as-a-key": b"}" + b")" + b"\x85" * 400_000 + b"Ns",
        "colliding-tuples": b"}(" + colliding + b"u",
        "key-that-is-huge": b"}\x8a\x09" + (2**65).to_bytes(9, "little") + b"K\x01s",
        "copies-by-encoding": b"(" + text + b"c_codecs\nencode\n(h\x00\x8c\x06latin1tR" * 20_000 + b"l",
        "copies-by-text": b"(" + text + b"h\x00" * 20_000 + b"l",
        "many-empty-dicts": b"(" + b"}" * 8_000_000 + b"l",
        "many-views": b"(" + b"B\0\0\0\0" * 2_000_000 + b"l",
        "memo-as-text": b"Np99999999999999\n",
        "bytes-of-63-bits": b"\x8e" + struct.pack("<Q", 2**62) + b"abc",
        "bytes-of-4-gb": b"B" + struct.pack("<I", 2**32 - 1) + b"abc",
        "long-of-2-gb": b"\x8b" + struct.pack("<i", 2**31 - 1) + b"1",
        "long-of-many-digits": b"L" + b"9" * 3_000_000 + b"L\n",
        "long-of-many-bytes": b"\x8b" + struct.pack("<i", 4_000_000) + b"\x11" * 4_000_000,
        "text-not-utf8": b"X\x02\x00\x00\x00\xff\xfe",
        "stack-underflow": b"0000",
        "nothing": b"",
    }.items():
        yield Attack(name, b"\x80\x04" + body + b".")
    yield Attack("memo-index-of-31-bits", b"\x80\x04Nr\xff\xff\xff\x7f.", harmless=True)


def pickles(*, bombs: bool = True) -> Iterator[Attack]:
    """All attacks that are pickles; without bombs, those that a reader without limits may be given."""
    yield from _names()
    yield from _arrays()
    if bombs:
        yield from _bombs()
