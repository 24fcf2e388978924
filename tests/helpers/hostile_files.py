"""Hostile files that are not pickles: JSON features, npy and npz, corpora (.safetensors) and YAML."""

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

TABLE = b"dialogue,position,speaker,label,split,text\n" + b"".join(
    b"d%d,%d,A,%s,%s,hello\n" % (i // 2, i % 2, b"joy" if i % 2 else b"calm", (b"train", b"valid", b"test")[i // 2])
    for i in range(6)
)
"""Utterances for the door `features`: two of each split."""


# Pickles of a published layout, honest to the unpickler.


def layouts() -> Iterator[Attack]:
    """Attacks on what reads the values."""
    largest: list[Any] = []
    for _ in range(12):
        largest = [largest] * 10  # a million million members, written out
    many, said = range(100_000), "é" * 1_000_000
    wide = [np.zeros(16_000)] * 1000
    for name, changes in {
        "labels-that-laugh": {"labels": [largest]},
        "speaker-that-laughs": {"speakers": [{"a": largest}]},
        "sentence-that-laughs": {"sentences": [largest]},
        "features-that-laugh": {"text": [largest]},
        "speakers-collide": {"speakers": [i * PRIME for i in many], "labels": [0 for _ in many]},
        "one-sentence-for-all": {
            "labels": [0] * 50_000,
            "speakers": ["M"] * 50_000,
            "sentences": [said] * 50_000,
            "text": [[0.5]] * 50_000,
        },
        "one-vector-for-all": {"labels": [0] * 1000, "speakers": ["M"] * 1000, "text": wide},
        "number-of-many-digits": {"key": "9" * 5000},
    }.items():
        yield Attack(f"layout-{name}", pickle.dumps(_layout(**changes), 4), harmless=name == "number-of-many-digits")


def _layout(key: str = "a", **changes: list[Any]) -> tuple[Any, ...]:
    """I9 of three dialogues; the values of the first as given."""
    ids = [key, "b", "c"]
    values = {"speakers": "M", "labels": 0, "text": [0.5], "sentences": "x"}
    of = {name: {i: [value] for i in ids} | {key: changes.get(name, [value])} for name, value in values.items()}
    of["sentences"] = of["sentences"] if "sentences" in changes else {}
    return ({}, of["speakers"], of["labels"], of["text"], {}, {}, of["sentences"], ids[:2], ids[2:])


# JSON: dialogues, each a list of {text, speaker, label, cls}.


def _utterance(**changes: object) -> dict[str, object]:
    return {"text": "hello", "speaker": "A", "label": "joy", "cls": [[0.5] * 4, [0.25] * 3, [0.125] * 2], **changes}


def jsons() -> Iterator[Attack]:
    """Attacks that are JSON files of features."""
    text = json.dumps
    for name, content in {
        "nested-lists": "[" * 200_000,
        "nested-objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
        "number-of-a-million-digits": f"[[{'9' * 1_000_000}]]",
        "label-of-many-digits": text([[_utterance(label=0)]]).replace('"label": 0', '"label": ' + "9" * 4000),
        "not-a-number": text([[_utterance()]]).replace("0.5", "NaN"),
        "key-given-twice": text([[_utterance()]]).replace('"speaker"', '"cls": 1, "speaker"'),
        "lone-surrogate": text([[_utterance()]]).replace("hello", "\\ud800"),
        "escapes-for-the-terminal": text([[_utterance(label="\x1b[2J\x1b]0;x\x07")]]),
        "vector-of-text": text([[_utterance(cls=["a", "b", "c"])]]),
        "vector-of-booleans": text([[_utterance(cls=[[True], [False], [None]])]]),
        "vector-of-whole-numbers-beyond-float": text([[_utterance(cls=[[10**400] * 4, [1] * 3, [1] * 2])]]),
        "vectors-of-other-width": text([[_utterance(), _utterance(cls=[[0.5] * 5, [0.25] * 3, [0.125] * 2])]]),
        "speaker-a-list": text([[_utterance(speaker=["A"])]]),
        "label-a-dict": text([[_utterance(label={"a": 1})]]),
        "text-a-number": text([[_utterance(text=5)]]),
        "dialogues-are-numbers": "[1, 2, 3]",
        "dialogue-without-end": "[[" + "[[[]]]," * 1_500_000,
        "numbers-without-end": "[[" + "0," * 10_000_000,
        "no-dialogue": "[]",
        "no-utterance": "[[], []]",
        "an-object": '{"__reduce__": ["os.system", "touch ran"]}',
        "two-documents": "[[]][[]]",
        "cut": text([[_utterance()]])[:-9],
        "nothing": "",
        "python-object": '[[{"py/object": "os.system", "py/reduce": [{"py/type": "os.system"}]}]]',
    }.items():
        yield Attack(f"json-{name}", content.encode(), suffix=".json.feature")
    for name, raw in {
        "not-utf8": b'[["\xff\xfe"]]',
        "utf16": text([[_utterance()]]).encode("utf-16"),
        "pickle-within": INNER,
    }.items():
        yield Attack(f"json-{name}", raw, suffix=".json.feature")


# npy and npz.


def npy(header: str | bytes, data: bytes = b"", version: int = 1) -> bytes:
    """A .npy file with this header."""
    encoded = header.encode() if isinstance(header, str) else header
    return (
        b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(encoded)) + encoded + data
    )


