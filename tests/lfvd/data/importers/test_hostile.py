"""No file runs code, fills memory, hangs a reader, shows a traceback or leaves half an output.

Pickles are read by the child process that reads them for a user; the other kinds in a process with limits (jail).
"""

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lfvd.data import stand_ins
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
    code = "import contextlib, pickle, sys\nwith contextlib.suppress(Exception): pickle.load(sys.stdin.buffer)"
    for attack in (attack for attack in PICKLES if attack.runs):
        argv = [sys.executable, "-c", code]
        subprocess.run(argv, input=attack.content, cwd=tmp_path, capture_output=True, env=jail.ENVIRONMENT)
        (tmp_path / hostile.CANARY).unlink()


def test_pickles_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pickles, "SECONDS", (1, 0.0))
    for attack in PICKLES:
        Path("x.pkl").write_bytes(attack.content)
        end, text = "loaded", ""
        try:
            load_pickle("x.pkl")
        except InputError as error:
            end, text = "refused", str(error)
        assert_refused(attack, end, text, tmp_path)


def test_nothing_else_may_be_named():
    """Every name is plain data's; a new one needs a look at what its call can do."""
    assert {re.sub(r"^(__builtin__|builtins)\.", "", n).replace("_core", "core") for n in stand_ins.NAMES} == {
        *("list", "dict", "int", "float", "set", "frozenset", "bytes", "bytearray", "_codecs.encode", "numpy.dtype"),
        *("collections.OrderedDict", "collections.defaultdict", "numpy.ndarray", "numpy.core.multiarray.scalar"),
        *("numpy.core.multiarray._reconstruct", "numpy.core.numeric._frombuffer", "torch._utils._rebuild_tensor_v2"),
        *("torch.storage._load_from_bytes", "torch.DoubleStorage", "torch.FloatStorage", "torch.HalfStorage"),
        *("torch.LongStorage", "torch.IntStorage", "torch.ShortStorage", "torch.CharStorage", "torch.ByteStorage"),
        "torch.BoolStorage",
    }


DOORS = {
    "layouts": ("import", hostile_files.layouts),
    "json": ("import", hostile_files.jsons),
    "arrays": ("features", hostile_files.arrays),
    "corpora": ("corpus", hostile_files.corpora),
    "configs": ("config", hostile_files.yamls),
    "plans": ("plan", hostile_files.yamls),
}


@pytest.mark.parametrize(("door", "attacks"), DOORS.values(), ids=DOORS.keys())
def test_other_files_are_refused(tmp_path, door, attacks):
    found = {tmp_path / f"train_{attack.name}{attack.suffix}": attack for attack in attacks()}
    for file, attack in found.items():
        file.write_bytes(attack.content)
    (tmp_path / "t.csv").write_bytes(hostile_files.TABLE)
    for file, (end, text) in jail.read_all(door, [*found], tmp_path).items():
        assert_refused(found[file], end, text, tmp_path)


def test_command_as_a_user_meets_it(tmp_path):
    """Exit 2, one line, no output; and an honest corpus is read in the jail."""
    (tmp_path / "x.pkl").write_bytes(PICKLES[0].content)
    argv = [sys.executable, "-m", "lfvd", "import", "x.pkl", "--out", "out.safetensors"]
    done = subprocess.run(argv, cwd=tmp_path, env=jail.ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "lfvd: x.pkl: names os.system, which is code and not plain data, so it is not opened: "
        "have its maker write arrays, lists, dicts, text and numbers only\n"
    )
    assert [f.name for f in tmp_path.iterdir()] == ["x.pkl"]
    (tmp_path / "x.safetensors").write_bytes(hostile_files.safetensors())
    file = tmp_path / "x.safetensors"
    assert jail.read_all("corpus", [file], tmp_path) == {file: ("loaded", "")}


def test_errors_cannot_steer_a_terminal():
    assert str(InputError("a\x1b[2J\x07é\ud800\nb")) == "a\\x1b[2J\\x07é\\ud800\\nb"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &a [*a]", "its aliases repeat too much: write the values out"),
        (f"a: 0x{'f' * 40}", "a whole number has more than 64 bits"),
        ("a: !!bool maybe", "a value does not fit its tag or escape: correct it"),
        ("#" * 300_000, "has more than 262144 characters, but a YAML file of settings has fewer: cut it"),
        ("a: &a [1, 2]\nb: [*a, *a]\n", ""),
    ],
)
def test_yaml_limits(tmp_path, text, says):
    (tmp_path / "f.yaml").write_text(text)
    with pytest.raises(InputError, match=re.escape(says)) if says else contextlib.nullcontext():
        assert read_yaml(tmp_path / "f.yaml") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
