"""`lfvd-tune repair`: rebuilds what the other files of a damaged study tell, and says what is lost. All is changed, or nothing."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lfvd.files import read_yaml, write_bytes
from tune.study import checksums
from tune.study.checksums import Checksums, Content, DamagedError, Mark
from tune.study.jsonl import is_record, is_sealed
from tune.study.lock import hold_lock
from tune.study.paths import RECORDS
from tune.study.salvage import salvage_confirmed, salvage_epochs, salvage_lines
from tune.study.study import Study


class CannotRepairError(DamagedError):
    """What is lost is in no other file."""


def cannot(path: Path, why: str) -> CannotRepairError:
    """The error for a file."""
    return CannotRepairError(f"{path}: {why}: restore it from a copy; nothing was changed")


def repair(folder: Path, open_study: Callable[[Path], Study]) -> list[str]:
    """Repair a study, the old files kept beside → sentences on what was done and what is gone.

    open_study: opens the kind of study that it is. Raises CannotRepairError, LockedError where a session is at work.
    """
    with hold_lock(folder), tempfile.TemporaryDirectory(prefix="lfvd-tune-") as scratch:
        found = _Repair(folder, Path(scratch) / folder.name, open_study)
        try:
            found.run()
        except CannotRepairError:
            raise
        except DamagedError as error:  # of the draft
            what = str(error).replace(str(found.draft), str(folder)).partition(": restore")[0]
            raise CannotRepairError(f"{what}: restore it from a copy; nothing was changed") from None
        return found.said


@dataclass
class _Repair:
    """folder: the study; draft: where its files are rebuilt and opened before any of them is replaced."""

    folder: Path
    draft: Path
    open_study: Callable[[Path], Study]
    recorded: Checksums | None = None
    said: list[str] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)
    """What the study's files will hold."""

    def run(self) -> None:
        self.draft.mkdir()
        if not (self.folder / "plan.yaml").is_file():
            raise cannot(self.folder / "plan.yaml", "is missing, and no other file holds the plan")
        shutil.copy(self.folder / "plan.yaml", self.draft)
        try:
            self.recorded = checksums.read(self.folder)
            missing = "is missing"
        except DamagedError:
            missing = "is damaged"
        if self.recorded is None:
            self.said.append(f"{checksums.NAME}: {missing}: written anew")
        damaged = [name for name in RECORDS if not self._take(name)]
        if not damaged and self._opens():
            if not self.said:
                self.said.append("nothing is damaged")
                return
        else:
            self._rebuild(damaged or ["epochs.jsonl", "confirm.jsonl"])
        self._write_draft()
        self.open_study(self.draft)
        self._replace()

    def _mark(self, name: str) -> Mark:
        return self.recorded.files.get(name, Mark()) if self.recorded else Mark()

    def _take(self, name: str) -> bool:
        """Take over a file that is as it was written, without a torn end; False for another."""
        path, ended = self.folder / name, bool(self.recorded and self.recorded.ended)
        try:
            content = checksums.scan(path, self._mark(name), ended=ended)
        except DamagedError:
            return False
        if name == "test_looks.jsonl" and b"\n" in content.torn:
            return False
        if path.is_file():
            self.texts[name] = path.read_bytes()[: content.size]
        if content.torn:
            self.said.append(f"{name}: its end, {len(content.torn)} bytes after line {content.lines}, is removed")
        return True

    def _opens(self) -> bool:
        """Whether the study opens as it is; one without checksums is compared file by file."""
        for name, text in self.texts.items():
            (self.draft / name).write_bytes(text)
        if self.recorded is not None:
            shutil.copy(self.folder / checksums.NAME, self.draft)
        try:
            self.open_study(self.draft)
        except DamagedError:
            if self.recorded is None:
                raise
            return False
        return True

    def _rebuild(self, damaged: list[str]) -> None:
        """Rebuild the damaged files of lines."""
        for name, why in (
            ("journal.log", "is damaged, and no other file holds the values of the trials"),
            ("test_looks.jsonl", "is damaged, and no other file holds what was evaluated on test"),
        ):
            if name in damaged:
                self._keep_recorded(name, why)
        self._write_draft(only=("journal.log",))
        study = self.open_study(self.draft)
        evaluated = bool(self.texts.get("test_looks.jsonl"))
        old = {name: self._bytes(name) for name in RECORDS}
        if "epochs.jsonl" in damaged:
            self.texts["epochs.jsonl"] = self._salvaged(
                "epochs.jsonl", salvage_epochs(study, old["epochs.jsonl"], old["confirm.jsonl"]), evaluated=False
            )
        if "confirm.jsonl" in damaged:
            found = salvage_confirmed(study, old["confirm.jsonl"], self.texts.get("epochs.jsonl", b""), self.folder)
            self.texts["confirm.jsonl"] = self._salvaged("confirm.jsonl", found, evaluated)
        if "faults.jsonl" in damaged:
            self.texts["faults.jsonl"] = self._salvaged("faults.jsonl", salvage_lines(old["faults.jsonl"]), evaluated)

    def _salvaged(self, name: str, found: tuple[list[bytes], str], evaluated: bool) -> bytes:
        """Lines of a file and a sentence on it → its content. evaluated: test was, on the ground of all lines that it had."""
        lines, sentence = found
        if (first := self._bytes(name).partition(b"\n")[0]) and is_record(first) and not is_sealed(first):
            raise cannot(self.folder / name, "is damaged, and lines of an older version have no checksum of their own")
        lost = self._mark(name).lines - len(lines)
        if evaluated and (lost > 0 or self.recorded is None):
            raise cannot(
                self.folder / name,
                f"lacks {lost} lines that cannot be rebuilt, and another ranking would evaluate test again",
            )
        held = (
            f"{len(lines)} of {self._mark(name).lines} lines are kept"
            if self.recorded
            else f"{len(lines)} lines are kept"
        )
        self.said.append(f"{name}: {held}{sentence}")
        return b"".join(line + b"\n" for line in lines)

    def _keep_recorded(self, name: str, why: str) -> None:
        """Keep what the checksums vouch for, where only more follows."""
        text, mark = self._bytes(name), self._mark(name)
        if self.recorded is None or Content().of(text[: mark.bytes]) != mark:
            raise cannot(self.folder / name, why)
        self.texts[name] = text[: mark.bytes]
        self.said.append(f"{name}: what follows line {mark.lines}, the last that the study wrote, is removed")

    def _bytes(self, name: str) -> bytes:
        path = self.folder / name
        return path.read_bytes() if path.is_file() else b""

    def _write_draft(self, only: tuple[str, ...] = RECORDS) -> None:
        """The draft with these files, and with checksums of them."""
        texts = {name: self.texts[name] for name in only if name in self.texts}
        for name in RECORDS:
            (self.draft / name).unlink(missing_ok=True)
        for name, text in texts.items():
            (self.draft / name).write_bytes(text)
        plan = self.recorded.plan if self.recorded else (checksums.plan_hash(read_yaml(self.draft / "plan.yaml")),)
        marks: Mapping[str, Mark] = {name: Content().of(texts.get(name, b"")) for name in RECORDS}
        Checksums(plan=plan, files=marks, ended=True).write(self.draft)

    def _replace(self) -> None:
        """Put the draft's files in the place of those that differ, which are kept beside."""
        for name in (*RECORDS, checksums.NAME):
            old, new = self.folder / name, self.draft / name
            if new.is_file() and (not old.is_file() or old.read_bytes() != new.read_bytes()):
                if old.is_file():
                    kept = next(
                        path for n in range(1, 10**6) if not (path := old.with_name(f"{name}.damaged-{n}")).exists()
                    )
                    shutil.copy2(old, kept)
                    self.said.append(f"{name}: the old file is kept as {kept.name}")
                write_bytes(old, new.read_bytes())
