"""Pickles that try to run code, to fill memory, to corrupt it or to hang a reader, as raw opcodes of all protocols.

Those that execute make the file `CANARY` in the working directory. The other kinds of file: hostile_files.
"""

from __future__ import annotations

import gzip
import io
import itertools
import pickle
import struct
import zipfile
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
    """Part of the error's text: for a forbidden global its name."""
    suffix: str = ".pkl"
    runs: bool = False
    """Makes the canary where pickle.load reads it, at least on this platform."""

    @property
    def harmless(self) -> bool:
        """May be read as well: what is odd about it is never used."""
        return self.name in HARMLESS


HARMLESS = {
    "protocol-9",  # the opcodes say all that is needed
    "torch-legacy",  # the first of several pickles is a number
    "float-that-says-object",  # the flags of a dtype are not looked at
    "memo-index-of-31-bits",
    "frame-of-63-bits",
    "corpus-speaker-of-64-bits",
    "corpus-options-nested",
    "corpus-simulated-unknown",
    "corpus-markup",
    "layout-number-of-many-digits",
}


# An assembler of pickles, so that no attack depends on what pickle.dumps would write.


class Raw(bytes):
    """Opcodes that stand for a value."""


def put(value: object, protocol: int) -> bytes:
    """The opcodes that push a value."""
    match value:
        case Raw():
            return bytes(value)
        case None | bool():
            return {None: b"N", True: b"I01\n", False: b"I00\n"}[value]
        case int():
            return b"I%d\n" % value if protocol == 0 or abs(value) >= 2**31 else b"J" + struct.pack("<i", value)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            encoded = value.encode("utf-8")
            return b"V" + encoded + b"\n" if protocol == 0 else b"X" + struct.pack("<I", len(encoded)) + encoded
        case bytes() if protocol < 3:  # as Python 2 wrote them; read with latin1
            return b"T" + struct.pack("<I", len(value)) + value
        case bytes():
            return b"B" + struct.pack("<I", len(value)) + value
        case tuple() | list():
            items = b"".join(put(item, protocol) for item in value)
            return b"(" + items + (b"t" if isinstance(value, tuple) else b"l")
        case dict():
            return b"(" + b"".join(put(k, protocol) + put(v, protocol) for k, v in value.items()) + b"d"
    raise TypeError(value)


def whole(body: bytes, protocol: int = 2) -> bytes:
    """A body as a pickle of a protocol."""
    return (b"\x80" + bytes([protocol]) if protocol >= 2 else b"") + body + b"."


def named(path: str, protocol: int = 2) -> Raw:
    """`module:name` pushed as a global."""
    module, _, name = path.partition(":")
    if protocol >= 4:
        return Raw(put(module, 4) + put(name, 4) + b"\x93")
    return Raw(f"c{module}\n{name}\n".encode())


def call(path: str, *args: object, protocol: int = 2) -> Raw:
    """`module:name(*args)` by REDUCE."""
    return Raw(named(path, protocol) + put(args, protocol) + b"R")


def by_inst(path: str, *args: object) -> Raw:
    return Raw(b"(" + b"".join(put(a, 0) for a in args) + "i{}\n{}\n".format(*path.split(":")).encode())


def by_obj(path: str, *args: object) -> Raw:
    return Raw(b"(" + named(path, 1) + b"".join(put(a, 1) for a in args) + b"o")


def by_newobj(path: str, *args: object) -> Raw:
    return Raw(named(path) + put(args, 2) + b"\x81")


def by_newobj_ex(path: str, *args: object) -> Raw:
    return Raw(named(path, 4) + put(args, 4) + b"}\x92")


def built(thing: bytes, state: object, protocol: int = 2) -> Raw:
    """`thing` with BUILD."""
    return Raw(thing + put(state, protocol) + b"b")


# Globals. What they would do is in the arguments: the canary where they can reach it, else something to be noticed.

BYTES = Raw(b"C" + bytes([len(INNER := whole(call("os:system", SHELL)))]) + INNER)
"""A pickle as bytes inside a pickle."""

