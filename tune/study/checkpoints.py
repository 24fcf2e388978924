"""Where checkpoints lie: a folder that all nodes share, an object store (s3://…, gs://…), or else each node's own disk."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow import fs

from lfvd.files import InputError, reason


def parse(storage: str | Path) -> str:
    """A `--storage` as the trials use it: an address, or an absolute path. Raises InputError for an unknown address."""
    text = str(storage)
    if "://" not in text:
        return str(Path(text).absolute())
    try:
        _system(text)
    except (ValueError, OSError) as error:
        raise InputError(
            f"--storage {text}: is no place for checkpoints ({reason(error)}): name a folder that all nodes share, s3://… or gs://…"
        ) from None
    return text


def node_local_folder(study: Path) -> str:
    """A folder on a node's own disk for a study's checkpoints, named alike on all nodes, apart for users and studies."""
    mark = hashlib.sha256(str(study.absolute()).encode()).hexdigest()[:12]
    return str(_own_disk() / f"{study.name}-{mark}")


def _own_disk() -> Path:
    return Path(tempfile.gettempdir()) / f"lfvd-tune-{os.getuid()}"


def clear(folder: str) -> None:
    """On a node: remove a finished study's checkpoints from its own disk."""
    shutil.rmtree(folder, ignore_errors=True)


_last: list[str] = []


def leave_behind(place: str) -> None:
    """Called by a worker with its next checkpoint: the last one, on this node's own disk, has served.

    The driver removes those in a shared place itself; it cannot reach these.
    """
    while _last:
        if (last := _last.pop()) != place and Path(last).is_relative_to(_own_disk()):
            Path(last).unlink(missing_ok=True)
    _last.append(place)


def join(storage: str, name: str) -> str:
    """A file in a storage."""
    address, mark, options = storage.partition("?")  # such as endpoint_override
    return f"{address}/{name}{mark}{options}"


def touch(place: str) -> None:
    """Put an empty file at a place."""
    if "://" not in place:
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).touch()
        return
    system, path = _open(place)
    if system.type_name in ("local", "subtree"):
        system.create_dir(str(Path(path).parent))
    system.open_output_stream(path).close()


def exists(place: str) -> bool:
    """Whether a file lies at a place."""
    if "://" not in place:
        return Path(place).is_file()
    system, path = _open(place)
    return bool(system.get_file_info(path).type == fs.FileType.File)


def delete(place: str) -> None:
    """Remove a checkpoint, if there is one."""
    if "://" not in place:
        Path(place).unlink(missing_ok=True)
        return
    if exists(place):
        system, path = _open(place)
        system.delete_file(path)


@contextmanager
def local(place: str) -> Iterator[tuple[Path, Callable[[], None]]]:
    """The file that a run keeps its checkpoint in, and what brings it to its place after each epoch.

    A path is that file itself. For an address, it is a copy on this node's disk, fetched where there is one.
    """
    if "://" not in place:
        yield Path(place), lambda: None
        return
    system, path = _open(place)
    with tempfile.TemporaryDirectory(prefix="lfvd-tune-") as scratch:
        file = Path(scratch) / "checkpoint.pt"
        if exists(place):
            _copy(system, path, fs.LocalFileSystem(), str(file))
        uploaded = 0

        def upload() -> None:
            nonlocal uploaded
            if (changed := file.stat().st_mtime_ns) != uploaded:
                _put(file, system, path)
                uploaded = changed

        yield file, upload


def _put(file: Path, system: fs.FileSystem, path: str) -> None:
    """Bring a file to its place: whole, or not at all."""
    if system.type_name in ("local", "subtree"):
        system.create_dir(str(Path(path).parent))
        _copy(fs.LocalFileSystem(), str(file), system, f"{path}.part")
        system.move(f"{path}.part", path)
    else:  # object stores show a file once it is whole
        _copy(fs.LocalFileSystem(), str(file), system, path)


def _open(place: str) -> tuple[fs.FileSystem, str]:
    address, mark, options = place.partition("?")
    root, name = address.rsplit("/", 1)
    system, path = _system(f"{root}{mark}{options}")
    return system, f"{path}/{name}"


@functools.cache  # finding a bucket's region takes a request
def _system(storage: str) -> tuple[fs.FileSystem, str]:
    system, path = fs.FileSystem.from_uri(storage)
    return system, path


def _copy(source: fs.FileSystem, path: str, target: fs.FileSystem, to: str) -> None:
    fs.copy_files(path, to, source_filesystem=source, destination_filesystem=target, use_threads=False)
