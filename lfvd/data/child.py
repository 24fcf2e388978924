"""Child process that reads a pickle within limits; lfvd.data.importers.pickles starts it, and imports nothing heavy there.

`python -I -S -c START ROOT MEMORY SECONDS OUTPUT < features.pkl > content`

The output is a tree in prefix order: a line of JSON for each value, then the items of a container or the bytes of an array.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from array import array
from pathlib import Path
from typing import Any, BinaryIO

from lfvd.data.stand_ins import Array, Name, Refused, Unpickler, as_bytes, short_repr

START = "import sys; sys.path.append(sys.argv.pop(1)); from lfvd.data.child import main; main()"
ROOT = str(Path(__file__).parents[2])
MAX_LINES = 1_000_000
"""Most lines of the output, shared values counted each time; the largest published file has a tenth."""
MAX_DEPTH = 50
"""Most containers inside one another; published files have four."""
MAX_UNLIMITED = 2**29
"""Bytes of the largest file that is read where the platform cannot limit the memory of a process."""
TOO_LARGE = "takes far more memory than its size, which no feature file does: fetch the file again"
_JSON = {type(None), bool, int, float, str}


class Writer:
    """Writes lines of JSON and raw bytes. A shared value is written each time, so that its reader needs no limits."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.lines = file, 0

    def write(self, value: Any, depth: int = 0) -> None:
        """Raises Refused for what is no plain data, lies too deep or is too much."""
        if isinstance(value, Array) and value.items is not None:
            value = value.items
        if isinstance(value, list | tuple | set | frozenset | dict):
            self._container(value, depth)
        elif isinstance(value, Array) and value.dtype is not None:
            data, code = as_bytes(value.data), value.dtype.order + value.dtype.code
            self._line("array", len(data), code, value.shape, value.strides, data=data)
        elif isinstance(value, bytes | bytearray):
            self._line("bytes", len(value), data=value)
        elif type(value) in _JSON:
            self._line("value", value)
        else:
            what = value.name if isinstance(value, Name) else short_repr(value)
            raise Refused(f"holds {what}, which is no plain data: write arrays, lists and dicts only")

    def _line(self, kind: str, *parts: Any, data: bytes | bytearray = b"") -> None:
        self.lines += 1
        if self.lines > MAX_LINES:
            raise Refused(f"holds more than {MAX_LINES} objects, which no feature file does: write arrays, not lists")
        self.file.write(json.dumps([kind, *parts]).encode() + b"\n")
        self.file.write(data)

    def _container(self, value: Any, depth: int) -> None:
        """Items in one line where they are JSON's own, else one after another; a dict as keys and values in turn."""
        if depth == MAX_DEPTH:
            raise Refused(f"is nested more than {MAX_DEPTH} deep, which no feature file is: write it flatter")
        for key in () if isinstance(value, list | tuple) else value:
            if not isinstance(key, str | bytes | None) and not (type(key) in _JSON and abs(key) < 2**53):
                what = f"{short_repr(key)} as a key"
                raise Refused(f"has {what}, but keys must be text or numbers below 2^53: name dialogues so")
        items = [part for pair in value.items() for part in pair] if isinstance(value, dict) else list(value)
        kinds, name = set(map(type, items)), type(value).__name__.removeprefix("frozen")
        if name == "list" and kinds == {float}:
            self._line("floats", 8 * len(items), data=array("d", items).tobytes())
        elif kinds <= _JSON:
            self._line(name, items)
        else:
            self._line(name, len(items))
            for item in items:
                self.write(item, depth + 1)


def convert(source: Any, target: BinaryIO, *, limited: bool = True) -> str | None:
    """Write the content of a pickle; returns what is wrong with the file, or None.

    limited: whether the platform limits the memory of this process; where not, large files are refused.
    """
    if not limited and (size := os.fstat(source.fileno()).st_size) > MAX_UNLIMITED:
        return (
            f"has {size} bytes, but this platform cannot limit the memory of a process, so that at most {MAX_UNLIMITED} "
            "are read: import it on Linux"
        )
    if source.peek(4).startswith(b"PK\x03\x04"):
        return "is a zip archive, as torch.save writes, and not a pickle: write it with pickle.dump"
    try:
        Writer(target).write(Unpickler(source).load())
        target.flush()
    except Refused as error:
        return str(error)
    except OSError as error:
        if error.errno != errno.EFBIG:
            return f"cannot be copied to the temporary folder ({error.strerror}): free some room there, or set TMPDIR"
        return TOO_LARGE
    except MemoryError:
        return TOO_LARGE
    except Exception as error:
        why = (str(error) or type(error).__name__).splitlines()[0][:200]
        return f"is cut off, damaged or not a pickle ({why}): fetch the file again"
    return None


def set_limits(memory: int, seconds: int, output: int) -> bool:
    """Limit this process as far as the platform does, which may refuse to (macOS) → whether its memory is limited."""
    try:
        import resource
    except ImportError:
        return False
    limited = True
    for name, limit in {"AS": memory, "CPU": seconds, "FSIZE": output, "CORE": 0}.items():
        key = getattr(resource, f"RLIMIT_{name}")
        most = resource.getrlimit(key)[1]  # which a cluster or a shell may have set before
        limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
        try:
            resource.setrlimit(key, (limit, limit))
        except (ValueError, OSError):
            limited &= name != "AS"
    return limited


def main() -> None:
    """Limit this process, then convert standard input; exit 2 with a sentence on standard error where it is refused."""
    limited = set_limits(*map(int, sys.argv[1:]))
    if problem := convert(sys.stdin.buffer, sys.stdout.buffer, limited=limited):
        sys.stderr.write(ascii(problem)[1:-1] if not problem.isascii() else problem)
        sys.stderr.flush()
        os._exit(2)  # what is left of the output is not written
