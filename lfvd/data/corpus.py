"""A corpus: one canonical `.safetensors` file of flat arrays, memory-mapped and shared by all trials of a machine.

Arrays over all N utterances in order of dialogue (shape legend: lfvd.data.batch): `language|audio|visual` [N, width] float32
(a missing modality is absent), `label` [N] int64 (-1 unlabelled), `speaker` [N] int64 (local to the dialogue), `offset`
[D+1] int64, `split` [D] int64 (0 train, 1 valid, 2 test). The header holds version, fingerprint and `CorpusInfo` as
JSON. Sentences, where present, stand in a `.parquet` beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import ConfigDict, TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lfvd.config import MODALITY_NAMES
from lfvd.data import UNLABELLED
from lfvd.data.batch import Batch, collate
from lfvd.files import InputError, atomic_path, reason
from lfvd.schema import CHECKED

SPLITS = ("train", "valid", "test")
FORMAT = "lfvd-corpus"
VERSION = 1
MAX_CLASSES = 1000
"""More are names of something else, and take minutes to be counted one by one."""


class CorpusError(InputError):
    """A data file that cannot be used, or does not fit what is asked of it."""


@dataclass(frozen=True, kw_only=True)
class CorpusInfo:
    """Metadata of a corpus."""

    __pydantic_config__: ClassVar[ConfigDict] = CHECKED

    name: str
    """Name of the data set: MELD, IEMOCAP, …"""
    classes: tuple[str, ...]
    """Class names in the order of the labels."""
    dialogues: tuple[str, ...]
    """Dialogue ids."""
    simulated: tuple[str, ...] = ()
    """Names of simulated modalities; every result made from them says so."""
    sources: dict[str, str] = field(default_factory=dict)
    """Source file names → their SHA-256."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the import or simulation, seeds included."""
    length_bins: tuple[int, ...] = ()
    """Upper ends of the dialogue-length bins in which W-F1 is reported; the last bin is open."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Arrays and info of a data set; `features` is keyed l, a, v."""

    info: CorpusInfo
    features: dict[str, np.ndarray]
    label: np.ndarray
    speaker: np.ndarray
    offset: np.ndarray
    split: np.ndarray
    fingerprint: str = ""
    """SHA-256 of the content of the whole file; kept by `restricted` views of it."""

    @classmethod
    def open(cls, path: str | Path) -> Corpus:
        """Map a canonical file. Raises CorpusError where it is missing, foreign, truncated or inconsistent.

        Looks at the small arrays only; `load` looks at every value.
        """
        if not Path(path).is_file():
            raise CorpusError(f"{path}: there is no such file: make it with `lfvd import` or `lfvd simulate`")
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                arrays = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118 (no iterator)
        except (SafetensorError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise CorpusError(f"{path}: is not a whole safetensors file ({error}): import it again") from None
        if FORMAT not in header:
            raise CorpusError(f"{path}: is not a corpus (its header has no `{FORMAT}`): make one with `lfvd import`")
        try:
            values = json.loads(header[FORMAT])
            if (version := values["version"]) == VERSION:
                info = TypeAdapter(CorpusInfo).validate_python(values["info"])
                features = {m: arrays.pop(name) for m, name in MODALITY_NAMES.items() if name in arrays}
                corpus = cls(info=info, features=features, fingerprint=str(values["fingerprint"]), **arrays)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            text = f"its header or arrays are incomplete ({reason(error)}): import the data again"
            raise CorpusError(f"{path}: {text}") from None
        if version != VERSION:
            text = f"`version` is {version}, but this release reads {VERSION}: import the data again"
            raise CorpusError(f"{path}: {text}")
        corpus.check(str(path), features=False)
        return corpus

    @classmethod
    def load(cls, path: str | Path) -> Corpus:
        """Map a canonical file and look at every value. Raises CorpusError, also where the content was changed."""
        corpus = cls.open(path)
        corpus.check_features(str(path))
        if corpus.content_hash() != corpus.fingerprint:
            raise CorpusError(f"{path}: its content does not match its `fingerprint`: import the data again")
        return corpus

    def save(self, path: str | Path) -> Corpus:
        """Check everything and write atomically; returns the corpus with its fingerprint."""
        self.check(str(path))
        done = replace(self, fingerprint=self.content_hash())
        values = {"version": VERSION, "fingerprint": done.fingerprint, "info": asdict(self.info)}
        # One key: safetensors writes several in random order, and the same corpus must give the same bytes.
        header = {FORMAT: json.dumps(values, ensure_ascii=False)}
        with atomic_path(path) as temporary:
            save_file({k: np.ascontiguousarray(v) for k, v in self._arrays().items()}, temporary, metadata=header)
        return done

    def _arrays(self) -> dict[str, np.ndarray]:
        named = {MODALITY_NAMES[m]: x for m, x in self.features.items()}
        return {**named, "label": self.label, "speaker": self.speaker, "offset": self.offset, "split": self.split}

    def content_hash(self) -> str:
        """SHA-256 over all arrays, class names and dialogue ids."""
        digest = hashlib.sha256(json.dumps([self.info.classes, self.info.dialogues]).encode())
        for name, array in sorted(self._arrays().items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def check(self, source: str, *, features: bool = True) -> None:
        """Raises CorpusError for whatever `save` would not write; features: look at their values too."""
        for problems in (self._form_problems(), self._text_problems(), self._value_problems()):
            if found := list(problems):
                raise CorpusError(f"{source}: " + "; ".join(found))
        if features:
            self.check_features(source)

    def _form_problems(self) -> Iterator[str]:
        """Arrays of another type or length."""
        dialogues, utterances = len(self.info.dialogues), self.label.size
        for name, array in self._arrays().items():
            kind, rank = (np.float32, 2) if name in MODALITY_NAMES.values() else (np.int64, 1)
            want = {"offset": dialogues + 1, "split": dialogues}.get(name, utterances)
            if array.dtype != kind or array.ndim != rank:
                yield f"`{name}` is {array.dtype} with {array.ndim} axes, but must be {np.dtype(kind)} with {rank}"
            elif len(array) != want:
                yield f"`{name}` has {len(array)} rows, but must have {want}"
            elif rank == 2 and not array.shape[1]:
                yield f"`{name}` is 0 wide: leave the modality out"
        if not self.features:
            yield "there is no modality: import at least one of language, audio, visual"

    def _text_problems(self) -> Iterator[str]:
        """Names that cannot be told apart, or would steer the terminal on which they are printed; bins that do not rise."""
        info = self.info
        options = [text for pair in info.options.items() for text in pair if isinstance(text, str)]
        for text in (info.name, *info.classes, *info.dialogues, *info.simulated, *info.sources, *options):
            if not text.isprintable():
                yield f"{text!a} holds characters that cannot be printed: rename it in the source"
                break
        if len(info.classes) > MAX_CLASSES:
            yield f"there are {len(info.classes)} classes, but at most {MAX_CLASSES} are read: check the labels"
        for what, names in (("classes", info.classes), ("dialogues", info.dialogues)):
            if len(set(names)) < len(names):
                yield f"two {what} have the same name: rename one in the source"
        if list(info.length_bins) != sorted({*info.length_bins}):
            yield "the length bins do not rise: import the data again"

    def _value_problems(self) -> Iterator[str]:
        """Numbers out of range."""
        utterances, classes = len(self.label), len(self.info.classes)
        if not len(self.split) or self.offset[0] != 0 or self.offset[-1] != utterances:
            yield f"`offset` must run from 0 to {utterances}, the number of utterances"
        elif (empty := np.flatnonzero(np.diff(self.offset) <= 0)).size:
            yield f"dialogue {self.info.dialogues[empty[0]]} has no utterance: leave it out of the source"
        elif (bad := np.flatnonzero((self.label < UNLABELLED) | (self.label >= classes))).size:
            where, rule = self.where(bad[0]), f"labels are 0 to {classes - 1}, or {UNLABELLED} for none"
            yield f"{where} has label {self.label[bad[0]]}, but {rule}: correct it in the source"
        if (self.speaker < 0).any():
            yield "`speaker` must be numbers from 0 up"
        if ((self.split < 0) | (self.split >= len(SPLITS))).any():
            yield "`split` must be 0 (train), 1 (valid) or 2 (test)"

    def check_features(self, source: str, remedy: str = "correct them in the source") -> None:
        """Raises CorpusError for the first NaN or infinite feature value."""
        for modality, flat in self.features.items():
            if (bad := np.flatnonzero(~np.isfinite(flat).all(axis=1))).size:
                where = f"{source}: {MODALITY_NAMES[modality]} features of {self.where(bad[0])} are NaN or infinite"
                raise CorpusError(f"{where} (and of {len(bad) - 1} more utterances), but must be finite: {remedy}")

    def where(self, utterance: int) -> str:
        dialogue = int(np.searchsorted(self.offset, utterance, side="right")) - 1
        return f"dialogue {self.info.dialogues[dialogue]}, utterance {utterance - int(self.offset[dialogue])}"

    def indices(self, split: str) -> np.ndarray:
        """Indices of the dialogues of a split."""
        return np.flatnonzero(self.split == SPLITS.index(split))

    def rows(self, split: str) -> np.ndarray:
        """Indices of the utterances of a split."""
        return np.flatnonzero(np.repeat(self.split, np.diff(self.offset)) == SPLITS.index(split))

    def restricted(self, *splits: str) -> Corpus:
        """A corpus that holds the dialogues of the named splits and nothing of the others."""
        chosen = np.flatnonzero(np.isin(self.split, [SPLITS.index(s) for s in splits]))
        length = np.diff(self.offset)[chosen]
        rows = np.concatenate([np.arange(self.offset[i], self.offset[i + 1]) for i in chosen] or [np.arange(0)])
        return replace(
            self,
            info=replace(self.info, dialogues=tuple(self.info.dialogues[i] for i in chosen)),
            features={m: x[rows] for m, x in self.features.items()},
            label=self.label[rows],
            speaker=self.speaker[rows],
            offset=np.concatenate([[0], np.cumsum(length)]),
            split=self.split[chosen],
        )

    def batch(self, dialogues: Sequence[int] | np.ndarray, modalities: Sequence[str]) -> Batch:
        """Dialogues by index as one padded batch with the named modalities."""
        features = {m: self.features[m] for m in modalities}
        return collate(features, self.speaker, self.label, offset=self.offset, dialogues=dialogues)

    def widths(self, modalities: Sequence[str]) -> dict[str, int]:
        """Feature width of each named modality. Raises CorpusError where the corpus lacks one."""
        for m in modalities:
            if m not in self.features:
                text = f"has no {MODALITY_NAMES[m]} features, but `data.modalities` names {m}"
                remedy = f"import them, or use `--set data.modalities={','.join(self.features)}`"
                raise CorpusError(f"the corpus {self.info.name} {text}: {remedy}")
        return {m: int(self.features[m].shape[1]) for m in modalities}
