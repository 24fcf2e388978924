"""Child process that reads a pickle or a JSON list within limits; `lfvd.data.importers.pickles` starts it.

`python -I -S child.py pickle MEMORY SECONDS OUTPUT < features.pkl > content`

The output is a tree in prefix order: a line of JSON for each value, then the items of a container or the bytes of an array.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import re
import runpy
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from lfvd.data.importers.stand_ins import Array, Encoded, Name, Refused, Unpickler, raw_bytes
else:  # without the package, whose import would take seconds
    _file = runpy.run_path(str(Path(__file__).with_name("stand_ins.py")))
    Array, Encoded, Name = _file["Array"], _file["Encoded"], _file["Name"]
    Refused, Unpickler, raw_bytes = _file["Refused"], _file["Unpickler"], _file["raw_bytes"]

MAX_LINES = 1_000_000
"""Most lines of the output, shared values counted each time; the largest published file has a tenth."""
MAX_DEPTH = 50
"""Most containers inside one another; published files have four."""
MAX_UNLIMITED = 2**29
"""Bytes of the largest file that is read where the platform cannot limit the memory of a process."""
TOO_LARGE = "takes far more memory than its size, which no feature file does: fetch the file again"
_JSON = {type(None), bool, int, float, str}


class Once(dict[str, Any]):
    """A JSON object that knows whether a key was given twice; an error raised here would be lost in ijson."""

    twice = False

    def __setitem__(self, key: str, value: Any) -> None:
        self.twice |= key in self
        super().__setitem__(key, value)

    @classmethod
    def of(cls, pairs: list[tuple[str, Any]]) -> Once:
        """The object of these pairs."""
        found = cls()
        for key, value in pairs:
            found[key] = value
        return found


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
            data, code = raw_bytes(value.data), value.dtype.order + value.dtype.code
            self._line("array", len(data), code, value.shape, value.strides, data=data)
        elif isinstance(value, bytes | bytearray | Encoded):
            self._line("bytes", len(data := raw_bytes(value)), data=data)
        elif type(value) in _JSON:
            self._line("value", value)
        else:
            what = value.name if isinstance(value, Name) else f"a {type(value).__name__}"
            raise Refused(f"holds {what}, which is no plain data: write arrays, lists and dicts only")

    def _line(self, kind: str, *parts: Any, data: bytes = b"") -> None:
        self.lines += 1
        if self.lines > MAX_LINES:
            raise Refused(f"holds more than {MAX_LINES} objects, which no feature file does: write arrays, not lists")
        self.file.write(json.dumps([kind, *parts]).encode() + b"\n")
        self.file.write(data)

    def _container(self, value: Any, depth: int) -> None:
        """Items in one line where they are JSON's own, else one after another; a dict as keys and values in turn."""
        if depth == MAX_DEPTH:
            raise Refused(f"is nested more than {MAX_DEPTH} deep, which no feature file is: write it flatter")
        if isinstance(value, Once) and value.twice:
            raise Refused("has a key that stands twice in one object: keep one")
        if not isinstance(value, list | tuple):
            for key in value:
                if not isinstance(key, str | bytes | None) and not (type(key) in _JSON and abs(key) < 2**53):
                    what = f"a key that is a {type(key).__name__} or huge"
                    raise Refused(f"has {what}, but keys must be text or numbers: name dialogues so")
        items = [part for pair in value.items() for part in pair] if isinstance(value, dict) else list(value)
        kinds = set(map(type, items))
        name = next((kind.__name__ for kind in (list, tuple, dict) if isinstance(value, kind)), "set")
        if name == "list" and kinds == {float}:
            self._line("floats", 8 * len(items), data=array("d", items).tobytes())
        elif kinds <= _JSON:
            self._line(name, items)
        else:
            self._line(name, len(items))
            for item in items:
                self.write(item, depth + 1)


def _json_items(source: Any) -> Iterator[Any]:
    """Items of a JSON list one by one; by Python's reader where it holds NaN or Infinity, which JSON does not know."""
    import ijson  # type: ignore[import-untyped]

    if source.peek(1).lstrip()[:1] != b"[":
        raise ValueError("it is no list")
    with mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as text:
        strict = text.find(b"NaN") < 0 and text.find(b"Infinity") < 0
    if strict:
        yield from ijson.items(source, "item", use_float=True, map_type=Once)
        return
    text, decoder = source.read().decode().rstrip(), json.JSONDecoder(object_pairs_hook=Once.of)
    place, following = len(text) - len(text.lstrip().removeprefix("[").lstrip()), re.compile(r"\s*(,|\]\Z)\s*")
    while place != len(text) - 1 or text[place] != "]":
        item, place = decoder.raw_decode(text, place)
        yield item
        found = following.match(text, place)
        if found is None:
            raise ValueError(f"neither a comma nor the end of the list at character {place}")
        if found[1] == "]":
            return
        place = found.end()


def convert(kind: str, source: Any, target: BinaryIO, *, limited: bool = True) -> str | None:
    """Write the content of a pickle, or the items of a JSON list; returns what is wrong with the file, or None.

    limited: whether the platform limits the memory of this process; where not, large files are refused.
    """
    if not limited and (size := os.fstat(source.fileno()).st_size) > MAX_UNLIMITED:
        return (
            f"has {size} bytes, but this platform cannot limit the memory of a process, so that at most {MAX_UNLIMITED} "
            "are read: import it on Linux"
        )
    writer = Writer(target)
    try:
        if kind == "pickle":
            writer.write(Unpickler(source).load())
        else:
            for item in _json_items(source):
                writer.write(item)
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
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        form = "a pickle" if kind == "pickle" else "a JSON list of dialogues"
        return f"is cut off, damaged or not {form} ({reason}): fetch the file again"
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
    kind, *limits = sys.argv[1:]
    limited = set_limits(*map(int, limits))
    if problem := convert(kind, sys.stdin.buffer, sys.stdout.buffer, limited=limited):
        sys.stderr.write(ascii(problem)[1:-1] if not problem.isascii() else problem)
        sys.stderr.flush()
        os._exit(2)  # what is left of the output is not written


if __name__ == "__main__":
    main()
