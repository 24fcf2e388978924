"""Pickles that try to run code, to fill memory, to corrupt it or to hang a reader, as raw opcodes.

Those that run make the file `CANARY` in the working directory. The other kinds of file: hostile_files.
"""

from __future__ import annotations

import itertools
import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass

CANARY = "ran"
SHELL = f"touch {CANARY}"
CODE = f"open('{CANARY}', 'w').close()"


@dataclass(frozen=True)
class Attack:
    """A file and what its refusal must say."""

    name: str
    content: bytes
    says: str = ""
    """Part of the error's text: for a forbidden name the name."""
    suffix: str = ".pkl"
    runs: bool = False
    """Makes the canary where pickle.load reads it."""
    harmless: bool = False
    """May be read as well: what is odd about it is never used."""


# An assembler of pickles, so that no attack depends on what pickle.dumps would write.


class Raw(bytes):
    """Opcodes that stand for a value."""


def put(value: object) -> bytes:
    """The opcodes that push a value."""
    match value:
        case Raw():
            return bytes(value)
        case None | bool():
            return {None: b"N", True: b"I01\n", False: b"I00\n"}[value]
        case int():
            return b"I%d\n" % value if abs(value) >= 2**31 else b"J" + struct.pack("<i", value)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case bytes():
            return b"B" + struct.pack("<I", len(value)) + value
        case tuple() | list():
            return b"(" + b"".join(map(put, value)) + (b"t" if isinstance(value, tuple) else b"l")
        case dict():
            return b"(" + b"".join(put(k) + put(v) for k, v in value.items()) + b"d"
    raise TypeError(value)


def whole(body: bytes, protocol: int = 4) -> bytes:
    return b"\x80" + bytes([protocol]) + body + b"."


def named(path: str) -> Raw:
    """`module:name`, pushed by GLOBAL, or by STACK_GLOBAL where it has dots."""
    module, _, name = path.partition(":")
    return Raw(put(module) + put(name) + b"\x93" if "." in name else f"c{module}\n{name}\n".encode())


def call(path: str, *args: object) -> Raw:
    """`module:name(*args)` by REDUCE."""
    return Raw(named(path) + put(args) + b"R")


def built(thing: bytes, state: object) -> Raw:
    """`thing` with BUILD."""
    return Raw(thing + put(state) + b"b")


def dtype(code: str, state: object = None) -> Raw:
    """A dtype as numpy pickles it; `state` stands in for the honest one."""
    honest = (3, "|" if code[1:] == "1" or code[0] in "OSV" else "<", None, None, None, -1, -1, 0)
    return built(call("numpy:dtype", code, False, True), honest if state is None else state)


def array(code: str | Raw, shape: tuple[int, ...], data: object = b"") -> Raw:
    """An array as numpy pickles it, or, without data, before its state is set."""
    start = call("numpy.core.multiarray:_reconstruct", named("numpy:ndarray"), (0,), b"b")
    described = code if isinstance(code, Raw) else dtype(code)
    return built(start, (1, shape, described, False, data)) if data != b"" or 0 in shape else start


EVIL = call("os:system", SHELL)
INNER = whole(EVIL)
RUNNING: dict[str, tuple[object, ...]] = {
    "os:system": (SHELL,),
    "posix:system": (SHELL,),
    "subprocess:Popen": (["touch", CANARY],),
    "builtins:eval": (CODE,),
    "builtins:exec": (CODE,),
    "builtins:open": (CANARY, "w"),
    "shutil:os.system": (SHELL,),  # by way of another module
    "pathlib:Path.touch": (call("pathlib:Path", CANARY),),
    "pickle:loads": (INNER,),
    "numpy:memmap": (CANARY, "float32", "w+", 0, (1,)),
    "pandas:read_pickle": ("evil.pkl",),
    "runpy:run_path": ("evil.py",),
    "evil:anything": (),
}
"""Name → arguments with which a plain unpickler makes the canary; `evil` is a module, script and pickle beside it."""
FORBIDDEN = """
    builtins:getattr builtins:type builtins:object builtins:range copyreg:_reconstructor __builtin__:eval __main__:Sample
    functools:partial operator:attrgetter types:FunctionType numpy:fromfile numpy:frombuffer numpy:zeros numpy:load
    numpy.core.multiarray:_reconstruct.__globals__ numpy:ndarray.tofile collections:OrderedDict.__class__ torch:load
    torch._utils:_rebuild_device_tensor_from_numpy scipy.sparse:csr_matrix lfvd.files:write_text sys:exit
"""


