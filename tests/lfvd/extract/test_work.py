"""Clips through processes: what is done is kept, what fails is listed, what kills its process does no harm."""

import multiprocessing as mp
import os
import signal
import threading
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lfvd.extract import work
from lfvd.extract.clips import Clip, ClipError
from lfvd.extract.work import NoFeatures, extract


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A clip that holds numbers → these times `factor`; notes each call in a file."""

    notes: Path
    factor: float = 1.0
    width: int = 2

    def __call__(self, clip: Clip) -> np.ndarray:
        with self.notes.open("a", encoding="utf-8") as file:
            file.write(f"{clip.file.name} {os.getpid()}\n")
        words = clip.file.read_text(encoding="utf-8").split()
        if words[0] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if words[0] == "refuse":
            raise ClipError("holds no numbers")
        if words[0] == "full":
            (clip.file.parent / "parts").rename(clip.file.parent / "gone")
            (clip.file.parent / "parts").touch()
            return np.zeros(2)
        return self.factor * np.array([float(word) for word in words]) + clip.start


def clips(folder: Path, *texts: str) -> list[Clip]:
    for i, text in enumerate(texts):
        (folder / f"{i}").write_text(text, encoding="utf-8")
    return [Clip(file=folder / f"{i}") for i in range(len(texts))]


def run(some: list[Clip], numbers: Numbers, processes: int = 2) -> tuple[list[list[float]], dict[int, str], list[int]]:
    counts: list[int] = []
    features, failed = extract(
        some, numbers, parts=numbers.notes.parent / "parts", processes=processes, done=counts.append
    )
    assert features.dtype == np.float32
    return features.tolist(), failed, counts


def calls(numbers: Numbers) -> list[str]:
    return [line.split()[0] for line in numbers.notes.read_text(encoding="utf-8").splitlines()]


def test_rows_in_order_and_failures_listed(tmp_path):
    numbers = Numbers(notes=tmp_path / "notes")
    some = [
        *clips(tmp_path, "1 2", "3 4", "refuse", "kill", "x y", "nan 1", "5 6", "7 8"),
        Clip(file=tmp_path / "absent"),
        Clip(file=tmp_path / "0", start=10.0),
    ]
    features, failed, counts = run(some, numbers)
    assert failed == {
        2: "holds no numbers",
        3: "ended its process",
        4: "ValueError: could not convert string to float: 'x'",
        5: "gave features that are not finite",
        8: "No such file or directory",
    }
    for i, row in {0: [1, 2], 1: [3, 4], 6: [5, 6], 7: [7, 8], 9: [11, 12]}.items():
        assert features[i] == row
    assert all(np.isnan(features[i]).all() for i in failed)
    assert counts == list(range(1, 11))
    pids = {line.split()[1] for line in numbers.notes.read_text(encoding="utf-8").splitlines()}
    assert len(pids) >= 2, "the one that died was replaced"


def test_finished_clips_are_not_made_again(tmp_path):
    numbers = Numbers(notes=tmp_path / "notes")
    some = clips(tmp_path, "1 2", "kill", "3 4")
    first, _, _ = run(some, numbers, processes=1)
    (tmp_path / "1").write_text("9 9", encoding="utf-8")
    again, failed, counts = run(some, numbers, processes=1)
    assert again == [first[0], [9, 9], first[2]]
    assert (failed, counts) == ({}, [2, 3])
    assert calls(numbers) == ["0", "1", "2", "1"]


@pytest.mark.parametrize("change", ["clip", "options", "stretch"])
def test_what_has_changed_is_made_again(tmp_path, change):
    numbers = Numbers(notes=tmp_path / "notes")
    some = clips(tmp_path, "1 2", "3 4")
    run(some, numbers, processes=1)
    if change == "clip":
        (tmp_path / "0").write_text("5 2", encoding="utf-8")
        os.utime(tmp_path / "0", ns=(0, 0))
        expected = [[5, 2], [3, 4]]
    elif change == "options":
        numbers, expected = Numbers(notes=tmp_path / "notes", factor=2.0), [[2, 4], [6, 8]]
    else:
        some[0], expected = Clip(file=tmp_path / "0", start=1.0), [[2, 3], [3, 4]]
    assert run(some, numbers, processes=1)[0] == expected


def test_the_death_of_an_idle_process_costs_no_clip(tmp_path):
    """One clip is held at a named pipe while the other process, which has nothing to do, is killed."""
    some, numbers = clips(tmp_path, "1 2", ""), Numbers(notes=tmp_path / "notes")
    (tmp_path / "1").unlink()
    os.mkfifo(tmp_path / "1")
    again = threading.Thread(target=lambda: (tmp_path / "1").write_text("3 4", encoding="utf-8"))

    def kill_the_idle(count: int) -> None:
        if count != 1:
            return
        with (tmp_path / "1").open("w"):  # opens when a process reads
            at_work = int(numbers.notes.read_text(encoding="utf-8").splitlines()[-1].split()[1])
            [idle] = [child for child in mp.active_children() if child.pid != at_work]
            idle.kill()
            idle.join()
            [busy] = [child for child in mp.active_children() if child.pid == at_work] or [None]
            if busy is not None:
                busy.join()  # the pool ends it
        again.start()

    features, failed = extract(some, numbers, parts=tmp_path / "parts", processes=2, done=kill_the_idle)
    again.join()
    assert (features.tolist(), failed) == ([[1, 2], [3, 4]], {})


def test_interrupts_work_again_after_a_broken_pool():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(BrokenProcessPool), work._interrupts_ignored():
        raise BrokenProcessPool
    assert signal.getsignal(signal.SIGINT) is before


def test_nothing_at_all_is_an_error(tmp_path):
    numbers = Numbers(notes=tmp_path / "notes")
    with pytest.raises(NoFeatures, match="0: holds no numbers, nor did any other clip give features"):
        run(clips(tmp_path, "refuse", "refuse"), numbers, processes=1)
    with pytest.raises(NoFeatures, match="absent: No such file or directory, nor did"):
        run([Clip(file=tmp_path / "absent")], numbers)


def test_parts_that_cannot_be_written_end_the_work(tmp_path):
    with pytest.raises(FileExistsError):
        run(clips(tmp_path, "1 2", "full 1", "3 4"), Numbers(notes=tmp_path / "notes"), processes=1)
    assert calls(Numbers(notes=tmp_path / "notes")) == ["0", "1"]
