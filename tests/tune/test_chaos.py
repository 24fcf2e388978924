"""The driver killed at random moments: whatever happens, the study ends as an undisturbed one would.

Twenty times, with a table of what happened: `python -m tests.tune.test_chaos` (`make chaos`); `--kills` and `--seed` choose others.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from lfvd.files import write_yaml
from tests.helpers.plans import PLAN
from tests.helpers.soundness import assert_sound
from tune.study.study import Study

COMMAND = str(Path(sys.executable).with_name("lfvd-tune"))

LIFE_SECONDS = 180
"""After which a driver that has not ended is too slow, not alive."""


class Search:
    """A search by the command line in a folder of its own."""

    def __init__(self, folder: Path, *, trials: int, concurrent: int | str, epochs: int = 6) -> None:
        from lfvd.data.simulate import simulate

        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.data, self.plan = folder, folder / "data.safetensors", folder / "plan.yaml"
        simulate("meld", seed=0, dialogues=120, widths={"l": 8, "a": 4}).save(self.data)
        changes = {
            "set": {**PLAN["set"], "model.width": 32, "model.dag_layers": 2},
            "scheduler": {**PLAN["scheduler"], "max_epochs": epochs},
            "resources": {"max_concurrent": concurrent},
            "trials": trials,
        }
        write_yaml(self.plan, {**PLAN, **changes})

    @property
    def study(self) -> Path:
        return self.folder / "results" / "chaos"

    def epochs(self) -> int:
        path = self.study / "epochs.jsonl"
        return path.read_bytes().count(b"\n") if path.is_file() else 0

    def start(self) -> subprocess.Popen[bytes]:
        """A driver: it begins the study, or goes on with it; its group, which a terminal's Ctrl-C reaches, is its own."""
        results = ["--results", str(self.folder / "results")]
        begin = [COMMAND, "search", str(self.plan), "--data", str(self.data), "--name", "chaos", *results]
        argv = [COMMAND, "resume", "chaos", *results] if (self.study / "plan.yaml").is_file() else begin
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)

    def live(self, most: int, delay: float) -> tuple[int, bool]:
        """One driver's life: killed `delay` seconds after `most` epochs → its epochs, and whether it came to the end."""
        before, driver, deadline = self.epochs(), self.start(), time.monotonic() + LIFE_SECONDS
        try:
            # Nothing of the study is there before its plan: where no epoch is asked for, the plan is what is waited for.
            while driver.poll() is None and (self.epochs() - before < most or not (self.study / "plan.yaml").is_file()):
                assert time.monotonic() < deadline, (self.folder / "log.txt").read_text()[-3000:]
                time.sleep(0.02)
            try:
                driver.wait(delay)
            except subprocess.TimeoutExpired:
                driver.kill()
                driver.wait()
                return self.epochs() - before, False
        except BaseException:
            driver.kill()
            driver.wait()
            raise
        assert driver.returncode == 0, (self.folder / "log.txt").read_text()[-3000:]
        return self.epochs() - before, True

    def finish(self) -> Study:
        """Undisturbed to the end, which must be a sound one."""
        _, ended = self.live(10**9, LIFE_SECONDS)
        assert ended
        return assert_sound(self.study)


def story(study: Study) -> list[object]:
    """All that a study found, without times."""
    told = [(t.number, t.state, t.params, t.value, t.user_attrs, t.intermediate_values) for t in study.trials]
    runs = [{k: v for k, v in run.items() if k != "seconds"} for run in study.confirmed()]
    epochs = [{k: v for k, v in record.items() if k != "seconds"} for record in study.epochs()]
    return [told, runs, epochs, [look["scores"] for look in study.test_log.evaluations() if look["scores"]]]


@pytest.mark.slow
def test_killed_drivers_change_nothing(tmp_path):
    """One trial at a time, so that all is decided: killed three times, the study is that of an undisturbed driver."""
    undisturbed = Search(tmp_path / "undisturbed", trials=4, concurrent=1)
    disturbed = Search(tmp_path / "disturbed", trials=4, concurrent=1)
    for most, delay in [(1, 0.0), (3, 0.1), (9, 0.3)]:
        epochs, ended = disturbed.live(most, delay)
        assert (ended, epochs >= most) == (False, True)
    assert story(disturbed.finish()) == story(undisturbed.finish())


@pytest.mark.slow
def test_killed_as_it_begins_and_as_it_ends(tmp_path):
    """Before the first epoch, and between the last one and best.yaml."""
    search = Search(tmp_path, trials=2, concurrent="auto", epochs=2)
    assert search.live(0, 0) == (0, False)
    rng = random.Random(0)
    while not (search.study / "confirm.jsonl").is_file():
        assert not search.live(3, rng.uniform(0, 0.2))[1]
    search.finish()


@pytest.mark.slow
def test_asked_to_end(tmp_path):
    """By SIGTERM, and by Ctrl-C twice, which waits for nothing: 130 each time, and the end is a sound one."""
    search = Search(tmp_path, trials=4, concurrent="auto")
    for sent in ([signal.SIGTERM], [signal.SIGINT, signal.SIGINT]):
        before, driver, deadline = search.epochs(), search.start(), time.monotonic() + LIFE_SECONDS
        try:
            while search.epochs() < before + 3:
                assert driver.poll() is None, (tmp_path / "log.txt").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            for number in sent:  # Ctrl-C reaches Ray's processes too
                (os.kill if number == signal.SIGTERM else os.killpg)(driver.pid, number)
                time.sleep(0.1)
            assert driver.wait(60) == 130, (tmp_path / "log.txt").read_text()
        finally:
            driver.kill()
            driver.wait()
        assert "lfvd-tune resume chaos" in (tmp_path / "log.txt").read_text().splitlines()[-1]
    search.finish()


def main() -> None:
    """Kill a search many times, let it end, check it, and print a table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng, folder, began = random.Random(given.seed), Path(tempfile.mkdtemp(prefix="chaos-")), time.monotonic()
    search = Search(folder, trials=2 * given.kills // 3 + 4, concurrent="auto", epochs=8)
    kills, barren, before = 0, 0, 0
    while kills < given.kills:
        most, delay = rng.choice([0, 1, 1, 2, 3, 5]), rng.uniform(0, 1)
        epochs, ended = search.live(most, delay if most else rng.uniform(0, 12))
        assert not ended, "the search ended before it was killed as often as asked: raise its trials"
        kills, barren = kills + 1, barren + (not epochs)
        print(f"kill {kills}: after {epochs} epochs, {search.epochs()} in all", flush=True)
    before = search.epochs()
    study = search.finish()
    states = [t.state.name for t in study.trials]
    print(
        f"{kills} kills ({barren} before an epoch) in the first {before} of {search.epochs()} epochs; {len(states)} trials: "
        f"{states.count('COMPLETE')} complete, {states.count('PRUNED')} pruned, {states.count('FAIL')} failed; "
        f"sound; {time.monotonic() - began:.0f} s"
    )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
