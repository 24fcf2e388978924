"""What plain pickles of all protocols hold comes out as Python's own unpickler gives it; what is not plain is refused by name.

Most tests read without the child process, which is slower. Crafted attacks, on the child: test_hostile.
"""

import collections
import errno
import io
import json
import os
import pickle
import re
import resource
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lfvd.data import child, stand_ins
from lfvd.data.importers import pickles
from lfvd.data.importers.pickles import UnsafePickleError, load_pickle
from tests.helpers import hostile
from tests.helpers.hostile import Call
from tests.helpers.jail import convert_here
from tests.helpers.layouts import DUMPS

PROTOCOLS = range(6)
ARRAYS = {
    "vector": np.arange(3),
    "Fortran order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "axes exchanged": np.arange(24, dtype=np.int16).reshape(2, 3, 4).transpose(2, 0, 1),
    "strided": np.arange(8, dtype=np.float16)[::2],
    "big-endian": np.arange(5, dtype=">i4"),
    "text": np.array(["ab", "é"]),
    "bytes": np.array([b"Ses01", b"x"]),
    "truth": np.array([True, False]),
    "no rows": np.zeros((0, 7), np.float32),
    "no axes": np.array(7.0),
    "large": np.random.default_rng(0).standard_normal((50, 40)),
}


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Bytes, or a value to pickle first → what is read."""
    monkeypatch.setattr(pickles, "convert", convert_here)
    file = tmp_path / "file"

    def read_value(value, protocol: int = 4):
        file.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol=protocol))
        return load_pickle(file)

    return read_value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())
def test_arrays(array, protocol, read):
    for found in read((array, array), protocol):
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype
        assert not found.flags.writeable or not found.size


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(-(2**40), 2**40), inner)
        | st.sets(st.integers(-9, 9))
    ),
    max_leaves=30,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(value=PLAIN.filter(lambda value: not isinstance(value, bytes)), protocol=st.sampled_from(PROTOCOLS))
def test_plain_values(read, value, protocol):
    assert read(value, protocol) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_odd_containers_and_scalars(protocol, read):
    objects = np.array([{"a": 1}, 2, None], dtype=object)
    value = [bytearray(b"ab"), b"x" * 300, frozenset([3]), collections.OrderedDict(b=1), objects]
    value += [collections.defaultdict(list, {3: [4]}), {np.int64(3): 1}, [0.5] * 20, "é" * 300]
    found = read(value, protocol)
    assert found == [b"ab", b"x" * 300, {3}, {"b": 1}, [{"a": 1}, 2, None], {3: [4]}, {3: 1}, [0.5] * 20, "é" * 300]
    found = read([np.float32(0.5), np.int64(-3), np.str_("é"), np.bool_(True), np.bytes_(b"a")], protocol)
    assert found == [0.5, -3, "é", True, b"a"]
    assert [type(x) for x in found] == [float, int, str, bool, bytes]


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool])
def test_tensors(dtype, protocol, read):
    tensor = torch.arange(12).reshape(3, 4).to(dtype)
    parts = [tensor, tensor.t(), tensor[1:, ::2], tensor[0, 0], tensor[:0], tensor.expand(1, 3, 4)]
    for part, found in zip(parts, read(parts, protocol), strict=True):
        np.testing.assert_array_equal(found, part.numpy())


def test_python2(read):
    text = ({"a": "x" * 300, 1: [True, 2.5, "caf\xe9"]}, ("y" * 300,))
    found = read(DUMPS["python2"]((text, np.arange(400.0), [np.arange(3, dtype=np.int32)] * 2)))
    assert found[0] == text
    np.testing.assert_array_equal(found[1], np.arange(400.0))
    np.testing.assert_array_equal(found[2][1], np.arange(3))
    assert read(b"(lp0\nS'a\\\\b\\'c\\xe9\\n'\np1\naL5L\naI01\naF2.5\na.") == ["a\\b'cé\n", 5, True, 2.5]


def test_real_file(meld_folder):
    """By the child; so are the next ones."""
    file = meld_folder / "cosmic_meld.pkl"
    assert load_pickle(file) == pickle.loads(file.read_bytes(), encoding="latin1")


def test_arrays_are_views_of_a_map(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([np.arange(100_000.0)], protocol=4))
    found = load_pickle(tmp_path / "a.pkl")[0]
    assert type(found.base).__name__ == "mmap"
    pickles.drop_pages(found[5:])
    np.testing.assert_array_equal(found, np.arange(100_000.0))


def test_child_is_killed_at_its_limits(tmp_path, monkeypatch):
    """Of time and of memory; and the size of the file is added to both."""
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([b"a" * 10_000_000], protocol=4))
    monkeypatch.setattr(pickles, "SECONDS", (0, 0.0))
    with pytest.raises(UnsafePickleError, match="takes more than 0 s or 313 MB, which no feature file does: fetch the"):
        load_pickle(tmp_path / "x.pkl")
    monkeypatch.setattr(pickles, "SECONDS", (10, 0.0))
    monkeypatch.setattr(pickles, "MEMORY", (2**24, 0.0))
    with pytest.raises(UnsafePickleError, match=r"takes far more memory than its size|takes more than 10 s or 16 MB"):
        load_pickle(tmp_path / "x.pkl")
    monkeypatch.setattr(pickles, "MEMORY", (2**28, 1.0))
    monkeypatch.setattr(pickles, "OUTPUT", (2**20, 0.0))
    with pytest.raises(UnsafePickleError, match="takes far more memory than its size"):
        load_pickle(tmp_path / "x.pkl")


def test_limits_that_a_shell_has_set_are_kept(tmp_path):
    """A process may not raise its hard limits."""
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([1.5]))
    argv = f"{sys.executable} -I -S -c '{child.START}' {child.ROOT} {2**32} 99 {2**40}"
    done = subprocess.run(["bash", "-c", f"ulimit -t 5 -f 1000; {argv} < x.pkl"], cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("refused", [["AS"], ["AS", "CPU", "FSIZE", "CORE"], ["CPU"], None])
def test_platform_without_limits(monkeypatch, refused):
    """macOS refuses a limit of memory; a platform may have no limits at all."""
    keys, held = {getattr(resource, f"RLIMIT_{name}"): name for name in ("AS", "CPU", "FSIZE", "CORE")}, []

    def setrlimit(key: int, limits: tuple[int, int]) -> None:
        if keys[key] in refused:
            raise ValueError("current limit exceeds maximum limit")
        held.append(keys[key])

    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    if refused is None:
        monkeypatch.setitem(sys.modules, "resource", None)
    assert child.set_limits(2**28, 9, 2**20) == (refused == ["CPU"])
    assert held == [name for name in keys.values() if refused is not None and name not in refused]


def test_large_files_are_refused_where_memory_is_not_limited(tmp_path, monkeypatch):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(["a" * 1000]))
    monkeypatch.setattr(child, "MAX_UNLIMITED", 1000)
    with (tmp_path / "x.pkl").open("rb") as file:
        problem = child.convert(file, io.BytesIO(), limited=False)
        assert re.match(r"has 10\d\d bytes, but this platform cannot limit the memory of a process, so that", problem)
        assert child.convert(file, io.BytesIO()) is None


def test_a_full_temporary_folder_is_no_fault_of_the_file(tmp_path):
    class Full(io.BytesIO):
        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "x.pkl").write_bytes(pickle.dumps([1.5]))
    with (tmp_path / "x.pkl").open("rb") as file:
        problem = child.convert(file, Full())
    assert problem.startswith("cannot be copied to the temporary folder (No space left on device)")


@pytest.mark.parametrize(
    ("shape", "stride"), [((0, 2**47, 2**47), (1, 1, 1)), ((0, 1), ("a", 1)), ((0,), (2**70,)), ((0,), (1, 1))]
)
def test_tensors_without_content_are_checked_too(shape, stride):
    source = stand_ins.Array().fill(bytes(16), stand_ins.Dtype("f4"), (4,))
    with pytest.raises((stand_ins.Refused, ValueError)):
        stand_ins.tensor(source, 0, shape, stride)
    assert stand_ins.tensor(source, 0, (0, 3), (3, 1)).shape == (0, 3)


def test_an_array_that_numpy_does_not_make(tmp_path, monkeypatch):
    """Nothing of it is read, but numpy has limits of its own."""
    shape = [0, *[10**6] * 5]
    line = json.dumps(["array", 0, "<f4", shape, [4] * 6]).encode() + b"\n"
    monkeypatch.setattr(pickles, "convert", lambda file, output: output.write(line) and output.flush())
    (tmp_path / "x.pkl").touch()
    with pytest.raises(UnsafePickleError, match=r"x\.pkl: announces an array that cannot be \("):
        load_pickle(tmp_path / "x.pkl")


REFUSED = {
    "call": (Call(os.system, "touch ran"), "posix.system"),
    "class": (Fraction, "fractions.Fraction"),
    "complex": (1j, "builtins.complex"),
    "numpy": (Call(np.load, "evil.npy"), "numpy.load"),
    "bfloat16": (torch.zeros(2, dtype=torch.bfloat16), "torch.BFloat16Storage"),
    "date": (np.datetime64("2020-01-01"), "an array of the type 'M8'"),
}


@pytest.mark.parametrize(("value", "name"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_by_name(value, name, tmp_path, monkeypatch, read):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UnsafePickleError, match=rf"^{re.escape(str(tmp_path))}/file: (names|holds) .*{re.escape(name)}"
    ):
        read(value)
    assert [f.name for f in tmp_path.iterdir()] == ["file"]


def test_depth(read):
    deep: list = []
    for _ in range(60):
        deep = [deep]
    with pytest.raises(UnsafePickleError, match="nested more than 50 deep, which no feature file is: write it flatter"):
        read(deep)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_cut_is_an_error(protocol, read):
    content = pickle.dumps([np.arange(3.0), {"a": [1, "x", 2.5]}], protocol=protocol)
    for end in range(len(content)):
        with pytest.raises(UnsafePickleError):
            read(content[:end])


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    parts=st.lists(
        st.binary(max_size=4)
        | st.sampled_from([a.content for a in hostile.pickles(bombs=False) if len(a.content) < 2000]),
        max_size=9,
    )
)
def test_noise_is_refused_or_read(read, parts):
    """Nothing but an InputError comes out; the long run over all kinds of file is `make fuzz`."""
    refused = ""
    try:
        read(b"".join(parts))
    except UnsafePickleError as error:
        refused = str(error)
    assert refused.isprintable()