def _names() -> Iterator[Attack]:
    """Forbidden names, by every opcode that calls, and round the check of names."""
    for path, args in RUNNING.items():
        yield Attack(f"reduce-{path}", whole(call(path, *args)), path.replace(":", "."), runs=True)
    for path in FORBIDDEN.split():
        yield Attack(f"reduce-{path}", whole(call(path)), path.replace(":", "."))
    os_system, says = named("os:system"), "os.system"
    for name, body, runs in (
        ("inst", b"(" + put(SHELL) + b"ios\nsystem\n", True),
        ("obj", b"(" + os_system + put(SHELL) + b"o", True),
        ("newobj", os_system + put((SHELL,)) + b"\x81", False),
        ("newobj-ex", os_system + put((SHELL,)) + b"}\x92", False),
        ("inside-a-list", put([1, {"a": (EVIL,)}]), True),
        ("popped", EVIL + b"0" + b"]", True),
        ("as-a-key", put({EVIL: 1}), True),
        ("as-state", built(call("collections:OrderedDict"), EVIL), True),
        ("as-array-state", built(array("f4", (1,)), (1, (1,), EVIL, False, b"")), True),
        ("as-dtype", call("numpy:dtype", EVIL), True),
        ("as-array-type", call("numpy.core.multiarray:_reconstruct", os_system, (0,), b"b"), False),
        ("as-default-factory", call("collections:defaultdict", os_system), False),
        ("as-codec", call("_codecs:encode", EVIL, "latin1"), True),
        ("computed", b"]\x8c\x02os\x94a]\x8c\x06system\x94ah\x00h\x01\x93" + put((SHELL,)) + b"R", True),
    ):
        yield Attack(name, whole(body), says, runs=runs)
    storage = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + whole(EVIL, 2)
    for name, body, says in (
        ("inside-a-storage", call("torch.storage:_load_from_bytes", storage), "os.system"),
        ("name-not-text", b"K\x01K\x02\x93", ""),
        ("name-with-escapes", b"\x8c\x02os\x8c\x08\x1b[2J\x1b[1m\x93)R", r"\x1b"),
        ("extension-code", b"\x82\x01)R", ""),
        ("persistent-id", put(SHELL) + b"Q", ""),
        ("persistent-text", b"Pos.system\n", ""),
        ("other-codec", call("_codecs:encode", "a" * 50, "idna"), "latin1"),
        ("attribute-of-a-name", built(named("numpy.core.multiarray:_reconstruct"), (None, {"call": 1})), "inside"),
        ("attribute-of-a-dict", built(call("collections:OrderedDict"), {"items": 1}), ""),
        ("name-as-a-value", named("numpy:dtype"), "numpy.dtype"),
        ("call-of-a-list", b"]" + put((1,)) + b"R", ""),
        ("append-to-an-array", array("f4", (1,), b"1234") + put("d") + b"a", ""),
    ):
        yield Attack(name, whole(body), says)


def _arrays() -> Iterator[Attack]:
    """Arrays that lie. Numpy trusts the state of a dtype: lying flags make it take raw bytes for pointers."""
    huge, pointer = 2**40, b"\x10" * 8
    odd, scalar = (3, "|", None, None, None, 8, 1, 63), "numpy.core.multiarray:scalar"
    rebuilt, numbers = "torch._utils:_rebuild_tensor_v2", array("f4", (1,), b"1234")
    for name, body in {
        "array-beyond-the-file": array("f4", (huge,), b"1234"),
        "array-beyond-64-bits": array("f4", (2**62, 2**62), b"1234"),
        "array-of-negative-product": array("f4", (-2, -2), b"1" * 16),
        "array-longer-than-its-bytes": array("f4", (9,), b"1234"),
        "array-shorter-than-its-bytes": array("f4", (1,), b"12345678"),
        "array-of-many-axes": array("f4", (1,) * 99, b"1234"),
        "array-of-much-nothing": array("f4", (huge, 0)),
        "array-twice": built(numbers, (1, (2,), dtype("f4"), False, b"12345678")),
        "array-without-state": array("f4", (1,)),
        "array-state-of-numbers": built(array("f4", (1,)), (1, 2, 3, 4, 5)),
        "ndarray-called": call("numpy:ndarray", (huge,), "f8"),
        "scalar-of-wide-void": call(scalar, dtype("V2000000000")),
        "scalar-of-wide-text": call(scalar, dtype("U500000000")),
        "scalar-of-object": call(scalar, dtype("O8"), pointer),
        "object-array-by-pointer": array("O8", (1,), pointer),
        "void-that-says-object": array(dtype("V8", odd), (1,), pointer),
        "subarray": array(dtype("f8", (3, "|", (dtype("f8"), (9,)), None, None, 8, 1, 0)), (1,), pointer),
        "dtype-of-many-fields": call("numpy:dtype", "f4," * 200_000),
        "dtype-of-a-dict": call("numpy:dtype", {"names": ["a"], "formats": ["O"], "offsets": [0]}),
        "text-of-no-characters": array("U2", (2,), b"\xff" * 16),
        "tensor-of-no-storage": call(rebuilt, Raw(put(("storage", 0, "0", "cpu", huge)) + b"Q"), 0, (huge,), (1,)),
        "tensor-beyond-its-storage": call(rebuilt, numbers, 0, (10**9,), (1,)),
        "tensor-of-stride-zero": call(rebuilt, numbers, 0, (10**12,), (0,)),
        "tensor-before-its-storage": call(rebuilt, numbers, -5, (1,), (1,)),
    }.items():
        yield Attack(name, whole(body))


