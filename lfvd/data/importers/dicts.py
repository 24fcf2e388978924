"""Feature files that are one pickled dict: C (`data_iemocap.pkl`) and E (`TextFeatures.pkl` and its kin)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lfvd.data.corpus import CorpusError
from lfvd.data.importers.datasets import IEMOCAP, MELD
from lfvd.data.importers.source import FeatureSource, Values, by_dialogue, dialogue_id, kind

_SPLITS = {"train": "train", "dev": "valid", "valid": "valid", "val": "valid", "test": "test"}
_FEATURES = {"text": "l", "audio": "a", "visual": "v"}
MODALITY_FILES = {"text": "l", "language": "l", "audio": "a", "visual": "v", "video": "v"}
"""How the file of one modality begins, in lower case → modality."""


def is_split_dict(value: Any) -> bool:
    """Layout C: {train, dev, test} → list of dialogues."""
    return isinstance(value, dict) and {"train", "test"} <= set(value) <= set(_SPLITS)


def split_dict_source(value: Mapping[str, Any], file: Path) -> FeatureSource:
    """C: each dialogue a dict with vid, speakers, labels, audio, visual, text, sentence. Raises CorpusError."""
    found: dict[str, Values] = {name: {} for name in ("labels", "speakers", "sentence", *_FEATURES)}
    splits: dict[str, tuple[str, ...]] = {}
    for split, dialogues in value.items():
        if not isinstance(dialogues, list | tuple):
            raise CorpusError(f"{file}: {split} is a {kind(dialogues)}, but must be a list of dialogues: export it so")
        ids: list[str] = []
        for i, dialogue in enumerate(dialogues):
            where = f"{file}: {split}, dialogue {i}"
            key = _vid(dialogue, where)
            if key in found["labels"]:
                raise CorpusError(f"{where}: its vid {key} came before, but must be its own: correct it")
            ids.append(key)
            for name in found:
                if name in dialogue:
                    found[name][key] = dialogue[name]
        if ids or _SPLITS[split] != "valid":
            splits[_SPLITS[split]] = tuple(ids)
    return FeatureSource(
        layout="C",
        why="a dict of train and test, each a list of dialogues",
        files=(file,),
        dataset=MELD if all(i.isdecimal() for i in found["labels"]) else IEMOCAP,
        features={m: (found[name],) for name, m in _FEATURES.items() if found[name]},
        splits=splits,
        labels=found["labels"],
        speakers=found["speakers"],
        sentences=found["sentence"],
    )


def _vid(dialogue: Any, where: str) -> str:
    if not isinstance(dialogue, dict):
        raise CorpusError(
            f"{where} is a {kind(dialogue)}, but must be a dict with vid, speakers, labels and features: export it so"
        )
    for name in ("vid", "speakers", "labels"):
        if name not in dialogue:
            raise CorpusError(f"{where}: has no `{name}`, but must have vid, speakers and labels: add it")
    return dialogue_id(dialogue["vid"], where)


def feature_source(value: Any, file: Path, modality: str | None = None) -> FeatureSource:
    """E: dialogue id → vectors of one modality, told by the file's name where `modality` is not given. Raises CorpusError."""
    named = next((m for start, m in MODALITY_FILES.items() if file.name.lower().startswith(start)), None)
    chosen = modality or named
    if chosen is None:
        raise CorpusError(
            f"{file}: holds features of one modality, but its name does not say which: give it with --language, --audio or --visual"
        )
    values = by_dialogue(value, str(file))
    if not values:
        raise CorpusError(f"{file}: is an empty dict, but must hold dialogues: fetch it again")
    return FeatureSource(
        layout="E",
        why=f"a dict by dialogue, {'given as' if modality else 'named as'} {['language', 'audio', 'visual']['lav'.index(chosen)]}",
        files=(file,),
        dataset=MELD if all(i.isdecimal() for i in values) else IEMOCAP,
        features={chosen: (values,)},
    )
