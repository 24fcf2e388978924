"""`lfvd extract` as its user meets it: files in and out, clips that are missing or broken, a kill, Ctrl-C."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

REASON = "needs pip install 'lfvd[features]'"
for package in ("av", "cv2", "huggingface_hub", "opensmile", "transformers"):
    pytest.importorskip(package, reason=REASON)

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from lfvd.extract.audio import Audio  # noqa: E402
from lfvd.extract.densenet import DenseNet121  # noqa: E402
from lfvd.extract.work import Clip  # noqa: E402
from tests.helpers.media import plain, tone, write_clip, write_encoder, write_meld  # noqa: E402
from tests.helpers.run_folders import csv_rows  # noqa: E402

ROWS = {"train": 4, "dev": 2, "test": 3}
NOTE = "lfvd: note: openSMILE is licensed for research and education; other uses need audEERING's licence"


@pytest.fixture(scope="module")
def meld(tmp_path_factory):
    """MELD in small: its CSVs, and clips in `clips`, each with a tone and colours of its own."""
    folder = write_meld(tmp_path_factory.mktemp("meld"))
    for s, (split, rows) in enumerate(ROWS.items()):
        for i in range(rows):
            file = folder / "clips" / split / f"dia0_utt{i}.mp4"
            write_clip(file, sound=tone(120 + 40 * s + 10 * i, 0.5), pictures=[plain(80 * s + 9 * i)] * 12)
    return folder


@pytest.mark.slow
def test_audio_of_meld_with_missing_and_broken_clips_and_its_import(lfvd, meld, tmp_path):
    """Train's second clip is missing, dev's first cut short, as happens in the published archives; then all are there."""
    clips = Path(shutil.copytree(meld / "clips", tmp_path / "clips"))
    gone, cut = clips / "train" / "dia0_utt1.mp4", clips / "dev" / "dia0_utt0.mp4"
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:500])
    out, listed = tmp_path / "audio.npz", tmp_path / "audio.missing.csv"
    code, _, err = lfvd("extract", "audio", meld, "--clips", clips, "--out", out, "--processes", 1)
    reasons = {gone: "No such file or directory", cut: "cannot be decoded (Invalid data found when processing input)"}
    assert code == 0
    assert err.splitlines() == [
        NOTE,
        *(f"lfvd: {file}: {reason}" for file, reason in reasons.items()),
        f"lfvd: 2 of 9 clips gave no features: their rows are NaN, for `lfvd import --nan-to-zero`; {listed} lists them",
    ]
    assert [(Path(row["file"]), row["reason"]) for row in csv_rows(listed)] == list(reasons.items())
    with np.load(out) as features:
        nan = {split: np.isnan(features[split]).all(axis=1).tolist() for split in features}
        assert not any(np.isnan(features[split]).any(axis=1).tolist() != nan[split] for split in features)
    assert nan == {"train": [False, True, False, False], "dev": [True, False], "test": [False] * 3}
    code, printed, err = lfvd("extract", "audio", meld, "--clips", meld / "clips", "--out", out, "--processes", 2)
    assert (code, err) == (0, f"{NOTE}\n")
    assert printed.splitlines()[-1] == f"wrote {out}: 9 utterances, 1582 wide"
    with np.load(out) as features:
        assert {split: features[split].shape for split in features} == {s: (n, 1582) for s, n in ROWS.items()}
        for split, rows in ROWS.items():
            last = Clip(file=meld / "clips" / split / f"dia0_utt{rows - 1}.mp4")
            assert np.array_equal(features[split][-1], Audio()(last))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["audio.npz", "clips"]
    code, _, err = lfvd("import", meld, "--audio", out, "--out", tmp_path / "meld.safetensors")
    assert (code, err) == (0, "")


@pytest.mark.slow
def test_visual_of_meld(lfvd, meld, tmp_path):
    torch.manual_seed(0)
    weights, out = tmp_path / "w.safetensors", tmp_path / "visual.npz"
    save_file(DenseNet121().state_dict(), weights)
    command = ["extract", "visual", meld, "--clips", meld / "clips", "--out", out, "--model", weights]
    code, printed, err = lfvd(*command, "--frames", 2, "--processes", 1, "--device", "cpu")
    assert (code, err) == (0, "")
    assert printed.splitlines() == [*(f"clips {i}/9" for i in range(10)), f"wrote {out}: 9 utterances, 1024 wide"]
    with np.load(out) as features:
        every = np.concatenate([features[split] for split in ROWS])
    assert len(np.unique(every, axis=0)) == 9
    code, _, err = lfvd("extract", "visual", meld, "--clips", meld / "clips", "--out", out, "--model", meld / "x")
    assert code == 2
    assert err.startswith(f"lfvd: --model {meld / 'x'}: is no file, and the hub does not give it")


@pytest.mark.slow
def test_language_and_fine_tuning_that_sees_the_train_split_alone(lfvd, meld, tmp_path):
    encoder, out = write_encoder(tmp_path / "encoder"), tmp_path / "language.npz"
    plain_way = ["extract", "language", meld, "--model", encoder, "--device", "cpu"]
    code, printed, err = lfvd(*plain_way, "--out", out)
    assert (code, err) == (0, "")
    assert printed.splitlines() == ["sentences 9/9", f"wrote {out}: 9 utterances, 16 wide"]

    changed = {"train": [("oh no", "sadness"), ("what a day", "joy"), ("we lost it", "sadness"), ("great news", "joy")]}
    other = write_meld(
        tmp_path / "other", {**changed, "dev": [("a", "fear")], "test": [("b", "disgust"), ("c", "joy")]}
    )
    for source in (meld, other):
        tuned = tmp_path / f"{source.name}.npz"
        code, printed, err = lfvd(*plain_way[:2], source, *plain_way[3:], "--out", tuned, "--finetune", "--epochs", 2)
        assert (code, err) == (0, "")
        assert "fine-tuning 8/8" in printed
        assert f"wrote {tuned.with_suffix('.encoder')}: the fine-tuned encoder, for --model" in printed
    kept = [tmp_path / f"{source.name}.encoder" / "model.safetensors" for source in (meld, other)]
    assert kept[0].read_bytes() == kept[1].read_bytes()
    assert kept[0].read_bytes() != (encoder / "model.safetensors").read_bytes()

    again = tmp_path / "again.npz"
    lfvd("extract", "language", meld, "--model", kept[0].parent, "--out", again, "--device", "cpu")
    with np.load(tmp_path / f"{meld.name}.npz") as first, np.load(again) as second, np.load(out) as before:
        for split in ROWS:
            np.testing.assert_allclose(first[split], second[split], atol=1e-6)
            assert np.abs(first[split] - before[split]).max() > 1e-5


GATES = 2
"""Clips, as many as processes, that are named pipes: who opens one is held until the test lets it go."""


def own_table(folder: Path, clips: int, before_gates: int) -> Path:
    """A table of stretches of one long file, and in their midst the gates."""
    write_clip(folder / "long.wav", sound=np.concatenate([tone(100 + 5 * i, 0.5) for i in range(clips)]))
    rows = [f"long.wav,{0.5 * i},{0.5 * i + 0.5}\n" for i in range(clips)]
    rows[before_gates:before_gates] = [f"gate{i}.wav,0,0.5\n" for i in range(GATES)]
    (folder / "own.csv").write_text("file,start,end\n" + "".join(rows), encoding="utf-8")
    return folder / "own.csv"


@contextmanager
def held_at_the_gates(table: Path, out: Path) -> Iterator[subprocess.Popen[str]]:
    """The command in a session of its own, each of its processes held at a gate until the end of the block."""
    gates = [table.with_name(f"gate{i}.wav") for i in range(GATES)]
    for gate in gates:
        os.mkfifo(gate)
    command = [sys.executable, "-m", "lfvd", "extract", "audio", table, "--out", out, "--processes", str(GATES)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with contextlib.ExitStack() as stack:
        for gate in gates:
            stack.enter_context(gate.open("wb"))  # returns when the other side has opened it
        yield process
    for gate in gates:
        gate.unlink()


@pytest.mark.slow
def test_a_killed_command_goes_on_without_repeating_clips(lfvd, tmp_path):
    table, out = own_table(tmp_path, 20, before_gates=10), tmp_path / "audio.npy"
    with held_at_the_gates(table, out) as process:
        process.kill()
        process.communicate(timeout=60)  # the pipes' end: no process is left that holds them
    assert not out.exists()
    finished = sorted(out.with_suffix(".parts").glob("[!.]*.npy"))
    assert len(finished) == 10
    for part in finished:
        np.save(part, np.full(1582, 7, np.float32))  # a mark that no clip has
    for i in range(GATES):
        write_clip(tmp_path / f"gate{i}.wav", sound=tone(440, 0.5))
    code, printed, err = lfvd("extract", "audio", table, "--out", out, "--processes", 2)
    assert (code, err) == (0, f"{NOTE}\n")
    assert printed.splitlines()[0] == "clips 10/22"
    features = np.load(out)
    marked = (features == 7).all(axis=1)
    assert marked.sum() == 10
    fresh = tmp_path / "fresh.npy"
    lfvd("extract", "audio", table, "--out", fresh, "--processes", 1)
    assert np.array_equal(features[~marked], np.load(fresh)[~marked])
    assert not out.with_suffix(".parts").exists()


@pytest.mark.slow
def test_ctrl_c_ends_with_a_sentence(tmp_path):
    table, out = own_table(tmp_path, 6, before_gates=2), tmp_path / "audio.npy"
    with held_at_the_gates(table, out) as process:
        os.killpg(process.pid, signal.SIGINT)
        # Clips at work are not waited for. The pipes end when no process is left that holds them.
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == f"{NOTE}\nlfvd: interrupted: the same command continues from here\n"


def test_other_endings_are_refused_before_the_work(lfvd, meld, tmp_path):
    out = tmp_path / "audio.npy"
    code, _, err = lfvd("extract", "audio", meld, "--clips", meld / "clips", "--out", out)
    assert code == 2
    assert err.splitlines()[-1] == f"lfvd: --out {out}: must end in .npz for {meld}: try {tmp_path / 'audio.npz'}"
    assert list(tmp_path.iterdir()) == []
