"""Feature files in every published layout, with the quirks of the real ones, made from invented dialogues.

`write("M13", folder, invented("meld"))` writes the file or files of a layout and returns what to import.
"""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

MELD_IDS = (0, 59, 61, 1038, 1039, 1152, 1153, 1432)
"""On both sides of every border, and of the missing 60."""
IEMOCAP_IDS = (
    "Ses01F_impro01",
    "Ses01M_script01_1",
    "Ses02F_impro01",
    "Ses03M_impro02",
    "Ses04F_impro03",
    "Ses05M_impro04",
)


@dataclass(frozen=True, kw_only=True)
class Invented:
    """Dialogues of a data set as its makers hold them, by id."""

    meld: bool
    labels: dict[Any, list[int]]
    voices: dict[Any, list[int]]
    """Speakers in order of appearance."""
    sentences: dict[Any, list[str]]
    text: list[dict[Any, np.ndarray]]
    """Four layers [n, width]."""
    audio: dict[Any, np.ndarray]
    visual: dict[Any, np.ndarray]
    train: list[Any]
    valid: list[Any]
    test: list[Any]

    def rows(self, values: dict[Any, Any]) -> np.ndarray:
        """Values of all dialogues one below the other, in order of dialogue id."""
        return np.concatenate([np.asarray(values[key]) for key in sorted(values)])


TRUE_WIDTHS: dict[str, tuple[int, int, int]] = {
    **dict.fromkeys(("I12", "I10", "J", "J1"), (1024, 1582, 342)),
    **dict.fromkeys(("M13", "M14", "M11"), (1024, 300, 342)),
    **dict.fromkeys(("M9", "M10", "M7"), (600, 300, 342)),
    "I9": (100, 1582, 342),
    "E": (768, 512, 1000),
    "C": (768, 100, 512),
}
"""Of text, audio and visual in the published files."""


def invented(name: str, *, seed: int = 0, widths: tuple[int, int, int] = (5, 4, 3)) -> Invented:
    """Dialogues of 1 to 6 utterances, of meld or iemocap."""
    rng = np.random.default_rng(seed)
    meld = name == "meld"
    ids: tuple[Any, ...] = MELD_IDS if meld else IEMOCAP_IDS
    length = {key: int(rng.integers(1, 7)) for key in ids}

    def features(width: int) -> dict[Any, np.ndarray]:
        return {key: rng.standard_normal((n, width)).astype(np.float32) for key, n in length.items()}

    voices = {}
    for key, n in length.items():
        order: dict[int, int] = {}
        voices[key] = [order.setdefault(int(v), len(order)) for v in rng.integers(0, 9 if meld else 2, n)]
    valid = [key for key in ids if 1039 <= key < 1153] if meld else [ids[1]]
    test = [key for key in ids if (key >= 1153 if meld else key.startswith("Ses05"))]
    return Invented(
        meld=meld,
        labels={key: rng.integers(0, 7 if meld else 6, n).tolist() for key, n in length.items()},
        voices=voices,
        sentences={key: [f"It’s number {i} of {key}… “so”" for i in range(n)] for key, n in length.items()},
        text=[features(widths[0]) for _ in range(4)],
        audio=features(widths[1]),
        visual=features(widths[2]),
        train=[key for key in ids if key not in test and key not in valid],
        valid=valid,
        test=test,
    )


def write(layout: str, folder: Path, data: Invented, **options: Any) -> list[Path]:
    """The file or files of a layout. Options: `dump` (how to pickle), `lists` (vectors instead of arrays)."""
    folder.mkdir(parents=True, exist_ok=True)
    if layout in ("J", "J1"):
        return _write_json(layout, folder, data)
    dump = options.get("dump", python2)
    files = _by_modality(data)
    if layout in PICKLED:
        files = {f"{layout}.pkl": contents(layout, data, options.get("lists", False))}
    for name, value in files.items():
        (folder / name).write_bytes(dump(value))
    return [folder / name for name in files]


# Values as the files have them.


def _parts(data: Invented, lists: bool) -> dict[str, Any]:
    def shown(values: dict[Any, np.ndarray]) -> dict[Any, Any]:
        return {key: [row.copy() for row in part] for key, part in values.items()} if lists else dict(values)

    def speaker(voice: int) -> Any:
        return [int(i == voice) for i in range(9)] if data.meld else "MF"[voice]

    return {
        "ids": {k: [f"{k}_{i}" for i in range(len(part))] for k, part in data.labels.items()},
        "speakers": {k: [speaker(v) for v in part] for k, part in data.voices.items()},
        "labels": data.labels,
        "sentiments": {k: [0 for _ in part] for k, part in data.labels.items()},
        "text": [shown(layer) for layer in data.text],
        "audio": shown(data.audio),
        "visual": shown(data.visual),
        # Bytes of CP1252, read as latin1.
        "sentences": {k: [t.encode("cp1252").decode("latin1") for t in part] for k, part in data.sentences.items()},
        "train": data.train,
        "train+valid": data.train + data.valid,
        "valid": data.valid,
        "test": data.test,
    }


