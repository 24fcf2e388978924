"""Atomic writes are whole or absent, whatever happens to the writer; YAML errors and warnings are one sentence."""

import os
import signal
import subprocess
import sys
import warnings

import pytest

from lfvd.files import InputError, InputWarning, atomic_path, print_warnings, read_yaml, write_text, write_yaml


def test_replaces_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    write_text(path, "one")
    with atomic_path(path) as temporary:
        temporary.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "file"
    write_text(path, "old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_permissions_are_the_users(tmp_path):
    write_text(tmp_path / "file", "x")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


KILLED = {
    "while it writes": "with atomic_path(path) as temporary:\n    temporary.write_text('half')\n    kill()",
    "before the file takes its place": "os.replace = lambda *_: kill()\nwrite_text(path, 'new')",
}


@pytest.mark.parametrize("when", KILLED)
def test_killed_writer_leaves_the_old_file(tmp_path, when):
    path = tmp_path / "file"
    write_text(path, "old")
    kill = "kill = lambda: os.kill(os.getpid(), signal.SIGKILL)"
    code = f"import os, signal\nfrom lfvd.files import *\npath = {str(path)!r}\n{kill}\n{KILLED[when]}"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_yaml_round_trip(tmp_path):
    values = {"b": [1, 2.5e-4, True, None], "a": {"ä": "x: y"}}
    write_yaml(tmp_path / "f.yaml", values)
    assert read_yaml(tmp_path / "f.yaml") == values
    assert list(read_yaml(tmp_path / "f.yaml")) == ["b", "a"]


def test_unreadable_yaml(tmp_path):
    with pytest.raises(InputError) as caught:
        read_yaml(tmp_path / "none.yaml")
    assert str(caught.value) == f"{tmp_path / 'none.yaml'}: cannot be read: No such file or directory: check the path"
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not a text file in UTF-8"):
        read_yaml(tmp_path / "binary")
    (tmp_path / "deep").write_text("[" * 1_000)
    with pytest.raises(InputError, match="is not valid YAML"):
        read_yaml(tmp_path / "deep")


def test_a_warning_is_one_line(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    print_warnings("lfvd")
    assert warnings.formatwarning("f.yaml: old", InputWarning, "a.py", 3) == "lfvd: warning: f.yaml: old\n"
    assert warnings.formatwarning("odd", UserWarning, "a.py", 3, line="x") == "a.py:3: UserWarning: odd\n  x\n"
