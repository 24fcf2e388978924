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

from tests.helpers.hostile import PRIME, Attack, call, whole

# Pickles of a published layout, honest to the unpickler.


def layouts() -> Iterator[Attack]:
    """Attacks on what reads the values: nine items, or twelve where there are four layers of text."""
    largest: list[Any] = []
    for _ in range(12):
        largest = [largest] * 10  # a million million members, written out
    many, said = range(100_000), "é" * 1_000_000
    wide = [np.zeros(16_000)] * 1000
    for name, changes in {
        "ids-that-laugh": {"ids": [largest]},
        "labels-that-laugh": {"labels": [largest]},
        "speaker-that-laughs": {"speakers": [{"a": largest}]},
        "split-that-laughs": {"train": ["a", largest]},
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
        yield Attack(f"layout-{name}", pickle.dumps(_layout(**changes), 4), suffix=".pkl")


def _layout(key: str = "a", train: list[Any] | None = None, **changes: list[Any]) -> tuple[Any, ...]:
    """I9, M9 where the dialogues have numbers, I12 for one wide vector; the first dialogue's values as given."""
    ids = [key, *("bc" if key == "a" else "12")]
    of: dict[str, dict[str, Any]] = {}
    for name, value in {
        "ids": "u",
        "speakers": "M",
        "labels": 0,
        "text": [0.5],
        "audio": [0.5],
        "sentences": "x",
    }.items():
        values = {i: [value] for i in ids}
        values[key] = changes.get(name, [value])
        if name in ("ids", "sentences") and len(changes.get("labels", [0])) > 1 and name not in changes:
            values = {}
        of[name] = values
    audio = {} if "text" in changes else of["audio"]
    layers = [of["text"]] * (4 if len(changes.get("text", ())) == 1000 else 1)
    start = (of["ids"], of["speakers"], of["labels"], *layers, audio)
    train = train or ids[:2]
    if key != "a":
        return (*start, of["sentences"], train, ids[2:], {})
    return (*start, {}, of["sentences"], train, ids[2:])


# JSON: dialogues, each a list of {text, speaker, label, cls}.


def _utterance(**changes: object) -> dict[str, object]:
    return {"text": "hello", "speaker": "A", "label": "joy", "cls": [[0.5] * 4, [0.25] * 3, [0.125] * 2], **changes}


def jsons() -> Iterator[Attack]:
    """Attacks that are JSON files of features."""
    text = json.dumps
    for name, content in {
        "nested-lists": "[" * 200_000,
        "nested-lists-closed": "[" * 100_000 + "]" * 100_000,
        "nested-objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
        "number-of-a-million-digits": f"[[{'9' * 1_000_000}]]",
        "label-of-many-digits": text([[_utterance(label=0)]]).replace('"label": 0', '"label": ' + "9" * 4000),
        "number-beyond-float": text([[_utterance()]]).replace("0.5", "1e999"),
        "not-a-number": text([[_utterance()]]).replace("0.5", "NaN"),
        "infinity": text([[_utterance()]]).replace("0.5", "-Infinity"),
        "key-given-twice": text([[_utterance()]]).replace('"speaker"', '"cls": 1, "speaker"'),
        "lone-surrogate": text([[_utterance()]]).replace("hello", "\\ud800"),
        "escapes-for-the-terminal": text([[_utterance(label="\x1b[2J\x1b]0;x\x07")]]),
        "vector-of-text": text([[_utterance(cls=["a", "b", "c"])]]),
        "vector-of-booleans": text([[_utterance(cls=[[True], [False], [None]])]]),
        "vector-of-dicts": text([[_utterance(cls=[{}, {}, {}])]]),
        "vector-empty": text([[_utterance(cls=[[], [], []])]]),
        "vector-of-whole-numbers-beyond-float": text([[_utterance(cls=[[10**400] * 4, [1] * 3, [1] * 2])]]),
        "vectors-of-other-width": text([[_utterance(), _utterance(cls=[[0.5] * 5, [0.25] * 3, [0.125] * 2])]]),
        "cls-of-two": text([[_utterance(cls=[[0.5], [0.5]])]]),
        "speaker-a-list": text([[_utterance(speaker=["A"])]]),
        "label-a-dict": text([[_utterance(label={"a": 1})]]),
        "text-a-number": text([[_utterance(text=5)]]),
        "utterances-are-numbers": "[[1, 2, 3]]",
        "dialogues-are-numbers": "[1, 2, 3]",
        "dialogue-without-end": "[[" + "[[[]]]," * 5_500_000,
        "numbers-without-end": "[[" + "0," * 20_000_000,
        "no-dialogue": "[]",
        "no-utterance": "[[], []]",
        "an-object": '{"__reduce__": ["os.system", "touch ran"]}',
        "only-text": '"abc"',
        "null": "null",
        "two-documents": "[[]][[]]",
        "cut": text([[_utterance()]])[:-9],
        "nothing": "",
        "python-object": '[[{"py/object": "os.system", "py/reduce": [{"py/type": "os.system"}]}]]',
    }.items():
        yield Attack(f"json-{name}", content.encode(), suffix=".json.feature")
    for name, raw in {
        "not-utf8": b'[["\xff\xfe"]]',
        "utf16": text([[_utterance()]]).encode("utf-16"),
        "nul-bytes": b"\0" * 1000,
        "pickle-within": whole(call("os:system", "touch ran")),
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
    yield "object-array", npy(_header("(1,)", "'|O'"), whole(call("os:system", "touch ran")))
    yield "object-in-a-record", npy(_header("(1,)", "[('a', '|O')]"), b"\x10" * 8)
    yield "far-above-the-file", npy(_header("(1099511627776,)"), b"1234")
    yield "shape-beyond-64-bits", npy(_header("(4611686018427387904, 4611686018427387904)"))
    yield "shape-below-zero", npy(_header("(-1, 4)"), b"1" * 16)
    yield "shape-of-booleans", npy(_header("(True, 4)"), b"1" * 16)
    yield "shape-of-text", npy(_header("('a',)"))
    yield "wide-items", npy(_header("(1,)", "'|V2000000000'"), b"1")
    yield "wide-subarray", npy(_header("(1,)", "('<f4', (1000000000,))"), b"1")
    yield "header-that-calls", npy("__import__('os').system('touch ran')")
    yield "header-that-calls-inside", npy(_header("(__import__('os').system('touch ran'),)"))
    yield "header-nested", npy("(" * 9_000)
    yield "header-of-minus-signs", npy(_header("(" + "-" * 9_000 + "1,)"))
    yield "header-of-4-gb", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{"
    yield "header-large", npy(_header("(1,)") + " " * 2_000_000, b"1234", version=2)
    yield "header-not-utf8", npy(b"\xff" * 100, version=3)
    yield "header-cut", b"\x93NUMPY\x01\x00"
    yield "version-9", b"\x93NUMPY\x09\x00\x10\x00"
    yield "pickle", whole(call("os:system", "touch ran"))
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
        "header-of-63-bits": safetensors(length=2**63 - 1),
        "header-of-64-bits": safetensors(length=2**64 - 1),
        "header-of-nothing": safetensors(length=0),
        "header-shorter": safetensors(length=10),
        "header-not-json": safetensors(header="os.system"),
        "header-a-list": safetensors(header="[1]"),
        "header-nested": safetensors(header='{"a":' * 100_000),
        "header-nested-metadata": safetensors(header='{"__metadata__": ' + nested + "}"),
        "header-of-numbers": safetensors(header='{"__metadata__": {"lfvd-corpus": 1}}'),
        "header-key-twice": safetensors(
            header='{"label": {"dtype": "I64", "shape": [0], "data_offsets": [0, 0]}, ' * 2 + "}}"
        ),
        "header-large": safetensors(header=" " * 120_000_000 + "{}"),
        "header-of-many-tensors": safetensors(
            header=json.dumps({f"t{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(100_000)})
        ),
        "seven-bytes": b"1234567",
        "nothing": b"",
        "pickle": whole(call("os:system", "touch ran")),
        "offsets-beyond-the-file": tensor("split", data_offsets=[10**6, 10**6 + 24]),
        "offsets-of-64-bits": tensor("split", data_offsets=[2**64 - 24, 2**64 - 1]),
        "offsets-overlap": tensor("split", data_offsets=[0, 24]),
        "offsets-below-zero": tensor("split", data_offsets=[-24, 0]),
        "offsets-backwards": tensor("split", data_offsets=[24, 0]),
        "offsets-of-text": tensor("split", data_offsets=["0", "24"]),
        "shape-beyond-64-bits": tensor("split", shape=[2**63, 2**63]),
        "shape-product-wraps": tensor("split", shape=[2**61 + 3]),
        "shape-below-zero": tensor("split", shape=[-3]),
        "shape-of-many-axes": tensor("split", shape=[1] * 100_000 + [3]),
        "dtype-unknown": tensor("split", dtype="OBJECT"),
        "dtype-float": tensor("split", dtype="F64"),
        "dtype-unsigned": tensor("split", dtype="U64"),
        "dtype-of-eighths": tensor("language", dtype="F8_E4M3", shape=[5, 16]),
        "dtype-bfloat": tensor("language", dtype="BF16", shape=[5, 8]),
        "trailing-bytes": safetensors() + b"abc",
        "cut": safetensors()[:-8],
        "no-label": safetensors({k: v for k, v in HONEST.items() if k != "label"}),
        "no-features": safetensors({k: v for k, v in HONEST.items() if k != "language"}),
        "array-unknown": arrays(weights=np.zeros(3, np.float32)),
        "array-named-info": arrays(info=np.zeros(3, np.float32)),
        "array-named-cls": arrays(cls=np.zeros(3, np.float32)),
        "label-of-two-axes": arrays(label=np.zeros((5, 1), np.int64)),
        "label-of-no-axis": arrays(label=np.array(1)),
        "label-beyond-the-classes": arrays(label=np.array([0, 1, 2, 0, 1])),
        "label-of-64-bits": arrays(label=np.array([0, 1, -(2**63), 0, 1])),
        "label-short": arrays(label=np.array([0, 1])),
        "speaker-below-zero": arrays(speaker=np.array([0, -1, 0, 0, 1])),
        "speaker-of-64-bits": arrays(speaker=np.array([0, 2**62, 0, 0, 1])),
        "offset-not-rising": arrays(offset=np.array([0, 4, 2, 5])),
        "offset-out-of-range": arrays(offset=np.array([0, 2, 4, 2**40])),
        "offset-wraps": arrays(offset=np.array([0, -(2**63), 2**63 - 1, 5])),
        "offset-from-one": arrays(offset=np.array([1, 2, 4, 5])),
        "offset-empty": arrays(offset=np.array([], np.int64)),
        "split-out-of-range": arrays(split=np.array([0, 1, 3])),
        "split-below-zero": arrays(split=np.array([0, 1, -1])),
        "nothing-in-it": safetensors(
            {k: v[:1] if k == "offset" else v[:0] for k, v in HONEST.items()}, info={**INFO, "dialogues": []}
        ),
        "features-without-width": arrays(language=np.zeros((5, 0), np.float32)),
        "features-not-a-number": arrays(language=np.full((5, 4), np.nan, np.float32)),
        "fingerprint-wrong": safetensors(values={"version": 1, "fingerprint": "0" * 64, "info": INFO}),
        "fingerprint-a-list": safetensors(values={"version": 1, "fingerprint": [1], "info": INFO}),
        "version-later": safetensors(values={"version": 2, "fingerprint": "", "info": INFO}),
        "version-a-list": safetensors(values={"version": [1], "fingerprint": "", "info": INFO}),
        "values-a-list": safetensors(values=[1, 2]),
        "values-nested": safetensors(values=nested),
        "values-nested-open": safetensors(values="[" * 100_000),
        "values-of-many-digits": safetensors(values='{"version": ' + "9" * 100_000 + "}"),
        "values-version-of-digits": safetensors(values='{"version": ' + "9" * 4_300 + "}"),
        "values-not-json": safetensors(values="{'version': 1}"),
        "info-a-list": safetensors(info=[1]),
        "info-nothing": safetensors(info={}),
        "info-unknown-key": info(colour="red"),
        "name-a-number": info(name=5),
        "name-a-list": info(name=["a"]),
        "classes-a-number": info(classes=5),
        "classes-text": info(classes="ab"),
        "classes-of-numbers": info(classes=[1, 2]),
        "classes-of-lists": info(classes=[["a"], ["b"]]),
        "classes-none": info(classes=[]),
        "classes-many": info(classes=[f"c{i}" for i in range(100_000)]),
        "classes-same": info(classes=["a", "a"]),
        "dialogues-of-lists": info(dialogues=[["a"], ["b"], ["c"]]),
        "dialogues-of-numbers": info(dialogues=[1, 2, 3]),
        "dialogues-a-dict": info(dialogues={"a": 1, "b": 2, "c": 3}),
        "dialogues-short": info(dialogues=["a"]),
        "dialogues-same": info(dialogues=["a", "a", "a"]),
        "sources-a-list": info(sources=[1]),
        "sources-of-numbers": info(sources={"a": 1}),
        "options-text": info(options="abc"),
        "options-nested": info(options={"a": {"b": [1, {"c": None}]}}),
        "simulated-a-number": info(simulated=5),
        "simulated-unknown": info(simulated=["smell"]),
        "bins-of-text": info(length_bins=["a"]),
        "bins-falling": info(length_bins=[9, 3]),
        "bins-a-number": info(length_bins=7),
        "escapes-for-the-terminal": info(name="\x1b[2J\x1b]0;owned\x07", classes=["\x1b[8m", "b"]),
        "markup": info(name="[red]x[/blue]", classes=["[/]", "[link=http://a]b"]),
        "surrogates": info(name="\ud800", classes=["\udfff", "b"]),
    }.items():
        yield Attack(f"corpus-{name}", content, suffix=".safetensors")


# YAML: configurations and plans of a search.


def yamls() -> Iterator[Attack]:
    """Attacks that are YAML files."""
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    merges = "a0: &a0 {x: 1}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 12)
    )
    for name, content in {
        "apply": "!!python/object/apply:os.system ['touch ran']",
        "apply-in-a-key": "model: {width: !!python/object/apply:os.system ['touch ran']}",
        "object": "model: !!python/object:subprocess.Popen {args: touch}",
        "object-new": "model: !!python/object/new:os.system ['touch ran']",
        "name": "model: !!python/name:os.system",
        "module": "model: !!python/module:evil",
        "own-tag": "model: !evil x",
        "tag-directive": "%TAG ! tag:yaml.org,2002:python/object/apply:\n---\n!os.system ['touch ran']",
        "hydra": "model: {_target_: os.system, command: touch ran}",
        "laughs": laughs + "model: *a11\n",
        "laughs-in-a-value": laughs + "model: {width: *a11}\n",
        "merges": merges,
        "alias-of-itself": "model: &a [*a]",
        "mapping-of-itself": "model: &a {width: *a}",
        "merge-with-itself": "model: &a\n  <<: *a\n",
        "merge-with-a-number": "model: {<<: 5}",
        "alias-unknown": "model: *nothing",
        "nested-lists": "model: " + "[" * 50_000,
        "nested-mappings": "model: " + "{a: " * 50_000,
        "nested-dashes": "- " * 50_000,
        "nested-questions": "? " * 50_000,
        "many-keys": "".join(f"k{i}: 1\n" for i in range(100_000)),
        "many-keys-below": "model:\n" + "".join(f"  k{i}: 1\n" for i in range(30_000)),
        "large": "model: {width: 1}\n" + "#" * 200_000_000,
        "whole-number-of-many-digits": "model: {width: " + "9" * 100_000 + "}",
        "hexadecimal-of-many-digits": "model: {width: 0x" + "f" * 100_000 + "}",
        "binary-of-many-digits": "model: {width: 0b" + "1" * 500_000 + "}",
        "sexagesimal": "model: {width: 1" + ":59" * 200_000 + "}",
        "sexagesimal-short": "model: {width: 1" + ":59" * 5_000 + "}",
        "base-sixty-float": "model: {width: 1" + ":59" * 5_000 + ".5}",
        "bool-of-words": "model: {width: !!bool words}",
        "int-of-nothing": "model: {width: !!int ''}",
        "float-of-nothing": "model: {width: !!float ''}",
        "float-of-words": "model: {width: !!float words}",
        "timestamp-of-words": "model: {width: !!timestamp words}",
        "timestamp-impossible": "model: {width: 2001-99-99}",
        "timestamp-far-away": "model: {width: 0001-01-01t00:00:00+23:59}",
        "binary-wrong": "model: {width: !!binary '%%%%='}",
        "character-beyond": 'model: {width: "\\UFFFFFFFF"}',
        "character-surrogate": 'model: {width: "\\ud800"}',
        "key-a-list": "? [a, b]\n: 1",
        "key-a-mapping": "? {a: b}\n: 1",
        "key-a-set": "? !!set {a, b}\n: 1",
        "key-nothing": "~: 1",
        "key-a-number": "5: 1\n1.5: 2\ntrue: 3",
        "key-twice": "model: {}\nmodel: {}",
        "key-equals": "model: {=: 1}",
        "omap": "model: !!omap [a, b]",
        "pairs": "model: !!pairs [a: b, c]",
        "set": "model: !!set [a]",
        "str-of-list": "model: !!str [a]",
        "map-of-text": "model: !!map words",
        "map-of-a-list": "model: !!map [a]",
        "version-directive": "%YAML 9.9\n---\nmodel: {}",
        "version-of-many-digits": "%YAML 1." + "9" * 100_000 + "\n---\nmodel: {}",
        "two-documents": "model: {}\n---\nmodel: {}",
        "a-list": "[1, 2]",
        "escapes": 'model: {"\\e[2J\\e]0;owned\\a": 1}',
        "lines-in-a-key": 'model: {"a\\nlfvd: all is well": 1}',
        "tabs": "model:\n\twidth: 1",
        "not-a-number": "model: {width: .nan}\noptim: {lr: .nan}\nloss: {gamma2: -.inf}",
        "section-null": "model:\noptim:\n",
        "section-a-list": "model: [1]\nspace: [1]\nset: 5\ntrials: {}\nbudget: []\nconfirm: x",
    }.items():
        yield Attack(f"yaml-{name}", content.encode("utf-8", "surrogatepass"), suffix=".yaml")
    for name, raw in {
        "not-utf8": b"\xff\xfe",
        "nul": b"model: \x00",
        "pickle": whole(call("os:system", "touch ran")),
        "byte-order": b"\xef\xbb\xbf%!",
    }.items():
        yield Attack(f"yaml-{name}", raw, suffix=".yaml")
