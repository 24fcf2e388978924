"""Feature files of this field → Corpus: which layout a file has is seen from its structure, and said.

`lfvd import IEMOCAP_features.pkl --out data/iemocap.safetensors`
`lfvd import iemocap_features_roberta.pkl IEMOCAP_features.pkl --out data/iemocap.safetensors` (text of the first, the rest of the second)
`lfvd import utterances.csv --language text.npy --audio voice.npz --out data/own.safetensors`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lfvd.config import MODALITY_NAMES
from lfvd.data.corpus import Corpus, CorpusError
from lfvd.data.importers.assemble import SIMULATED, ImportOptions, TextLayers, build_corpus
from lfvd.data.importers.datasets import IEMOCAP_CLASSES, MELD_CLASSES, repaired
from lfvd.data.importers.dicts import MODALITY_FILES, feature_source, is_split_dict, split_dict_source
from lfvd.data.importers.json_files import json_source
from lfvd.data.importers.meld_csv import meld_source
from lfvd.data.importers.pickles import load_pickle
from lfvd.data.importers.source import FeatureSource, kind
from lfvd.data.importers.table import table_source
from lfvd.data.importers.tuples import tuple_source
from lfvd.files import atomic_path

__all__ = [
    "IEMOCAP_CLASSES",
    "MELD_CLASSES",
    "SIMULATED",
    "ImportOptions",
    "TextLayers",
    "import_files",
    "repaired",
    "write_sentences",
]

_TABLES = (".csv", ".parquet")
_ARRAYS = (".npy", ".npz")


def import_files(
    paths: Sequence[str | Path], options: ImportOptions, *, classes: Sequence[str] = ()
) -> tuple[Corpus, pd.DataFrame, list[str]]:
    """Read files of any known layout as one corpus, not yet saved.

    Returns it, its sentences (see `write_sentences`) and a line for each feature file that says what it was taken for and why.
    `classes` is for a table of utterances. Raises CorpusError or UnsafePickleError for what is missing, unknown or broken.
    """
    files = _found([Path(path) for path in paths])
    sources, order = _sources(files, options, classes)
    rows = {m: f for m, f in options.features.items() if f == SIMULATED or Path(f).suffix in _ARRAYS}
    left = replace(options, features=rows)
    corpus, sentences = build_corpus(sources, left, order)
    return corpus, sentences, [f"{source}: layout {source.layout}, for it is {source.why}" for source in sources]


def write_sentences(sentences: pd.DataFrame, corpus_path: str | Path) -> Path:
    """Write the sentences (columns dialogue, position, sentence) as `.parquet` beside a corpus file, atomically."""
    path = Path(corpus_path).with_suffix(".parquet")
    with atomic_path(path) as temporary:
        sentences.to_parquet(temporary, index=False)
    return path


def _found(paths: Sequence[Path]) -> list[Path]:
    """The files that are meant: those of a folder in its place; MELD's CSV folder stands for itself."""
    files: list[Path] = []
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else []
        json_there = [f for f in inside if _is_json(f)]
        by_modality = [f for f in inside if f.suffix == ".pkl" and f.name.lower().startswith(tuple(MODALITY_FILES))]
        if not path.exists():
            raise CorpusError(f"{path}: there is no such file: check the path")
        if by_modality and not json_there:
            files += by_modality + [f for f in inside if f.name.lower() == "speakers.pkl"]
        else:
            files += json_there or [path]
    folders = [f for f in files if f.is_dir()]
    if folders and len(files) > 1:
        raise CorpusError(f"{folders[0]}: is a folder without feature files, and takes no other source: name the files")
    if not files:
        raise CorpusError("no source is named: name a feature file, a table of utterances, or MELD's folder of CSVs")
    return files


def _is_json(file: Path) -> bool:
    return ".json" in file.suffixes and file.suffix in (".json", ".feature")


def _sources(
    files: Sequence[Path], options: ImportOptions, classes: Sequence[str]
) -> tuple[list[FeatureSource], np.ndarray | None]:
    """Each file as a source, the JSON files of several splits as one; and the order of rows where one is a table."""
    order: np.ndarray | None = None
    sources: list[FeatureSource] = []
    json_files = tuple(f for f in files if _is_json(f))
    if json_files:
        sources.append(json_source(json_files))
    for file in files:
        if file.is_dir():
            sources.append(meld_source(file))
        elif file.suffix in _TABLES:
            if order is not None:
                raise CorpusError(f"{file}: is a second table of utterances: put all of them in one")
            source, order = table_source(file, classes)
            sources.append(source)
        elif not _is_json(file) and not (json_files and file.name.endswith("_vocab.pkl")):
            sources.append(_pickle_source(file))
    if classes and order is None:
        raise CorpusError(
            f"{files[0]}: --classes is for a table of utterances, and this has classes of its own: leave it out"
        )
    given = {m: Path(f) for m, f in options.features.items() if f != SIMULATED and Path(f).suffix not in _ARRAYS}
    return sources + [feature_source(_unpickled(file), file, m) for m, file in given.items()], order


def _pickle_source(file: Path) -> FeatureSource:
    if file.suffix in _ARRAYS:
        names = " or ".join(f"--{name}" for name in MODALITY_NAMES.values())
        raise CorpusError(f"{file}: holds features of one modality: give it with {names}, and name a source of labels")
    value = _unpickled(file)
    if isinstance(value, list | tuple):
        return tuple_source(value, file)
    if is_split_dict(value):
        return split_dict_source(value, file)
    if isinstance(value, dict):
        return feature_source(value, file)
    raise CorpusError(
        f"{file}: holds a {kind(value)}, but must hold a tuple, list or dict: see the README's table of layouts"
    )


def _unpickled(file: Path) -> Any:
    with file.open("rb") as opened:
        if opened.read(4) == b"PK\x03\x04":
            raise CorpusError(
                f"{file}: is a zip archive, as torch.save writes, and not a pickle: write it with pickle.dump"
            )
    return load_pickle(file)