PRIME = 2**61 - 1
"""All multiples of this have the same hash."""


def _bombs() -> Iterator[Attack]:
    """Files that would take much memory, much time or the whole stack."""
    laughs = b"]q\x00" + b"".join(b"](" + (b"h" + bytes([i])) * 10 + b"eq" + bytes([i + 1]) for i in range(12))
    ints = [b"\x8a\x08" + (i * PRIME).to_bytes(8, "little") for i in range(4)]
    text, again, deep = b"X" + struct.pack("<I", 1_000_000) + b"ab" * 500_000 + b"q\x00", Raw(b"h\x00"), 400_000
    for name, body in {
        "laughing-lists": b"(" + laughs + b"l",
        "laughing-codec": b"(" + laughs + call("_codecs:encode", "a", Raw(b"h\x0c")) + b"l",
        "list-of-itself": b"]q\x00h\x00a",
        "nested-lists": b"]" * deep + b"a" * (deep - 1),
        "nested-tuples-as-a-key": b"}" + b")" + b"\x85" * deep + b"Ns",
        "colliding-tuples": b"}("
        + b"".join(b"(" + b"".join(t) + b"tN" for t in itertools.product(ints, repeat=7))
        + b"u",
        "key-that-is-huge": put({2**61: 1}),
        "key-that-is-a-tuple": put({(1, 2): 1}),
        "copies-by-encoding": b"(" + text + call("_codecs:encode", again, "latin1") * 20_000 + b"l",
        "copies-by-array": b"(" + text + array("S1", (1_000_000,), again) * 5_000 + b"l",
        "copies-by-text": b"(" + text + again * 20_000 + b"l",
        "many-empty-dicts": b"(" + b"}" * 8_000_000 + b"l",
        "many-views": b"(" + b"B\0\0\0\0" * 2_000_000 + b"l",
        "memo-as-text": b"Np99999999999999\n",
        "memo-never-put": b"h\x07",
        "bytes-of-63-bits": b"\x8e" + struct.pack("<Q", 2**62) + b"abc",
        "bytes-of-4-gb": b"B" + struct.pack("<I", 2**32 - 1) + b"abc",
        "bytearray-of-8-gb": b"\x96" + struct.pack("<Q", 2**33) + b"abc",
        "long-of-2-gb": b"\x8b" + struct.pack("<i", 2**31 - 1) + b"1",
        "long-of-many-digits": b"L" + b"9" * 3_000_000 + b"L\n",
        "long-of-many-bytes": b"\x8b" + struct.pack("<i", 4_000_000) + b"\x11" * 4_000_000,
        "text-not-utf8": b"X\x02\x00\x00\x00\xff\xfe",
        "text-without-quotes": b"Sabc\n",
        "stack-underflow": b"0000",
        "mark-without-end": b"(" * 1000,
        "nothing-at-all": b"",
    }.items():
        yield Attack(name, whole(body))
    yield Attack("memo-index-of-31-bits", whole(b"Nr\xff\xff\xff\x7f"), harmless=True)
    yield Attack("empty-file", b"")
    yield Attack("no-stop", b"\x80\x02]q\x00")
    yield Attack("only-noise", bytes(range(256)) * 16)


def pickles(*, bombs: bool = True) -> Iterator[Attack]:
    """All attacks that are pickles; without bombs, those that a reader without limits may be given."""
    yield from _names()
    yield from _arrays()
    if bombs:
        yield from _bombs()