RUNNING: dict[str, tuple[object, ...]] = {
    "os:system": (SHELL,),
    "posix:system": (SHELL,),
    "os:popen": (SHELL,),
    "subprocess:call": (["touch", CANARY],),
    "subprocess:Popen": (["touch", CANARY],),
    "subprocess:getoutput": (SHELL,),
    "builtins:eval": (CODE,),
    "builtins:exec": (CODE,),
    "builtins:open": (CANARY, "w"),
    "io:open": (CANARY, "w"),
    "os:mkdir": (CANARY,),
    "pathlib:Path.touch": (call("pathlib:Path", CANARY, protocol=4),),
    "shutil:copyfile": ("/proc/self/cmdline", CANARY),
    "runpy:run_path": ("evil.py",),
    "importlib:import_module": ("evil",),
    "builtins:__import__": ("evil",),
    "pydoc:locate": ("evil",),
    "pickle:loads": (BYTES,),
    "_pickle:loads": (BYTES,),
    "timeit:timeit": (CODE, "pass", named("time:perf_counter", 4), 1),
    "cProfile:run": (CODE, CANARY),
    "code:interact": ("", Raw(b"N"), {}),
    "zipfile:ZipFile": (CANARY, "w"),
    "sqlite3:connect": (CANARY,),
    "logging:FileHandler": (CANARY,),
    "numpy:memmap": (CANARY, "float32", "w+", 0, (1,)),
    "numpy:save": (CANARY, 0),
    "numpy:savetxt": (CANARY, [0]),
    "numpy:load": ("evil.npy", None, True),
    "shutil:os.system": (SHELL,),
    "pandas:read_pickle": ("evil.pkl",),
    "torch.storage:_load_from_bytes": (BYTES,),
    "torch:save": (0, CANARY),
    "evil:anything": (),
}
"""Global → arguments with which a plain unpickler makes the canary; `evil` is a module, script, array and pickle beside it."""

FORBIDDEN: dict[str, tuple[object, ...]] = {
    "nt:system": (SHELL,),
    "builtins:getattr": (named("os:path"), "os"),
    "builtins:setattr": (named("os:path"), "x", 1),
    "builtins:compile": (CODE, "", "exec"),
    "builtins:type": ("X", (), {}),
    "builtins:print": ("ran",),
    "builtins:range": (10**12,),
    "builtins:object": (),
    "builtins:list": ("a" * 99,),
    "builtins:map": (named("os:system"), [SHELL]),
    "functools:partial": (named("os:system"), SHELL),
    "functools:reduce": (named("os:system"), [SHELL, SHELL]),
    "operator:attrgetter": ("system",),
    "operator:methodcaller": ("system", SHELL),
    "types:FunctionType": (None, {}),
    "types:CodeType": (0,),
    "marshal:loads": (b"c",),
    "ctypes:CDLL": ("libc.so.6",),
    "copyreg:_reconstructor": (named("builtins:object"), named("builtins:object"), None),
    "copy_reg:_reconstructor": (named("__builtin__:object"), named("__builtin__:object"), None),
    "copyreg:add_extension": ("os", "system", 1),
    "__builtin__:eval": (CODE,),
    "__builtin__:apply": (named("os:system"), (SHELL,)),
    "__main__:Sample": (),
    "commands:getoutput": (SHELL,),
    "sys:exit": (0,),
    "os:_exit": (0,),
    "os:kill": (0, 0),
    "sys:modules": (),
    "time:sleep": (3600,),
    "signal:pause": (),
    "socket:create_connection": (("127.0.0.1", 9),),
    "urllib.request:urlopen": ("http://127.0.0.1:9",),
    "webbrowser:open": ("http://127.0.0.1:9",),
    "threading:Thread": (),
    "bdb:Bdb": (),
    "numpy:fromfile": ("/dev/zero",),
    "numpy:frombuffer": (b"abc",),
    "numpy:zeros": ((10**12,),),
    "numpy:fromfunction": (named("os:system"), (1,)),
    "numpy:vectorize": (named("os:system"),),
    "numpy.f2py:compile": ("x",),
    "numpy.core.records:fromfile": ("/dev/zero",),
    "numpy.ma.core:_mareconstruct": (),
    "numpy.random._pickle:__randomstate_ctor": (),
    "numpy.core.multiarray:fromstring": ("x",),
    "numpy.core.multiarray:_reconstruct.__class__": (),
    "numpy.core.multiarray:_reconstruct.__globals__": (),
    "numpy:ndarray.tofile": (0, CANARY),
    "numpy:ndarray.__subclasses__": (),
    "collections:OrderedDict.fromkeys": ("abc",),
    "collections:OrderedDict.__class__": (),
    "collections:Counter": ("abc",),
    "torch:load": ("evil.pkl",),
    "torch.jit:load": ("evil.pkl",),
    "torch.hub:load": ("a/b", "c"),
    "torch._utils:_rebuild_device_tensor_from_numpy": (),
    "torch._utils:_import_dotted_name": ("os.system",),
    "joblib.numpy_pickle:NumpyArrayWrapper": (),
    "cloudpickle.cloudpickle:_make_function": (),
    "scipy.sparse:csr_matrix": ([],),
    "dataclasses:make_dataclass": ("X", []),
    "lfvd.files:write_text": (CANARY, ""),
}
"""Global → arguments; nothing is to be seen where they run, so only the refusal is tested."""