_I9 = "ids speakers labels text audio visual sentences train+valid test"
_I12 = "ids speakers labels text* audio visual sentences train+valid test"
_TOP = {
    "I9": _I9,
    "I12": _I12,
    "I10": "speakers labels text* sentences train test valid",
    "M9": "ids speakers labels text audio sentences train+valid test sentiments",
    "M10": f"{_I9} sentiments",
    "M13": f"{_I12} sentiments",
    "M14": f"{_I12} sentiments".replace("text*", "sentiments text*"),
    "M11": "speakers labels sentiments text* sentences train test valid",
    "M7": "speakers labels sentiments sentences train test valid",
}
_LISTS = ("M11", "M7")
PICKLED = (*_TOP, "C")
"""Layouts of one pickle."""
LAYOUTS = (*PICKLED, "E", "J", "J1")
IEMOCAP_LAYOUTS = ("I9", "I12", "I10", "C")


def contents(layout: str, data: Invented, lists: bool = False) -> Any:
    """What the pickle of a layout holds."""
    parts = _parts(data, lists or layout == "C")
    if layout != "C":
        found: list[Any] = []
        for name in _TOP[layout].split():
            found += parts["text"] if name == "text*" else [parts["text"][0]] if name == "text" else [parts[name]]
        return found if layout in _LISTS else tuple(found)
    keys = ("speakers", "labels", "audio", "visual", "sentences")

    def dialogue(key: Any) -> dict[str, Any]:
        of = {name.replace("sentences", "sentence"): parts[name][key] for name in keys}
        return {"vid": key, "text": parts["text"][0][key], **of}

    ids = {"train": data.train, "dev": data.valid, "test": data.test}
    return {split: [dialogue(key) for key in of] for split, of in ids.items()}


def _by_modality(data: Invented) -> dict[str, Any]:
    parts = _parts(data, True)
    return {
        "TextFeatures.pkl": parts["text"][1],
        "AudioFeatures.pkl": parts["audio"],
        "VisualFeatures.pkl": parts["visual"],
        "Speakers.pkl": contents("M10" if data.meld else "I9", data),
    }


VOCABULARY = ("joy", "neutral", "ang", "surprise", "sadness", "fear", "disgust")
"""Label names of J in an order of their own, one in its short form."""
_CLASSES = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "ang")


def _write_json(layout: str, folder: Path, data: Invented) -> list[Path]:
    """MELD alone; every fourth utterance has no label."""
    stem = "_data_roberta" + ("_mm" if layout == "J" else "")
    for split, ids in (("train", data.train), ("dev", data.valid), ("test", data.test)):
        dialogues = []
        for key in ids:
            utterances: list[dict[str, Any]] = []
            for i, label in enumerate(data.labels[key]):
                cls = [values[key][i].tolist() for values in (data.text[0], data.audio, data.visual)]
                utterance = {"text": data.sentences[key][i], "speaker": f"voice {data.voices[key][i]}"}
                utterance["cls"] = cls if layout == "J" else cls[0]
                utterances.append(utterance | ({"label": VOCABULARY.index(_CLASSES[label])} if i % 4 != 3 else {}))
            dialogues.append(utterances)
        (folder / f"{split}{stem}.json.feature").write_text(json.dumps(dialogues), encoding="utf-8")
    for name, words in (("label", VOCABULARY), ("speaker", ("voice 0", "voice 1"))):
        vocabulary = {"stoi": {word: i for i, word in enumerate(words)}, "itos": list(words)}
        (folder / f"{name}_vocab.pkl").write_bytes(pickle.dumps(vocabulary))
    return [folder]


# Pickles as others wrote them.


class _Python2(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Protocol 2 as Python 2 with numpy 1 writes it: text is bytes, an array's data are text, numpy.core has no underscore."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_text(self, text: str | bytes) -> None:
        data = text if isinstance(text, bytes) else text.encode("latin1")
        head = pickle.SHORT_BINSTRING + bytes([len(data)]) if len(data) < 256 else b"T" + struct.pack("<i", len(data))
        self.write(head + data)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_text

    def save_name(self, called: Any, name: str | None = None) -> None:
        module = called.__module__.replace("numpy._core", "numpy.core").replace("builtins", "__builtin__")
        self.write(pickle.GLOBAL + f"{module}\n{called.__name__}\n".encode())
        self.memoize(called)

    save_global = save_name
    dispatch[type] = dispatch[type(pickle.dumps)] = dispatch[type(len)] = save_name


def python2(value: Any) -> bytes:
    """A pickle of Python 2 and numpy 1, protocol 2."""
    import io

    file = io.BytesIO()
    _Python2(file, protocol=2).dump(value)
    return file.getvalue()


def numpy1(value: Any) -> bytes:
    """A pickle of Python 3 and numpy 1, protocol 3."""
    return pickle.dumps(value, protocol=3).replace(b"numpy._core.", b"numpy.core.")


def tensors(value: Any) -> bytes:
    """A pickle in which every array is a torch tensor."""
    return pickle.dumps(_as_tensors(value), protocol=2)


def _as_tensors(value: Any) -> Any:
    import torch

    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    if isinstance(value, list | tuple):
        return type(value)(map(_as_tensors, value))
    return {k: _as_tensors(v) for k, v in value.items()} if isinstance(value, dict) else value


DUMPS: dict[str, Callable[[Any], bytes]] = {
    "python2": python2,
    "numpy1": numpy1,
    "tensors": tensors,
    **{f"protocol{p}": lambda value, p=p: pickle.dumps(value, protocol=p) for p in range(6)},
}
