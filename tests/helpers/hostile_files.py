"""Hostile files that are not pickles: JSON features, npy and npz, corpora (.safetensors) and YAML.

Files that are wrong in form or value alone have tests beside their readers; here is what could harm a reader.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tests.helpers.hostile import INNER, PRIME, Attack

TABLE = b"dialogue,position,speaker,label,split\n" + b"".join(
    b"d%d,%d,A,%s,%s\n" % (i // 2, i % 2, b"joy" if i % 2 else b"calm", (b"train", b"valid", b"test")[i // 2])
    for i in range(6)
)
"""Utterances for the door `features`: two of each split."""


def layouts() -> Iterator[Attack]:
    """Pickles of layout I9, honest to the unpickler."""
    largest: list[Any] = []
    for _ in range(12):
        largest = [largest] * 10  # a million million members, written out
    many = range(100_000)
    for name, values in {
        "labels-that-laugh": {"labels": [largest]},
        "speakers-collide": {"speakers": [i * PRIME for i in many], "labels": [0 for _ in many]},
        "one-sentence-for-all": {"labels": [0] * 50_000, "speakers": ["M"] * 50_000, "said": ["é" * 10**6] * 50_000},
        "one-vector-for-all": {"labels": [0] * 1000, "speakers": ["M"] * 1000, "text": [np.zeros(16_000)] * 1000},
        "number-of-many-digits": {"key": "9" * 5000},
    }.items():
        key, of = values.pop("key", "a"), {"speakers": ["M"], "labels": [0], "text": [[0.5]], "said": ["x"]}
        speakers, labels, text, said = (dict.fromkeys("bc", of[k]) | {key: values.get(k, of[k])} for k in of)
        content = pickle.dumps(({}, speakers, labels, text, {}, {}, said, [key, "b"], ["c"]), 4)
        yield Attack(name, content, harmless=name == "number-of-many-digits")


def jsons() -> Iterator[Attack]:
    """JSON files of features."""
    said = {"text": "hello", "speaker": "A", "label": "joy", "cls": [[0.5] * 4, [0.25] * 3, [0.125] * 2]}
    for name, content in {
        "nested-lists": "[" * 200_000,
        "nested-objects": '[{"a":' * 100_000 + "1" + "}]" * 100_000,
        "number-of-a-million-digits": f"[[{'9' * 1_000_000}]]",
        "label-of-many-digits": json.dumps([[{**said, "label": 0}]]).replace('"label": 0', '"label": ' + "9" * 4000),
        "lone-surrogate": json.dumps([[said]]).replace("hello", "\\ud800"),
        "escapes-for-the-terminal": json.dumps([[{**said, "label": "\x1b[2J\x1b]0;x\x07"}]]),
        "dialogue-without-end": "[[" + "[[[]]]," * 1_500_000,
        "numbers-without-end": "[[" + "0," * 20_000_000,
        "text-without-end": '[["' + "x" * 40_000_000,
        "python-object": '[[{"py/object": "os.system", "py/reduce": [{"py/type": "os.system"}]}]]',
    }.items():
        yield Attack(name, content.encode(), suffix=".json.feature")
    for name, raw in {"not-utf8": b'[["\xff\xfe"]]', "pickle-within": INNER, "nothing": b""}.items():
        yield Attack(name, raw, suffix=".json.feature")


def _npy(shape: str, kind: str = "'<f4'", data: bytes = b"", header: str = "") -> bytes:
    encoded = (header or f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}\n").encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(encoded)) + encoded + data


def _npz(method: int = zipfile.ZIP_DEFLATED, /, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/") + ".npy", content)
    return file.getvalue()


def arrays() -> Iterator[Attack]:
    """.npy and .npz files, in the place of features."""
    good = _npy("(2, 4)", data=bytes(32))
    for name, content in {
        "object-array": _npy("(1,)", "'|O'", INNER),
        "object-in-a-record": _npy("(1,)", "[('a', '|O')]", b"\x10" * 8),
        "far-above-the-file": _npy("(1099511627776,)", data=b"1234"),
        "shape-beyond-64-bits": _npy("(4611686018427387904, 4611686018427387904)"),
        "header-that-calls": _npy("", header="__import__('os').system('touch ran')"),
        "header-nested": _npy("", header="(" * 9_000),
        "header-of-4-gb": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{",
        "pickle": INNER,
        "nothing": b"",
    }.items():
        yield Attack(f"npz-{name}", _npz(train=content, dev=good, test=good), suffix=".npz")
        yield Attack(f"npy-{name}", content, suffix=".npy")
    zeros = _npy(f"(2, {256 * 2**17})", data=bytes(256 * 2**20))  # honest of shape, a thousand times smaller compressed
    honest, packed = (
        _npz(method, train=good, dev=good, test=good) for method in (zipfile.ZIP_STORED, zipfile.ZIP_LZMA)
    )
    at, lzma = honest.index(b"PK\x01\x02"), packed.index(b"train.npy") + len("train.npy") + 12
    for name, content in {
        "bomb": _npz(train=zeros, dev=good, test=good),
        "climbs-out": _npz(**{"..__..__ran": good, "__ran": good}),
        "without-end": honest[:-30],
        "with-bad-checksum": honest.replace(struct.pack("<I", zipfile.crc32(good)), b"abcd"),
        "of-unknown-method": honest[: at + 10] + b"\x63" + honest[at + 11 :],
        "packed-by-lzma-and-broken": packed[:lzma] + b"\xff" * 30 + packed[lzma + 30 :],
        "encrypted": honest[: at + 8] + b"\x01" + honest[at + 9 :],
    }.items():
        yield Attack(f"npz-{name}", content, suffix=".npz")


HONEST: dict[str, np.ndarray] = {
    "language": np.linspace(0, 1, 20, dtype=np.float32).reshape(5, 4),
    "label": np.array([0, 1, -1, 1, 0]),
    "speaker": np.array([0, 1, 0, 0, 1]),
    "offset": np.array([0, 2, 4, 5]),
    "split": np.array([0, 1, 2]),
}
INFO: dict[str, Any] = {"name": "T", "classes": ["a", "b"], "dialogues": ["d0", "d1", "d2"], "options": {}}
KINDS = {"<f4": "F32", "<i8": "I64"}


def safetensors(
    named: Mapping[str, np.ndarray] = HONEST, info: Any = INFO, *, values: Any = None, header: str = "", **changes: Any
) -> bytes:
    """A corpus file whose fingerprint fits; `changes`: of the entry of an array."""
    digest = (
        hashlib.sha256(json.dumps([info["classes"], info["dialogues"]]).encode()) if isinstance(info, dict) else None
    )
    entries: dict[str, Any] = {}
    data = b""
    for name, array in named.items():
        place = [len(data), len(data := data + array.tobytes())]
        entries[name] = {"dtype": KINDS[array.dtype.str], "shape": array.shape, "data_offsets": place}
        entries[name] |= changes.get(name, {})
    for name, array in sorted(named.items()) if digest else ():
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    own = {"version": 1, "fingerprint": digest.hexdigest() if digest else "", "info": info}
    entries["__metadata__"] = {"lfvd-corpus": values or json.dumps(own)}
    encoded = (header or json.dumps(entries)).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(encoded)) + encoded + data


def corpora() -> Iterator[Attack]:
    """Canonical files."""
    nested, empty = "[" * 100_000, {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    for name, content in {
        "header-beyond-the-file": struct.pack("<Q", 2**40) + safetensors()[8:],
        "header-nested": safetensors(header='{"__metadata__": ' + nested),
        "header-of-many-tensors": safetensors(header=json.dumps({f"t{i}": empty for i in range(100_000)})),
        "pickle": INNER,
        "offsets-beyond-the-file": safetensors(split={"data_offsets": [10**6, 10**6 + 24]}),
        "offsets-overlap": safetensors(split={"data_offsets": [0, 24]}),
        "shape-beyond-64-bits": safetensors(split={"shape": [2**63, 2**63]}),
        "shape-of-many-axes": safetensors(split={"shape": [1] * 100_000 + [3]}),
        "dtype-bfloat": safetensors(language={"dtype": "BF16", "shape": [5, 8]}),
        "trailing-bytes": safetensors() + b"abc",
        "offset-out-of-range": safetensors({**HONEST, "offset": np.array([0, 2, 4, 2**40])}),
        "offset-not-rising": safetensors({**HONEST, "offset": np.array([0, 4, 2, 5])}),
        "values-nested": safetensors(values=nested),
        "info-a-list": safetensors(info=[1]),
        "classes-of-lists": safetensors(info={**INFO, "classes": [["a"], ["b"]]}),
        "classes-many": safetensors(info={**INFO, "classes": [f"c{i}" for i in range(100_000)]}),
        "options-text": safetensors(info={**INFO, "options": "abc"}),
        "bins-falling": safetensors(info={**INFO, "length_bins": [9, 3]}),
        "escapes-for-the-terminal": safetensors(info={**INFO, "name": "\x1b[2J\x1b]0;owned\x07"}),
        "surrogates": safetensors(info={**INFO, "classes": ["\udfff", "b"]}),
    }.items():
        yield Attack(name, content, suffix=".safetensors")
    yield Attack("markup", safetensors(info={**INFO, "name": "[red]x[/blue]"}), suffix=".safetensors", harmless=True)


def yamls() -> Iterator[Attack]:
    """Configurations and plans of a search."""
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    for name, content in {
        "apply": "!!python/object/apply:os.system ['touch ran']",
        "tag-directive": "%TAG ! tag:yaml.org,2002:python/object/apply:\n---\n!os.system ['touch ran']",
        "laughs": laughs + "model: *a11\n",
        "merges": laughs.replace("[x, x]", "{x: 1}").replace("[*", "{<<: [*").replace("]\n", "]}\n"),
        "alias-of-itself": "model: &a [*a]",
        "nested-lists": "model: " + "[" * 50_000,
        "nested-mappings": "model: " + "{a: " * 50_000,
        "many-keys": "".join(f"k{i}: 1\n" for i in range(100_000)),
        "large": "model: {width: 1}\n" + "#" * 20_000_000,
        "hexadecimal-of-many-digits": "model: {width: 0x" + "f" * 100_000 + "}",
        "sexagesimal": "model: {width: 1" + ":59" * 200_000 + "}",
        "timestamp-of-words": "model: {width: !!timestamp words}",
        "character-beyond": 'model: {width: "\\UFFFFFFFF"}',
        "key-a-list": "? [a, b]\n: 1",
        "map-of-text": "model: !!map words",
        "version-of-many-digits": "%YAML 1." + "9" * 100_000 + "\n---\nmodel: {}",
        "escapes": 'model: {"\\e[2J\\e]0;owned\\a": 1}',
        "lines-in-a-key": 'model: {"a\\nlfvd: all is well": 1}',
        "section-a-list": "model: [1]\nspace: [1]\nset: 5\ntrials: {}\nbudget: []\nconfirm: x",
    }.items():
        yield Attack(name, content.encode(), suffix=".yaml")
    for name, raw in {"not-utf8": b"\xff\xfe", "nul": b"model: \x00", "byte-order": b"\xef\xbb\xbf%!"}.items():
        yield Attack(name, raw, suffix=".yaml")