def _globals() -> Iterator[Attack]:
    """Every forbidden global, each by another protocol and another opcode."""
    for i, (path, args) in enumerate({**RUNNING, **FORBIDDEN}.items()):
        protocol = 4 if "." in path.partition(":")[2] else i % 6  # dotted names need 4
        body = call(path, *args, protocol=protocol)
        runs = path in RUNNING
        says = "os.system" if args == (BYTES,) and path.startswith("torch") else path.replace(":", ".")
        yield Attack(f"reduce-{path}", whole(body, protocol), says, runs=runs and path != "code:interact")
    for how in (by_inst, by_obj, by_newobj, by_newobj_ex):
        body, calls = how("subprocess:Popen", ["touch", CANARY]), how in (by_inst, by_obj)
        yield Attack(
            f"{how.__name__}-Popen", whole(body, 4), "INST" if how is by_inst else "subprocess.Popen", runs=calls
        )


def _indirect() -> Iterator[Attack]:
    """Ways round a check of names, or through what is admitted."""
    evil = call("os:system", SHELL)
    for name, body in {
        "inside-a-list": put([1, {"a": (evil,)}], 2),
        "popped": evil + b"0" + b"]",
        "memoised": evil + b"q\x00" + b"0h\x00",
        "as-a-key": put({evil: 1}, 2),
        "as-state": built(call("collections:OrderedDict"), evil),
        "as-array-state": built(array("f4", (1,)), (1, (1,), evil, False, b"")),
        "as-array-type": call("numpy.core.multiarray:_reconstruct", named("os:system"), (0,), b"b"),
        "as-dtype": call("numpy:dtype", evil),
        "as-default-factory": call("collections:defaultdict", named("os:getcwd")),
        "as-codec": call("_codecs:encode", evil, "latin1"),
        "as-frozenset": Raw(b"(" + evil + b"\x91"),
    }.items():
        yield Attack(name, whole(body, 4), "os.", runs=name not in ("as-default-factory", "as-array-type"))
    yield Attack(
        "computed-name",
        whole(b"]\x8c\x02os\x94a]\x8c\x06system\x94ah\x00h\x01\x93" + put((SHELL,), 4) + b"R", 4),
        "os.system",
        runs=True,
    )
    yield Attack("name-not-text", whole(b"K\x01K\x02\x93", 4))
    yield Attack("name-with-escapes", whole(Raw(b"\x8c\x02os\x8c\x08\x1b[2J\x1b[1m\x93)R"), 4), r"\x1b")
    yield Attack("extension-code", whole(b"\x82\x01)R"))
    yield Attack("persistent-id", whole(put(SHELL, 2) + b"Q"))
    yield Attack("persistent-text", b"Pos.system\n.")
    yield Attack("protocol-9", b"\x80\x09N.")
    yield Attack("other-codec", whole(call("_codecs:encode", "a" * 50, "idna")))
    yield Attack("codec-that-imports", whole(call("_codecs:encode", "a", "evil")))
    yield Attack("gzip-inside-out", gzip.compress(whole(evil)))
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("archive/data.pkl", whole(evil))
        archive.writestr("archive/version", "3\n")
    yield Attack("torch-zip", inner.getvalue())
    yield Attack("torch-legacy", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + whole(evil))
    for function in ("numpy.core.multiarray:_reconstruct", "torch._utils:_rebuild_tensor_v2"):
        state = (None, {"__module__": "gone", "__doc__": "gone"})
        yield Attack(f"attribute-of-{function}", whole(built(named(function), state)))
    yield Attack(
        "attribute-of-dict", whole(built(call("collections:OrderedDict"), {"items": named("collections:OrderedDict")}))
    )
    yield Attack("call-a-list", whole(b"]" + put((1,), 2) + b"R"))
    yield Attack("append-to-text", whole(put("abc", 2) + put("d", 2) + b"a"))
    yield Attack("append-to-array", whole(array("f4", (1,), b"\0\0\0\0") + put("d", 2) + b"a"))


