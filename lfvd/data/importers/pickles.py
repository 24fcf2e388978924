"""Pickles from strangers, read by a child process with limits that can make nothing but plain data.

`load_pickle("IEMOCAP_features.pkl")`

The child (lfvd.data.child) calls nothing that a file names. It may use memory, time and disk in proportion to the size of the
file. Its output is a temporary file that is mapped here: arrays are views of it, and no pickle comes back.
"""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from lfvd.data import child
from lfvd.files import InputError

MEMORY, SECONDS, OUTPUT = (2**28, 6.0), (10, 2**-23), (2**26, 4.0)
"""What the child may use: bytes of memory, seconds of computing and bytes of output; at first, and for each byte of the file."""


class UnsafePickleError(InputError):
    """A pickle that holds more than plain data, is broken, or would take far more memory or time than its size."""


def load_pickle(path: str | Path) -> Any:
    """What a pickle file holds: lists, tuples, dicts, sets, numbers, text, bytes and numpy arrays.

    Object arrays come as lists, numpy scalars as Python's, torch tensors as arrays, Python 2's text as latin1. Arrays are
    read-only views of a mapped temporary file; `drop_pages` frees their memory. Raises UnsafePickleError for a file that
    names code, is broken or exceeds the limits, OSError where it cannot be read.
    """
    with Path(path).open("rb") as file, tempfile.TemporaryFile() as output:
        if problem := convert(file, output):
            raise UnsafePickleError(f"{path}: {problem}")
        content = mmap.mmap(output.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return _next_value(content)
    except ValueError as error:  # numpy's own limits
        text = f"{path}: announces an array that cannot be ({error}): fetch the file again"
        raise UnsafePickleError(text) from None


def convert(file: IO[bytes], output: IO[bytes]) -> str | None:
    """Let the child write what `file` holds to `output`; returns what is wrong with the file, or None."""
    size = file.seek(0, 2)
    file.seek(0)
    memory, seconds, most = (int(first + each * size) for first, each in (MEMORY, SECONDS, OUTPUT))
    argv = [sys.executable, "-I", "-S", "-c", child.START, child.ROOT, *map(str, (memory, seconds, most))]
    killed = f"takes more than {seconds} s or {memory >> 20} MB, which no feature file does: fetch the file again"
    try:
        done = subprocess.run(argv, stdin=file, stdout=output, stderr=subprocess.PIPE, timeout=60 + 20 * seconds)
    except subprocess.TimeoutExpired:
        return killed
    return done.stderr.decode() if done.returncode == 2 else killed if done.returncode else None


def _next_value(content: mmap.mmap) -> Any:
    """The value that begins at the present place of the child's output."""
    kind, first, *rest = json.loads(content.readline())
    if kind == "value":
        return first
    if kind in ("array", "floats", "bytes"):
        start = content.tell()
        content.seek(first, 1)
        if kind == "bytes":
            return content[start : start + first]
        if kind == "floats":
            return np.frombuffer(content, "<f8", first // 8, start).tolist()
        code, shape, strides = rest
        return np.ndarray(shape, code, content, start, strides) if first else np.empty(shape, code)
    items = first if isinstance(first, list) else [_next_value(content) for _ in range(first)]
    if kind == "dict":
        return dict(zip(items[::2], items[1::2], strict=True))
    return {"list": list, "tuple": tuple, "set": set}[kind](items)


def drop_pages(content: Any) -> None:
    """Free the memory of the mapped file behind an array; what is read again is mapped again."""
    while isinstance(content, np.ndarray | memoryview):
        content = content.base if isinstance(content, np.ndarray) else content.obj
    if isinstance(content, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        content.madvise(mmap.MADV_DONTNEED)
