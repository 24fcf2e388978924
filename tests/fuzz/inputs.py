"""Inputs for the fuzzers: valid files with parts of them replaced by odd values, then a few bytes damaged."""

from __future__ import annotations

import functools
import json
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import yaml
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.helpers import hostile, hostile_files
from tests.helpers.hostile import Attack
from tests.helpers.plans import PLAN

LARGEST = 20_000
"""Bytes of a crafted attack that is taken as a seed; the larger ones are tests of their own."""

NUMBERS = (True, -1, 0, 1, 7, 60, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("inf"), float("nan"))
TEXTS = ("", "a", "0", "\ud800", "\x1b[2J", "Ses01F_impro01", "M", "happy", "1e5", "l,a")
CONTAINERS: tuple[Any, ...] = ([], [[]], [0], [0.5, 0.5], [None], {}, {"a": 1}, (), (1, 2))
ODD = st.sampled_from([None, *NUMBERS, *TEXTS, *CONTAINERS])


@st.composite
def mutated(draw: DrawFn, value: Any, odd: SearchStrategy[Any] = ODD) -> Any:
    """A value with up to three of its parts changed, left out, given twice or exchanged."""
    for _ in range(draw(st.integers(0, 3))):
        value = _changed(draw, value, odd)
    return value


def _changed(draw: DrawFn, value: Any, odd: SearchStrategy[Any]) -> Any:
    if isinstance(value, np.ndarray):
        return draw(
            st.sampled_from(
                [value[:-1], value[..., None], value.astype("S4"), np.full(value.shape, np.nan), value.T, [*value]]
            )
        )
    if not isinstance(value, list | tuple | dict) or not value or draw(st.integers(0, 9)) == 0:
        return draw(odd)
    items = [list(pair) for pair in value.items()] if isinstance(value, dict) else list(value)
    at, other, how = (draw(st.integers(0, end)) for end in (len(items) - 1, len(items) - 1, 9))
    if how == 0:
        del items[at]
    elif isinstance(value, dict):
        if how == 1 and isinstance(new := draw(odd), str | int | float | None):
            items[at][0] = new
        else:
            items[at][1] = items[other][1] if how == 2 else _changed(draw, items[at][1], odd)
        return dict(items)
    elif how == 1:
        items.insert(at, items[other])
    else:
        items[at] = items[other] if how == 2 else _changed(draw, items[at], odd)
    return dict(items) if isinstance(value, dict) else type(value)(items)


@st.composite
def damaged(draw: DrawFn, strategy: SearchStrategy[bytes], words: list[bytes]) -> bytes:
    """Bytes with up to four places overwritten, filled in or cut; most often none."""
    data = bytearray(draw(strategy))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2, 4]))):
        at = draw(st.integers(0, len(data)))
        word = draw(st.sampled_from(words) | st.binary(max_size=3))
        end = at + draw(st.sampled_from([0, 1, len(word), 2 * len(word)]))
        data[at:end] = word
    return bytes(data)


@functools.cache
def _small(attacks: Callable[[], Iterable[Attack]]) -> list[bytes]:
    return [attack.content for attack in attacks() if len(attack.content) <= LARGEST]


def _pickles() -> Iterable[Attack]:
    return hostile.pickles(bombs=False)


def _near(
    valid: list[Any], write: Callable[[Any], bytes], attacks: list[bytes], words: list[bytes]
) -> SearchStrategy[bytes]:
    """Mutated values in most draws, damaged attacks in the others."""
    changed = st.sampled_from(valid).flatmap(mutated).map(write)
    return damaged(st.one_of(changed, changed, changed, st.sampled_from(attacks)), words)


# Pickles: the layouts of published files, in small.


def layouts() -> list[Any]:
    """Values as published files hold them: three dialogues, two to four wide."""
    rng = np.random.default_rng(0)
    out: list[Any] = []
    for ids in (["Ses01F_a", "Ses01M_b", "Ses05F_c"], [0, 1039, 1153]):
        lengths = dict(zip(ids, (2, 1, 3), strict=True))

        def by(value: Callable[[int], Any], lengths: dict[Any, int] = lengths) -> dict[Any, Any]:
            return {i: value(n) for i, n in lengths.items()}

        hot = [0.0] * 8 + [1.0]
        speakers = by(lambda n: ["M", "F", "M"][:n]) if isinstance(ids[0], str) else by(lambda n: [hot] * n)  # noqa: B023
        names, labels = by(lambda n: [f"u{i}" for i in range(n)]), by(lambda n: [i % 3 for i in range(n)])
        features = [by(lambda n, w=w: rng.random((n, w), np.float32)) for w in (4, 4, 4, 4, 3, 2)]
        lists = [by(lambda n, w=w: [rng.random(w) for _ in range(n)]) for w in (4, 3, 2)]
        said = by(lambda n: ["well\x85 yes"] * n)
        train, test, valid = ids[:2], ids[2:], ids[1:2]
        out += [
            (names, speakers, labels, *lists, said, train, test),
            (names, speakers, labels, *features, said, set(train), set(test)),
            [speakers, labels, *features[:4], said, ids[:1], test, valid],
            [names, speakers, labels, *lists[:2], said, train, test, labels],
            [names, speakers, labels, *lists, said, train, test, labels],
            (names, speakers, labels, *features, said, train, test, labels),
            (names, speakers, labels, labels, *features, said, train, test, labels),
            (speakers, labels, labels, *features[:4], said, ids[:1], test, valid),
            (speakers, labels, labels, said, ids[:1], test, valid),
        ]
    item = {
        "vid": "Ses01F_a",
        "speakers": ["M"],
        "labels": [0],
        "audio": [[0.5]],
        "visual": [[0.5]],
        "text": [[0.5]],
        "sentence": ["a"],
    }
    return [*out, {"train": [item], "dev": [{**item, "vid": "b"}], "test": [{**item, "vid": "c"}]}]