# Arrays that lie. Numpy trusts the state of a dtype: lying flags make it take raw bytes for pointers.


def dtype(code: str, state: object = None) -> Raw:
    """A dtype as numpy pickles it; `state` stands in for the honest one."""
    honest = (3, "|" if code[1:] == "1" or code[0] in "OSV" else "<", None, None, None, -1, -1, 0)
    return built(call("numpy:dtype", code, False, True), honest if state is None else state)


def array(code: bytes | str, shape: tuple[int, ...], data: object = b"") -> Raw:
    """An array as numpy pickles it, or, without data, before its state is set."""
    start = call("numpy.core.multiarray:_reconstruct", named("numpy:ndarray"), (0,), b"b")
    described = Raw(code) if isinstance(code, bytes) else dtype(code)
    return built(start, (1, shape, described, False, data)) if data != b"" or 0 in shape else start


def _arrays() -> Iterator[Attack]:
    huge, pointer = 2**40, b"\x10" * 8
    for name, body in {
        "array-far-above-the-file": array("f4", (huge,), b"1234"),
        "array-of-shape-beyond-64-bits": array("f4", (2**62, 2**62), b"1234"),
        "array-of-negative-shape": array("f4", (-1,), b"1234"),
        "array-of-negative-product": array("f4", (-2, -2), b"1" * 16),
        "array-longer-than-its-bytes": array("f4", (9,), b"1234"),
        "array-shorter-than-its-bytes": array("f4", (1,), b"12345678"),
        "array-of-too-many-axes": array("f4", (1,) * 99, b"1234"),
        "array-state-of-numbers": built(array("f4", (1,)), (1, 2, 3, 4, 5)),
        "array-state-empty": built(array("f4", (1,)), ()),
        "array-made-huge": call("numpy.core.multiarray:_reconstruct", named("numpy:ndarray"), (huge,), b"d"),
        "array-made-large": call("numpy.core.multiarray:_reconstruct", named("numpy:ndarray"), (2**31,), b"d"),
        "ndarray-called": call("numpy:ndarray", (huge,), "f8"),
        "ndarray-new": by_newobj("numpy:ndarray", (2**33,), "u1"),
        "ndarray-with-strides": call("numpy:ndarray", (huge,), "u1", b"x", 0, (0,)),
        "scalar-of-wide-void": call("numpy.core.multiarray:scalar", dtype("V2000000000")),
        "scalar-of-wide-text": call("numpy.core.multiarray:scalar", dtype("U500000000")),
        "scalar-of-object": call("numpy.core.multiarray:scalar", dtype("O8"), pointer),
        "object-array-by-pointer": array(dtype("O8", (3, "|", None, None, None, -1, -1, 0)), (1,), pointer),
        "void-that-says-object": array(dtype("V8", (3, "|", None, None, None, 8, 1, 63)), (1,), pointer),
        "float-that-says-object": array(dtype("f8", (3, "<", None, None, None, -1, -1, 63)), (1,), pointer),
        "field-outside-its-item": array(
            dtype("V8", (3, "|", None, ("a",), {"a": (dtype("f8"), 10**9)}, 8, 1, 0)), (1,), pointer
        ),
        "item-size-that-lies": array(dtype("V8", (3, "|", None, None, None, 10**9, 1, 0)), (1,), pointer),
        "item-size-below-zero": array(dtype("V8", (3, "|", None, None, None, -8, 1, 0)), (1,), pointer),
        "subarray-that-lies": array(dtype("V8", (3, "|", (dtype("f8"), (10**6,)), None, None, 8, 1, 0)), (1,), pointer),
        "dtype-of-many-fields": call("numpy:dtype", "f4," * 200_000),
        "dtype-of-a-dict": call("numpy:dtype", {"names": ["a"], "formats": ["O"], "offsets": [0]}),
        "text-of-no-characters": array("U2", (2,), b"\xff" * 16),
        "scalar-of-no-character": call("numpy.core.multiarray:scalar", dtype("U1"), b"\0\0\x11\0"),
        "dtype-state-of-text": built(call("numpy:dtype", "f4", False, True), "state"),
        "dtype-with-metadata": built(call("numpy:dtype", "f4"), (4, "<", None, None, None, -1, -1, 0, {"a": 1})),
        "object-array-of-calls": array("O8", (1,), [call("os:getcwd")]),
    }.items():
        yield Attack(name, whole(body))
    storage = ("storage", named("torch:FloatStorage"), "0", "cpu", huge)
    for name, args in {
        "tensor-of-huge-storage": (
            Raw(put(storage, 2) + b"Q"),
            0,
            (huge,),
            (1,),
            False,
            call("collections:OrderedDict"),
        ),
        "tensor-beyond-its-storage": ([1.0], 0, (10**9,), (1,), False, call("collections:OrderedDict")),
        "tensor-of-stride-zero": ([1.0], 0, (10**12,), (0,), False, call("collections:OrderedDict")),
        "tensor-before-its-storage": ([1.0], -5, (1,), (1,), False, call("collections:OrderedDict")),
    }.items():
        yield Attack(name, whole(call("torch._utils:_rebuild_tensor_v2", *args)))


