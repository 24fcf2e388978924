"""Feature files of this field → Corpus: which layout a file has is seen from its structure, and said.

`lfvd import IEMOCAP_features.pkl --out data/iemocap.safetensors`
`lfvd import iemocap_features_roberta.pkl IEMOCAP_features.pkl --out data/iemocap.safetensors` (text of the first, the rest of the second)
`lfvd import utterances.csv --language text.npy --audio voice.npz --out data/own.safetensors`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from lfvd.config import MODALITY_NAMES
from lfvd.data.corpus import Corpus, CorpusError
from lfvd.data.importers.assemble import SIMULATED, ImportOptions, build_corpus
from lfvd.data.importers.json_files import json_source
from lfvd.data.importers.layouts import MODALITY_FILES, feature_source, pickle_source
from lfvd.data.importers.pickles import load_pickle
from lfvd.data.importers.source import FeatureSource
from lfvd.data.importers.table import meld_source, table_source
from lfvd.files import atomic_path

__all__ = ["ImportOptions", "import_files", "write_sentences"]

_TABLES = (".csv", ".parquet")
_ARRAYS = (".npy", ".npz")


def import_files(
    paths: Sequence[str | Path], options: ImportOptions, *, classes: Sequence[str] = ()
) -> tuple[Corpus, pd.DataFrame, list[str]]:
    """Read files of any known layout as one corpus, not yet saved.

    Returns it, its sentences (see `write_sentences`) and a line for each source that says what it was taken for.
    `classes` is for a table of utterances. Raises CorpusError or UnsafePickleError for what is missing, unknown or broken.
    """
    sources = _sources(_found([Path(path) for path in paths]), options, classes)
    rows = {m: f for m, f in options.features.items() if f == SIMULATED or Path(f).suffix in _ARRAYS}
    corpus, sentences = build_corpus(sources, replace(options, features=rows))
    return corpus, sentences, [f"{source}: layout {source.layout} of {source.dataset.name}" for source in sources]


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


def _sources(files: Sequence[Path], options: ImportOptions, classes: Sequence[str]) -> list[FeatureSource]:
    """Each file as a source, the JSON files of several splits as one."""
    json_files = tuple(f for f in files if _is_json(f))
    sources = [json_source(json_files)] if json_files else []
    for file in files:
        if file.is_dir():
            sources.append(meld_source(file))
        elif file.suffix in _TABLES:
            sources.append(table_source(file, classes))
        elif file.suffix in _ARRAYS:
            names = " or ".join(f"--{name}" for name in MODALITY_NAMES.values())
            raise CorpusError(
                f"{file}: holds features of one modality: give it with {names}, and name a file of labels"
            )
        elif not _is_json(file) and not (json_files and file.name.endswith("_vocab.pkl")):
            sources.append(pickle_source(load_pickle(file), file))
    tables = [source for source in sources if source.layout == "table"]
    if len(tables) > 1:
        raise CorpusError(f"{tables[1]}: is a second table of utterances: put all of them in one")
    if classes and not tables:
        raise CorpusError(f"{files[0]}: --classes is for a table, and this has classes of its own: leave it out")
    given = {m: Path(f) for m, f in options.features.items() if f != SIMULATED and Path(f).suffix not in _ARRAYS}
    return sources + [feature_source(load_pickle(file), file, m) for m, file in given.items()]
