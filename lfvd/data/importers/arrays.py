"""Features in order of rows: a `.npy` of one array, or an `.npz` of one array or of one a split. Nothing in them is unpickled."""

from __future__ import annotations

import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lfvd.data.corpus import CorpusError
from lfvd.data.importers.source import SPLIT_NAMES
from lfvd.files import reason

_SMALL = 64 * 2**20
_MAX_RATIO = 100  # real features pack 5 to 1 at best, zeros alone 1000 to 1
_BROKEN: tuple[type[Exception], ...] = (
    *(OSError, ValueError, EOFError, MemoryError, TypeError, SyntaxError, KeyError, OverflowError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError),
)
"""What numpy and zipfile raise for damaged files."""


def row_features(file: Path, rows: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Split → [rows, width], or "" → all rows in order, as the file has them. `rows`: split → rows it must have.

    Raises CorpusError for a file that is missing, damaged, holds objects, or has other rows.
    """
    arrays = _arrays(file)
    parts = {SPLIT_NAMES[name]: part for name, part in arrays.items() if name in SPLIT_NAMES}
    need = {split: count for split, count in rows.items() if count}
    if not parts and len(arrays) == 1:
        parts, need = {"": next(iter(arrays.values()))}, {"": sum(rows.values())}
    for split, count in need.items():
        if split not in parts:
            keys = ", ".join(need)
            raise CorpusError(f"{file}: there is no key `{split}`, but it must hold {keys}, or one array: add it")
        where, part = f"{file}: `{split}`" if split else str(file), parts[split]
        if part.dtype.kind not in "fiu":
            raise CorpusError(f"{where} holds {part.dtype}, but must hold real numbers: convert it to float32")
        if part.ndim != 2 or part.shape[1] == 0:
            raise CorpusError(f"{where} has shape {part.shape}, but must be [rows, width]: reshape it")
        if len(part) != count:
            rule = f"there are {count} utterances: extract the features from those"
            raise CorpusError(f"{where} has {len(part)} rows, but {rule}")
    if len(widths := {parts[split].shape[1] for split in need}) > 1:
        raise CorpusError(f"{file}: the widths are {sorted(widths)}, but must be equal: use one extractor for all")
    return {split: parts[split] for split in need}


def _arrays(file: Path) -> dict[str, np.ndarray]:
    """What the file holds; a lone array has the name "". Raises CorpusError where it is damaged or would fill memory."""
    try:
        if file.suffix == ".npy":
            with np.errstate(over="ignore"):  # of a shape beyond 64 bits, which is then refused
                return {"": np.load(file, mmap_mode="r", allow_pickle=False)}
        with zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > _SMALL + _MAX_RATIO * file.stat().st_size:
            raise ValueError(f"{size} bytes are announced in {file.stat().st_size}")
        # np.load by name leaves the file open where the archive is broken.
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as loaded:
            return {name: np.asarray(array) for name, array in loaded.items()}
    except FileNotFoundError:
        raise CorpusError(f"{file}: there is no such file: check the path") from None
    except _BROKEN as error:
        text = f"is not a .npy or .npz of plain arrays ({reason(error)}): write it with numpy.save or savez"
    raise CorpusError(f"{file}: {text}")