SHARED = b"]q\x00" + b"".join(b"](" + (b"h" + bytes([i])) * 10 + b"eq" + bytes([i + 1]) for i in range(12))
"""Lists that end in one which, written out, has a million million members; it is h\\x0c in the memo."""


def _amplified() -> Iterator[Attack]:
    """Few bytes that make much: text of an error, long work on one thing again and again, many objects."""
    largest = Raw(b"h\x0c")
    start, kind = named("numpy.core.multiarray:_reconstruct"), named("numpy:ndarray")
    for name, body in {
        "codec-that-laughs": b"(" + SHARED + call("_codecs:encode", "a", largest) + b"l",
        "dtype-that-laughs": b"(" + SHARED + call("numpy:dtype", largest) + b"l",
        "a-million-arguments": b"((" + b"U\x02f4" + b"N" * 1_000_000 + b"tq\x00" + named("numpy:dtype") + b"q\x01"
        b"" + b"h\x01h\x00R" * 100_000 + b"t",
        "many-views": b"(" + b"B\0\0\0\0" * 6_000_000 + b"l",
        "many-names": b"("
        + put("numpy", 4)
        + b"q\x00"
        + put("dtype", 4)
        + b"q\x01"
        + b"h\x00h\x01\x93" * 5_000_000
        + b"l",
        "many-sets-of-five": b"(" + b"\x8f(K\x00K\x01K\x02K\x03K\x04\x90" * 2_000_000 + b"l",
        "many-frozensets-of-five": b"(" + b"(K\x00K\x01K\x02K\x03K\x04\x91" * 2_000_000 + b"l",
        "many-arrays": b"(" + start + b"q\x00" + put((kind, (0,), b"b"), 2) + b"q\x01"
        b"" + put((1, (0,), dtype("f4"), False, b""), 2) + b"q\x02" + b"h\x00h\x01Rh\x02b" * 2_900_000 + b"l",
    }.items():
        yield Attack(name, whole(body, 4))


PRIME = 2**61 - 1
"""All multiples of this have the same hash."""


