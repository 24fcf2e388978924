"""No file runs code, fills memory, hangs a reader, shows a traceback or leaves half an output.

Pickles are read by the child process that reads them for a user; the other kinds in a process with limits (jail).
"""

import pickle
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lfvd.data.importers import pickles
from lfvd.data.importers.pickles import load_pickle
from lfvd.files import InputError, read_yaml
from tests.helpers import hostile, hostile_files, jail
from tests.helpers.hostile import Attack

PICKLES = tuple(hostile.pickles())


def assert_refused(attack: Attack, end: str, text: str, folder: Path) -> None:
    """Refused in one printable line that names what is refused; nothing ran and nothing is left."""
    if not (attack.harmless and end == "loaded"):
        assert end == "refused", (attack.name, text)
        assert attack.says in text, (attack.name, text)
    assert text.removesuffix("\n").isprintable(), (attack.name, text)
    assert not (folder / hostile.CANARY).exists(), attack.name


def test_plain_unpickler_runs_them(tmp_path):
    """Else the other tests would show nothing."""
    (tmp_path / "evil.py").write_text(hostile.CODE)
    (tmp_path / "evil.pkl").write_bytes(hostile.INNER)
    running = [attack for attack in PICKLES if attack.runs]
    assert len(running) >= 20
    code = "import contextlib, pickle, sys\nwith contextlib.suppress(Exception): pickle.load(sys.stdin.buffer)"
    for attack in running:
        argv = [sys.executable, "-c", code + "\nwith contextlib.suppress(Exception): v.wait()"]
        subprocess.run(argv, input=attack.content, cwd=tmp_path, capture_output=True, env=jail.ENVIRONMENT)
        canary = tmp_path / hostile.CANARY
        assert canary.exists() or "Popen" in attack.name, attack.name
        canary.unlink(missing_ok=True)


def test_pickles_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pickles, "SECONDS", (1, 0.0))
    assert len({attack.name for attack in PICKLES}) == len(PICKLES)
    for attack in PICKLES:
        Path("x.pkl").write_bytes(attack.content)
        end, text = "loaded", ""
        try:
            load_pickle("x.pkl")
        except InputError as error:
            end, text = "refused", str(error)
        assert_refused(attack, end, text, tmp_path)


def test_honest_pickles_of_the_same_make_are_read(tmp_path):
    """The attacks are refused for what is wrong with them, not for their make."""
    body = hostile.put([hostile.array("f4", (2,), b"\0\0\x80?" * 2), {"a": hostile.call("collections:OrderedDict")}])
    for protocol in (3, 5):
        (tmp_path / "x.pkl").write_bytes(hostile.whole(body, protocol))
        vector, named = load_pickle(tmp_path / "x.pkl")
        assert vector.tolist() == pickle.loads(hostile.whole(body, protocol))[0].tolist() == [1.0, 1.0]
        assert named == {"a": {}}


def outcomes(door: str, attacks: Sequence[Attack], folder: Path) -> list[tuple[str, str]]:
    """How each attack ended, behind a door."""
    files = [folder / f"train_{re.sub('[^A-Za-z0-9.-]', '-', attack.name)}{attack.suffix}" for attack in attacks]
    assert len(set(files)) == len(files) > 0
    for file, attack in zip(files, attacks, strict=True):
        file.write_bytes(attack.content)
    (folder / "t.csv").write_bytes(hostile_files.TABLE)
    return list(jail.read_all(door, files, folder).values())


DOORS = {
    "layouts": ("import", hostile_files.layouts),
    "json": ("import", hostile_files.jsons),
    "arrays": ("features", hostile_files.npzs),
    "corpora": ("corpus", hostile_files.corpora),
    "configs": ("config", hostile_files.yamls),
    "plans": ("plan", hostile_files.yamls),
}


@pytest.mark.parametrize(("door", "attacks"), DOORS.values(), ids=DOORS.keys())
def test_other_files_are_refused(tmp_path, door, attacks):
    found = tuple(attacks())
    for attack, (end, text) in zip(found, outcomes(door, found, tmp_path), strict=True):
        assert_refused(attack, end, text, tmp_path)


def test_honest_corpus_is_read(tmp_path):
    honest = [Attack("corpus", hostile_files.safetensors(), suffix=".safetensors")]
    assert outcomes("corpus", honest, tmp_path) == [("loaded", "")]


def test_command_as_a_user_meets_it(tmp_path):
    """Exit 2, one line, no output."""
    (tmp_path / "x.pkl").write_bytes(PICKLES[0].content)
    argv = [sys.executable, "-m", "lfvd", "import", "x.pkl", "--out", "out.safetensors"]
    done = subprocess.run(argv, cwd=tmp_path, env=jail.ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"lfvd: x\.pkl: names os\.system, .+\n", done.stderr)
    assert [f.name for f in tmp_path.iterdir()] == ["x.pkl"]


def test_errors_cannot_steer_a_terminal():
    assert str(InputError("a\x1b[2J\x07é\ud800\nb")) == "a\\x1b[2J\\x07é\\ud800\\nb"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &a [*a]", "its aliases repeat too much: write the values out"),
        (f"a: 0x{'f' * 40}", "a whole number has more than 64 bits"),
        ("a: !!bool maybe", "a value does not fit its tag or escape: correct it"),
        ("#" * 300_000, "has more than 262144 characters, but a YAML file of settings has fewer: cut it"),
    ],
)
def test_yaml_limits(tmp_path, text, says):
    (tmp_path / "f.yaml").write_text(text)
    with pytest.raises(InputError, match=re.escape(says)):
        read_yaml(tmp_path / "f.yaml")


def test_yaml_aliases_in_reason_are_read(tmp_path):
    (tmp_path / "f.yaml").write_text("a: &a [1, 2]\nb: [*a, *a]\n")
    assert read_yaml(tmp_path / "f.yaml") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