def pickles() -> SearchStrategy[bytes]:
    words = [
        bytes([c])
        for c in b"(.0123FGIJKLMNPQRSTUVX]abcdeghijlopqrstu}\x81\x85\x86\x87\x88\x8a\x8c\x8f\x90\x91\x93\x94\x95"
    ]
    words += [hostile.named(path) for path in ("os:system", "numpy:dtype", "collections:OrderedDict")]
    words += [hostile.dtype("f4"), hostile.array("f4", (2, 2), b"1" * 16), hostile.array("O8", (1,), [1]), b"h\x00"]
    protocols = [
        _near(layouts(), functools.partial(pickle.dumps, protocol=p), _small(_pickles), words) for p in range(6)
    ]
    return st.one_of(protocols)


# JSON.


def _dialogues() -> list[Any]:
    said = {"text": "hi", "speaker": "A", "label": "joy", "cls": [[0.5] * 4, [0.25] * 3, [0.125] * 2]}
    return [
        [[said, {**said, "speaker": "B", "label": "anger"}], [{k: v for k, v in said.items() if k != "label"}]],
        [[{**said, "cls": [0.5] * 4}], [{**said, "cls": [0.5] * 4, "label": ""}]],
    ]


def jsons() -> SearchStrategy[bytes]:
    words = [*rb'[ ] { } , : " NaN 1e999 \ud800 null "cls": 99999999999999999999999999999999999999999'.split(), b"\xff"]
    return _near(_dialogues(), lambda value: json.dumps(value).encode(), _small(hostile_files.jsons), words)


# Corpora: the header, the project's own part of it, and the arrays.


@st.composite
def _corpora(draw: DrawFn) -> bytes:
    arrays = dict(hostile_files.HONEST)
    for name in draw(st.lists(st.sampled_from(["label", "speaker", "offset", "split"]), max_size=1)):
        numbers = st.sampled_from([-(2**63), -2, -1, 0, 1, 2, 3, 4, 5, 6, 2**40, 2**63 - 1])
        arrays[name] = np.array(draw(st.lists(numbers, max_size=6)), np.int64)
    info = draw(mutated(hostile_files.INFO))
    values = {"version": 1, "fingerprint": hostile_files.fingerprint(arrays, info), "info": info}
    plain = hostile_files.safetensors(arrays, values=draw(mutated(values) | st.just(values)))
    size = int.from_bytes(plain[:8], "little")
    whole = json.loads(plain[8 : 8 + size])
    header = json.dumps(draw(mutated(whole) | st.just(whole))).encode()
    length = draw(st.sampled_from([len(header)] * 9 + [0, len(header) - 1, len(header) + 1, 2**31, 2**63]))
    return length.to_bytes(8, "little") + header + plain[8 + size :]


def corpora() -> SearchStrategy[bytes]:
    words = [*rb'"shape" [0,0] 99999999999999999999 I64 F32 BOOL lfvd-corpus null {}'.split(), b"\x00" * 8, b"\xff" * 8]
    return damaged(st.one_of(_corpora(), _corpora(), st.sampled_from(_small(hostile_files.corpora))), words)


# YAML.

_SETTINGS: list[Any] = [
    PLAN,
    {
        "model": {"width": 8, "heads": 2},
        "optim": {"lr": 0.01},
        "run": {"epochs": 4, "device": "cpu"},
        "data": {"modalities": ["l"]},
    },
    {**PLAN, "resources": {"gpu": "auto"}, "budget": {"wall": "2h"}, "set": {"optim.lr": 1e-3}},
]


def yamls() -> SearchStrategy[bytes]:
    words = [*rb"0x :59 2001-02-30 \ud800 .nan 1e999 ~ ' { [".split(), b'"', b"\t", b"|\n", b"---\n", b"%YAML 1.1\n"]
    words += [
        b"&a ",
        b"*a",
        b"!!int ",
        b"!!binary ",
        b"!!timestamp ",
        b"!!python/name:os.system ",
        b"<<: ",
        b"? ",
        b"- ",
    ]
    return _near(
        _SETTINGS, lambda v: yaml.dump(_plain(v)).encode("utf-8", "replace"), _small(hostile_files.yamls), words
    )


def _plain(value: Any) -> Any:
    """Tuples as lists: yaml would write a tag."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
