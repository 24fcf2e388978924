"""Clips through processes: what is done is kept, what fails is listed, what kills its process does no harm."""

import multiprocessing as mp
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lfvd.extract.work import Clip, ClipError, extract
from lfvd.files import InputError


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


@pytest.fixture
def numbers(tmp_path):
    return Numbers(notes=tmp_path / "notes")


def clips(folder: Path, *texts: str) -> list[Clip]:
    for i, text in enumerate(texts):
        (folder / f"{i}").write_text(text, encoding="utf-8")
    return [Clip(file=folder / f"{i}") for i in range(len(texts))]


def run(some: list[Clip], numbers: Numbers, processes: int = 1) -> tuple[list[list[float]], dict[int, str], list[int]]:
    counts: list[int] = []
    features, failed = extract(
        some, numbers, parts=numbers.notes.parent / "parts", processes=processes, done=counts.append
    )
    assert features.dtype == np.float32
    return features.tolist(), failed, counts


def calls(numbers: Numbers) -> list[tuple[str, int]]:
    """Name of the clip and process of each call."""
    lines = numbers.notes.read_text(encoding="utf-8").splitlines()
    return [(name, int(process)) for name, process in map(str.split, lines)]


def test_rows_in_order_and_failures_listed(tmp_path, numbers):
    some = [
        *clips(tmp_path, "1 2", "3 4", "refuse", "kill", "x y", "nan 1", "5 6", "7 8"),
        Clip(file=tmp_path / "absent"),
        Clip(file=tmp_path / "0", start=10.0),
    ]
    features, failed, counts = run(some, numbers, processes=2)
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
    assert len({process for _, process in calls(numbers)}) >= 2, "the one that died was replaced"


def test_finished_clips_are_not_made_again(tmp_path, numbers):
    some = clips(tmp_path, "1 2", "kill", "3 4")
    first, _, _ = run(some, numbers)
    assert [name for name, _ in calls(numbers)] == ["0", "1", "2", "1"], "once more, in case it was not the clip"
    (tmp_path / "1").write_text("9 9", encoding="utf-8")
    assert run(some, numbers) == ([first[0], [9, 9], first[2]], {}, [2, 3])
    assert [name for name, _ in calls(numbers)] == ["0", "1", "2", "1", "1"]


@pytest.mark.parametrize("change", ["clip", "options", "stretch"])
def test_what_has_changed_is_made_again(tmp_path, numbers, change):
    some = clips(tmp_path, "1 2", "3 4")
    run(some, numbers)
    if change == "clip":
        (tmp_path / "0").write_text("5 2", encoding="utf-8")
        os.utime(tmp_path / "0", ns=(0, 0))
        expected = [[5, 2], [3, 4]]
    elif change == "options":
        numbers, expected = Numbers(notes=tmp_path / "notes", factor=2.0), [[2, 4], [6, 8]]
    else:
        some[0], expected = Clip(file=tmp_path / "0", start=1.0), [[2, 3], [3, 4]]
    assert run(some, numbers)[0] == expected


def test_the_death_of_an_idle_process_costs_no_clip(tmp_path, numbers):
    """Killed between two clips, as by an operating system short of memory."""
    some = clips(tmp_path, "1 2", "3 4", "5 6")

    def kill_the_idle(count: int) -> None:
        if count == 1:
            [child] = mp.active_children()
            child.kill()
            child.join()

    features, failed = extract(some, numbers, parts=tmp_path / "parts", processes=1, done=kill_the_idle)
    assert (features.tolist(), failed) == ([[1, 2], [3, 4], [5, 6]], {})


def test_nothing_at_all_is_an_error(tmp_path, numbers):
    with pytest.raises(InputError, match="0: holds no numbers, nor did any other clip give features"):
        run(clips(tmp_path, "refuse", "refuse"), numbers)
    with pytest.raises(InputError, match="absent: No such file or directory, nor did"):
        run([Clip(file=tmp_path / "absent")], numbers)


def test_parts_that_cannot_be_written_end_the_work(tmp_path, numbers):
    with pytest.raises(FileExistsError):
        run(clips(tmp_path, "1 2", "full 1", "3 4"), numbers)
    assert [name for name, _ in calls(numbers)] == ["0", "1"]