def _bombs() -> Iterator[Attack]:
    """Small files that would take much memory, much time or the whole stack."""
    laughs = b"]" + b"".join(b"q" + bytes([i]) + b"0](" + (b"h" + bytes([i])) * 10 + b"e" for i in range(12))
    collide = b"".join(b"\x8a\x10" + (i * PRIME).to_bytes(16, "little") + b"N" for i in range(200_000))
    ints = [b"\x8a\x08" + (i * PRIME).to_bytes(8, "little") for i in range(4)]
    deep = 400_000
    long, again = b"T" + struct.pack("<I", 1_000_000) + b"ab" * 500_000 + b"q\x00", Raw(b"h\x00")
    storage, load = b"(" + b"N" * 500_000 + b"l.", call("torch.storage:_load_from_bytes", again)
    for name, body in {
        "laughing-lists": laughs,
        "list-of-itself": b"]q\x00h\x00a",
        "dict-of-itself": b"}q\x00U\x01ah\x00s",
        "tuple-of-itself": b"(]q\x00h\x00atq\x010h\x01",
        "nested-lists": b"]" * deep + b"a" * (deep - 1),
        "nested-tuples": b")" + b"\x85" * deep,
        "nested-tuples-as-a-key": b"}" + b")" + b"\x85" * deep + b"Ns",
        "nested-tuples-in-a-set": b"\x8f(" + b")" + b"\x85" * deep + b"\x90",
        "nested-dicts": b"}" + b"U\x01a}" * deep + b"s" * deep,
        "colliding-keys": b"}(" + collide + b"u",
        "colliding-tuples": b"}("
        + b"".join(b"(" + b"".join(t) + b"tN" for t in itertools.product(ints, repeat=8))
        + b"u",
        "colliding-memo": b"N" + b"".join(b"p%d\n" % (i * PRIME) for i in range(300_000)),
        "copies-by-encoding": long + call("_codecs:encode", again, "latin1") * 20_000,
        "copies-by-bytearray": long + call("builtins:bytearray", again, "latin1") * 20_000,
        "copies-by-set": long + call("builtins:set", again) * 20_000,
        "copies-by-frozenset": long
        + (b"(" + b"h\x00" * 2 + b"\x91") * 20_000
        + call("builtins:frozenset", again) * 20_000,
        "copies-by-array": long + array("S1", (1_000_000,), again) * 5_000,
        "storages-in-storages": _storages(3_000),
        "storages-again": b"T" + struct.pack("<I", len(storage)) + storage + b"q\x00" + load * 20_000,
        "many-empty-sets": b"(" + b"\x8f" * 8_000_000 + b"l",
        "many-empty-dicts": b"(" + b"}" * 20_000_000 + b"l",
        "memo-index-of-31-bits": b"Nr\xff\xff\xff\x7f",
        "memo-index-as-text": b"Np99999999999999\n",
        "memo-that-was-never-put": b"h\x07",
        "bytes-of-63-bits": b"\x8e" + struct.pack("<Q", 2**62) + b"abc",
        "bytes-of-4-gb": b"B" + struct.pack("<I", 2**32 - 1) + b"abc",
        "text-of-63-bits": b"\x8d" + struct.pack("<Q", 2**62) + b"abc",
        "bytearray-of-8-gb": b"\x96" + struct.pack("<Q", 2**33) + b"abc",
        "frame-of-63-bits": b"\x95" + struct.pack("<Q", 2**62) + b"N",
        "long-of-negative-length": b"\x8b" + struct.pack("<i", -5),
        "long-of-2-gb": b"\x8b" + struct.pack("<i", 2**31 - 1) + b"1",
        "long-of-many-bytes": b"\x8b" + struct.pack("<i", 4_000_000) + b"\x11" * 4_000_000,
        "long-of-many-digits": b"L" + b"9" * 3_000_000 + b"L\n",
        "int-of-many-digits": b"I" + b"9" * 3_000_000 + b"\n",
        "float-of-words": b"Fwords\n",
        "line-without-end": b"V" + b"a" * 5_000_000,
        "text-not-utf8": b"X\x02\x00\x00\x00\xff\xfe",
        "text-of-bad-escapes": b"S'\\x'\n",
        "text-without-quotes": b"Sabc\n",
        "nothing-at-all": b"",
        "stack-underflow": b"0000",
        "mark-without-end": b"(" * 1000,
        "two-values": b"NN",
    }.items():
        yield Attack(name, whole(body, 4))
    yield Attack("empty-file", b"")
    yield Attack("no-stop", b"\x80\x02]q\x00")
    yield Attack("only-noise", bytes(range(256)) * 16)


def _storages(depth: int) -> bytes:
    """Torch storages, each a pickle inside the one before it."""
    body = b""
    for _ in range(depth):
        body = call("torch.storage:_load_from_bytes", whole(body), protocol=2)
    return body


def pickles() -> Iterator[Attack]:
    """All attacks that are pickles."""
    yield from _globals()
    yield from _indirect()
    yield from _arrays()
    yield from _bombs()
    yield from _amplified()