def _header(shape: str, kind: str = "'<f4'") -> str:
    return f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}\n"


def npz(method: int = zipfile.ZIP_DEFLATED, /, **members: bytes) -> bytes:
    """A .npz of raw members, compressed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/") + ".npy", content)
    return file.getvalue()


def _rows(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npys() -> Iterator[tuple[str, bytes]]:
    """Name, content of hostile .npy files."""
    yield "object-array", npy(_header("(1,)", "'|O'"), INNER)
    yield "object-in-a-record", npy(_header("(1,)", "[('a', '|O')]"), b"\x10" * 8)
    yield "far-above-the-file", npy(_header("(1099511627776,)"), b"1234")
    yield "shape-beyond-64-bits", npy(_header("(4611686018427387904, 4611686018427387904)"))
    yield "shape-of-text", npy(_header("('a',)"))
    yield "wide-items", npy(_header("(1,)", "'|V2000000000'"), b"1")
    yield "header-that-calls", npy("__import__('os').system('touch ran')")
    yield "header-that-calls-inside", npy(_header("(__import__('os').system('touch ran'),)"))
    yield "header-nested", npy("(" * 9_000)
    yield "header-of-4-gb", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{"
    yield "header-cut", b"\x93NUMPY\x01\x00"
    yield "pickle", INNER
    yield "nothing", b""


def npzs() -> Iterator[Attack]:
    """Attacks that are .npz files, in the place of features."""
    good = _rows(np.ones((2, 4), np.float32))
    for name, content in npys():
        yield Attack(f"npz-{name}", npz(train=content, dev=good, test=good), suffix=".npz")
        yield Attack(f"npy-{name}", content, suffix=".npy")
    yield Attack("npz-bomb", npz(train=_bomb(256), dev=good, test=good), suffix=".npz")
    yield Attack("npz-climbs-out", npz(**{"..__..__ran": good, "__ran": good}), suffix=".npz")
    yield Attack("npz-without-end", npz(train=good)[:-30], suffix=".npz")
    yield Attack("npz-of-nothing", npz(), suffix=".npz")
    lying = npz(train=good, dev=good, test=good)
    yield Attack("npz-with-bad-checksum", lying.replace(struct.pack("<I", zipfile.crc32(good)), b"abcd"), suffix=".npz")
    at = lying.index(b"PK\x01\x02")
    yield Attack("npz-of-unknown-method", lying[: at + 10] + b"\x63" + lying[at + 11 :], suffix=".npz")
    packed = npz(zipfile.ZIP_LZMA, train=good, dev=good, test=good)
    at = packed.index(b"train.npy") + len("train.npy") + 12
    yield Attack("npz-packed-by-lzma-and-broken", packed[:at] + b"\xff" * 30 + packed[at + 30 :], suffix=".npz")
    yield Attack("npz-encrypted", lying[: at + 8] + b"\x01" + lying[at + 9 :], suffix=".npz")


def _bomb(megabytes: int) -> bytes:
    """Zeros: honest of shape, a thousand times smaller when compressed."""
    return npy(_header(f"(2, {megabytes * 2**17})")) + bytes(megabytes * 2**20)


# Corpora.

HONEST: dict[str, np.ndarray] = {
    "language": np.linspace(0, 1, 20, dtype=np.float32).reshape(5, 4),
    "label": np.array([0, 1, -1, 1, 0]),
    "speaker": np.array([0, 1, 0, 0, 1]),
    "offset": np.array([0, 2, 4, 5]),
    "split": np.array([0, 1, 2]),
}
INFO: dict[str, Any] = {
    "name": "T",
    "classes": ["a", "b"],
    "dialogues": ["d0", "d1", "d2"],
    "options": {},
    "sources": {},
}


def fingerprint(arrays: Mapping[str, np.ndarray], info: object) -> str:
    """As lfvd.data.corpus defines it: no attack is to be refused for this alone."""
    named = info if isinstance(info, dict) else {}
    digest = hashlib.sha256(json.dumps([named.get("classes"), named.get("dialogues")]).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def safetensors(
    arrays: Mapping[str, np.ndarray] = HONEST,
    *,
    tensors: Mapping[str, Mapping[str, object]] | None = None,
    info: object = INFO,
    values: object = None,
    header: str | None = None,
    length: int | None = None,
) -> bytes:
    """A corpus file with any part of it replaced: entries of `tensors`, the project's `info` or `values`, the header."""
    kinds = {"f4": "F32", "i8": "I64", "f8": "F64", "i4": "I32", "f2": "F16", "u1": "U8", "b1": "BOOL"}
    entries: dict[str, Any] = {}
    data = b""
    for name, array in arrays.items():
        raw = array.tobytes()
        entries[name] = {
            "dtype": kinds[array.dtype.str[1:]],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    for name, entry in (tensors or {}).items():
        entries[name] = {**entries.get(name, {}), **entry}
    own = {"version": 1, "fingerprint": fingerprint(arrays, info), "info": info} if values is None else values
    entries["__metadata__"] = {"lfvd-corpus": own if isinstance(own, str) else json.dumps(own)}
    encoded = (json.dumps(entries) if header is None else header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def corpora() -> Iterator[Attack]:
    """Attacks that are canonical files."""

    def info(**changes: object) -> bytes:
        return safetensors(info={**INFO, **changes})

    def arrays(**changes: np.ndarray) -> bytes:
        return safetensors({**HONEST, **changes})

    def tensor(name: str, **changes: object) -> bytes:
        return safetensors(tensors={name: changes})

    nested = "[" * 100_000 + "]" * 100_000
    for name, content in {
        "header-beyond-the-file": safetensors(length=2**40),
        "header-shorter": safetensors(length=10),
        "header-not-json": safetensors(header="os.system"),
        "header-nested": safetensors(header='{"a":' * 100_000),
        "header-nested-metadata": safetensors(header='{"__metadata__": ' + nested + "}"),
        "header-of-many-tensors": safetensors(
            header=json.dumps({f"t{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(100_000)})
        ),
        "nothing": b"",
        "pickle": INNER,
        "offsets-beyond-the-file": tensor("split", data_offsets=[10**6, 10**6 + 24]),
        "offsets-overlap": tensor("split", data_offsets=[0, 24]),
        "offsets-of-text": tensor("split", data_offsets=["0", "24"]),
        "shape-beyond-64-bits": tensor("split", shape=[2**63, 2**63]),
        "shape-of-many-axes": tensor("split", shape=[1] * 100_000 + [3]),
        "dtype-unknown": tensor("split", dtype="OBJECT"),
        "dtype-float": tensor("split", dtype="F64"),
        "dtype-bfloat": tensor("language", dtype="BF16", shape=[5, 8]),
        "trailing-bytes": safetensors() + b"abc",
        "cut": safetensors()[:-8],
        "no-label": safetensors({k: v for k, v in HONEST.items() if k != "label"}),
        "no-features": safetensors({k: v for k, v in HONEST.items() if k != "language"}),
        "array-unknown": arrays(weights=np.zeros(3, np.float32)),
        "label-of-no-axis": arrays(label=np.array(1)),
        "label-beyond-the-classes": arrays(label=np.array([0, 1, 2, 0, 1])),
        "speaker-below-zero": arrays(speaker=np.array([0, -1, 0, 0, 1])),
        "offset-not-rising": arrays(offset=np.array([0, 4, 2, 5])),
        "offset-out-of-range": arrays(offset=np.array([0, 2, 4, 2**40])),
        "offset-empty": arrays(offset=np.array([], np.int64)),
        "split-out-of-range": arrays(split=np.array([0, 1, 3])),
        "nothing-in-it": safetensors(
            {k: v[:1] if k == "offset" else v[:0] for k, v in HONEST.items()}, info={**INFO, "dialogues": []}
        ),
        "features-not-a-number": arrays(language=np.full((5, 4), np.nan, np.float32)),
        "fingerprint-wrong": safetensors(values={"version": 1, "fingerprint": "0" * 64, "info": INFO}),
        "values-nested": safetensors(values=nested),
        "values-nested-open": safetensors(values="[" * 100_000),
        "info-a-list": safetensors(info=[1]),
        "info-nothing": safetensors(info={}),
        "info-unknown-key": info(colour="red"),
        "name-a-number": info(name=5),
        "classes-text": info(classes="ab"),
        "classes-of-lists": info(classes=[["a"], ["b"]]),
        "classes-many": info(classes=[f"c{i}" for i in range(100_000)]),
        "classes-same": info(classes=["a", "a"]),
        "dialogues-of-lists": info(dialogues=[["a"], ["b"], ["c"]]),
        "dialogues-short": info(dialogues=["a"]),
        "dialogues-same": info(dialogues=["a", "a", "a"]),
        "sources-a-list": info(sources=[1]),
        "options-text": info(options="abc"),
        "options-nested": info(options={"a": {"b": [1, {"c": None}]}}),
        "simulated-unknown": info(simulated=["smell"]),
        "bins-falling": info(length_bins=[9, 3]),
        "escapes-for-the-terminal": info(name="\x1b[2J\x1b]0;owned\x07", classes=["\x1b[8m", "b"]),
        "markup": info(name="[red]x[/blue]", classes=["[/]", "[link=http://a]b"]),
        "surrogates": info(name="\ud800", classes=["\udfff", "b"]),
    }.items():
        harmless = name in ("options-nested", "simulated-unknown", "markup")
        yield Attack(f"corpus-{name}", content, suffix=".safetensors", harmless=harmless)


# YAML: configurations and plans of a search.


def yamls() -> Iterator[Attack]:
    """Attacks that are YAML files."""
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    merges = "a0: &a0 {x: 1}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 12)
    )
    for name, content in {
        "apply": "!!python/object/apply:os.system ['touch ran']",
        "object": "model: !!python/object:subprocess.Popen {args: touch}",
        "name": "model: !!python/name:os.system",
        "tag-directive": "%TAG ! tag:yaml.org,2002:python/object/apply:\n---\n!os.system ['touch ran']",
        "laughs": laughs + "model: *a11\n",
        "merges": merges,
        "alias-of-itself": "model: &a [*a]",
        "nested-lists": "model: " + "[" * 50_000,
        "nested-mappings": "model: " + "{a: " * 50_000,
        "many-keys": "".join(f"k{i}: 1\n" for i in range(100_000)),
        "large": "model: {width: 1}\n" + "#" * 20_000_000,
        "whole-number-of-many-digits": "model: {width: " + "9" * 100_000 + "}",
        "hexadecimal-of-many-digits": "model: {width: 0x" + "f" * 100_000 + "}",
        "sexagesimal": "model: {width: 1" + ":59" * 200_000 + "}",
        "float-of-words": "model: {width: !!float words}",
        "timestamp-of-words": "model: {width: !!timestamp words}",
        "binary-wrong": "model: {width: !!binary '%%%%='}",
        "character-beyond": 'model: {width: "\\UFFFFFFFF"}',
        "key-a-list": "? [a, b]\n: 1",
        "key-a-number": "5: 1\n1.5: 2\ntrue: 3",
        "key-twice": "model: {}\nmodel: {}",
        "set": "model: !!set [a]",
        "map-of-text": "model: !!map words",
        "version-of-many-digits": "%YAML 1." + "9" * 100_000 + "\n---\nmodel: {}",
        "two-documents": "model: {}\n---\nmodel: {}",
        "a-list": "[1, 2]",
        "escapes": 'model: {"\\e[2J\\e]0;owned\\a": 1}',
        "lines-in-a-key": 'model: {"a\\nlfvd: all is well": 1}',
        "not-a-number": "model: {width: .nan}\noptim: {lr: .nan}\nloss: {gamma2: -.inf}",
        "section-a-list": "model: [1]\nspace: [1]\nset: 5\ntrials: {}\nbudget: []\nconfirm: x",
    }.items():
        yield Attack(f"yaml-{name}", content.encode("utf-8", "surrogatepass"), suffix=".yaml")
    for name, raw in {
        "not-utf8": b"\xff\xfe",
        "nul": b"model: \x00",
        "pickle": INNER,
        "byte-order": b"\xef\xbb\xbf%!",
    }.items():
        yield Attack(f"yaml-{name}", raw, suffix=".yaml")
