"""The files of lines in a study's folder, as its one writer adds to them, and their checksums (tune.study.checksums)."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lfvd.files import read_yaml, write_yaml
from tune.study import checksums
from tune.study.checksums import Checksums, Content, DamagedError, Mark, damaged
from tune.study.paths import RECORDS


class RecordFiles:
    """The files of lines of a study, compared with their checksums. Reading changes nothing; the first write begins a session.

    Raises DamagedError where a file is not what was written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        while True:
            before = _sidecar(folder)
            try:
                self.recorded = checksums.read(folder)
                self.contents = {name: self._scan(name) for name in RECORDS}
                break
            except DamagedError:
                if _sidecar(folder) == before:  # else a session wrote meanwhile
                    raise
        self.begun = False
        self._forced: dict[str, Mark] = {}  # what is on the disk
        self._failed: set[str] = set()  # files whose last write was cut short by a full disk

    def _scan(self, name: str) -> Content:
        recorded = self.recorded or Checksums(plan=(), files={}, ended=False)
        return checksums.scan(self.folder / name, recorded.files.get(name, Mark()), ended=recorded.ended)

    @property
    def vouched(self) -> bool:
        """Whether the checksums vouch for every line."""
        return self.recorded is not None and all(each.lines == each.recorded for each in self.contents.values())

    def check_ends(self) -> None:
        """Raises DamagedError where a file ends in lines that are none, which a reader would stumble over."""
        for name, content in self.contents.items():
            if b"\n" in content.torn:
                raise DamagedError(
                    f"{self.folder / name}, line {content.lines + 1}: was cut off by a crash: "
                    f"run `lfvd-tune resume {self.folder.name}`, which removes it"
                )

    def mend(self) -> list[str]:
        """Cut off torn ends → a warning for each. Raises DamagedError where that could hide an evaluation of test."""
        warnings = []
        for name, content in self.contents.items():
            if content.torn:
                path = self.folder / name
                if name == "test_looks.jsonl" and b"\n" in content.torn:
                    raise damaged(path, "is damaged", line=content.lines + 1)
                os.truncate(path, content.size)
                warnings.append(
                    f"{path}: its last line was cut off ({len(content.torn)} bytes): removed, nothing before it is lost"
                )
                content.torn = b""
        return warnings

    def append_unchecked(self, name: str, lines: list[str]) -> None:
        """Add lines before the study was checked: its last session now counts as one that did not end in order."""
        if lines and self.recorded:
            self._save(dataclasses.replace(self.recorded, ended=False))
        if lines:
            with (self.folder / name).open("ab") as file:
                file.write("".join(f"{line}\n" for line in lines).encode())
                file.flush()
                os.fsync(file.fileno())

    def begin(self) -> None:
        """Vouch for what is there, which the caller has checked, and from now on for what is written."""
        if self.begun:
            return
        for name, content in self.contents.items():
            if content.lines > content.recorded:
                _fsync(self.folder / name)
        self._forced = {name: content.mark() for name, content in self.contents.items()}
        plan = self.recorded.plan if self.recorded else ()
        if not plan and (self.folder / "plan.yaml").is_file():
            plan = (checksums.plan_hash(read_yaml(self.folder / "plan.yaml")),)
        self._save(Checksums(plan=plan, files=dict(self._forced), ended=False))
        self.begun = True
        _writers[self.folder.absolute()] = self

    def write_plan(self, frozen: Mapping[str, Any]) -> None:
        """Write plan.yaml."""
        self.begin()
        new = checksums.plan_hash(frozen)
        if self._recorded.plan == (new,):
            write_yaml(self.folder / "plan.yaml", frozen)
        else:
            self._save(dataclasses.replace(self._recorded, plan=(*self._recorded.plan, new)))
            write_yaml(self.folder / "plan.yaml", frozen)
            self._save(dataclasses.replace(self._recorded, plan=(new,)))

    def write(self, name: str, lines: list[str], *, force: bool) -> None:
        """Add whole lines; what a full disk let through of an earlier attempt is cut off first.

        force: not only to the system's memory, which a power cut empties, but to the disk; `save` records it.
        """
        self.begin()
        content = self.contents[name]
        added = "".join(f"{line}\n" for line in lines).encode()
        with os.fdopen(os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
            self._cut(name, file.seek(0, os.SEEK_END), file)
            self._failed.add(name)
            file.seek(content.size)
            file.write(added)
            file.flush()
            if force:
                os.fsync(file.fileno())
        self._failed.discard(name)
        content.add(added, len(lines))
        if force:
            self._forced[name] = content.mark()

    def _cut(self, name: str, size: int, file: Any) -> None:
        """Cut off the half line of an attempt that failed. Raises DamagedError where anything else changed the file."""
        content, path = self.contents[name], self.folder / name
        file.seek(min(content.size, size))
        if size < content.size or (name not in self._failed and b"\n" in file.read()):
            raise damaged(path, f"was changed by another process, from {content.size} to {size} bytes")
        file.truncate(content.size)

    def save(self) -> None:
        """Record what was forced to disk."""
        self._save(dataclasses.replace(self._recorded, files=dict(self._forced)))

    @property
    def _recorded(self) -> Checksums:
        assert self.recorded is not None, "begin() comes first"
        return self.recorded

    def _save(self, recorded: Checksums) -> None:
        if recorded != self.recorded:
            recorded.write(self.folder)
            self.recorded = recorded

    def end(self) -> None:
        """The session ends: all is forced to disk, and nothing more will be written."""
        for name, content in self.contents.items():
            path = self.folder / name
            if (path.stat().st_size if path.is_file() else 0) != content.size:
                return  # another writer, or a full disk: the next session compares it
            if content.size:
                _fsync(path)
        files = {name: content.mark() for name, content in self.contents.items()}
        self._save(dataclasses.replace(self._recorded, files=files, ended=True))


_writers: dict[Path, RecordFiles] = {}
"""Absolute folder of each study that this process writes."""


def end_session(folder: Path) -> None:
    """End what this process wrote to a study. Without room on the disk it stays as a crash would leave it."""
    if (writer := _writers.pop(folder.absolute(), None)) is not None:
        with contextlib.suppress(OSError):
            writer.end()


def _sidecar(folder: Path) -> bytes | None:
    try:
        return (folder / checksums.NAME).read_bytes()
    except FileNotFoundError:
        return None


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
