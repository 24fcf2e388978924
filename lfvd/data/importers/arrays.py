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

_KEYS = {"train": ("train",), "valid": ("valid", "dev", "val"), "test": ("test",)}
_SMALL = 64 * 2**20
_MAX_RATIO = 100  # real features pack 5 to 1 at best, zeros alone 1000 to 1
BROKEN: tuple[type[Exception], ...] = (
    *(OSError, ValueError, EOFError, MemoryError, TypeError, SyntaxError, KeyError, OverflowError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError),
)
"""What numpy and zipfile raise for damaged files."""


def row_features(file: Path, rows: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Split → [rows, width], or "" → all rows in order, as the file has them. `rows`: split → rows it must have.

    Raises CorpusError for a file that is missing, damaged, holds objects, or has other rows.
    """
    arrays = _arrays(file)
    found = {split: next((arrays[k] for k in keys if k in arrays), None) for split, keys in _KEYS.items()}
    if len(arrays) == 1 and all(part is None for part in found.values()):
        parts, need = {"": next(iter(arrays.values()))}, {"": sum(rows.values())}
    else:
        need = {split: count for split, count in rows.items() if count}
        for split in need:
            if found[split] is None:
                raise CorpusError(
                    f"{file}: there is no key `{split}`, but it must hold {', '.join(need)}, or one array: add it"
                )
        parts = {split: part for split, part in found.items() if part is not None and split in need}
    for name, part in parts.items():
        _check(f"{file}: `{name}`" if name else str(file), part, need[name])
    widths = {part.shape[1] for part in parts.values()}
    if len(widths) > 1:
        raise CorpusError(f"{file}: the widths are {sorted(widths)}, but must be equal: use one extractor for all")
    return parts


def npz_arrays(file: Path) -> dict[str, np.ndarray]:
    """All arrays of an `.npz`. Raises one of BROKEN where it is damaged, holds something else, or would fill memory."""
    with zipfile.ZipFile(file) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > _SMALL + _MAX_RATIO * file.stat().st_size:
        raise ValueError(f"{size} bytes are announced in {file.stat().st_size}")
    # np.load by name leaves the file open where the archive is broken.
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as loaded:
        arrays = dict(loaded)
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise ValueError("a member is no array")
    return arrays


def _arrays(file: Path) -> dict[str, np.ndarray]:
    """What the file holds; a lone array has the name ""."""
    try:
        if file.suffix == ".npy":
            with np.errstate(over="ignore"):  # of a shape beyond 64 bits, which is then refused
                return {"": np.load(file, mmap_mode="r", allow_pickle=False)}
        return npz_arrays(file)
    except FileNotFoundError:
        raise CorpusError(f"{file}: there is no such file: check the path") from None
    except BROKEN as error:
        reason = " ".join(str(error).split())[:200]
    raise CorpusError(f"{file}: is not a .npy or .npz of plain arrays ({reason}): write it with numpy.save or savez")


def _check(where: str, part: np.ndarray, rows: int) -> None:
    if part.dtype.kind not in "fiu":
        raise CorpusError(f"{where} holds {part.dtype}, but must hold real numbers: convert it to float32")
    if part.ndim != 2 or part.shape[1] == 0:
        raise CorpusError(f"{where} has shape {part.shape}, but must be [rows, width]: reshape it")
    if len(part) != rows:
        raise CorpusError(
            f"{where} has {len(part)} rows, but there are {rows} utterances: extract the features from those"
        )
