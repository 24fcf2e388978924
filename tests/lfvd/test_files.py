"""atomic_path: a file is whole or it is not there, whatever happens to the writer."""

import os
import signal
import subprocess
import sys
import time

import pytest

from lfvd.files import InputError, atomic_path, read_yaml, write_text, write_yaml


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


WRITER = """
import sys
from lfvd.files import write_text
for i in range(10**9):
    write_text(sys.argv[1], f"{i % 10}" * 200_000)
"""


def test_killed_writer_leaves_a_whole_file(tmp_path):
    path = tmp_path / "file"
    for pause in (0.0, 0.003, 0.011):
        path.unlink(missing_ok=True)
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)]) as writer:
            deadline = time.monotonic() + 30
            while not path.exists() and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(pause)
            os.kill(writer.pid, signal.SIGKILL)
        text = path.read_text()
        assert len(text) == 200_000
        assert len(set(text)) == 1


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
