"""What plain pickles of all protocols hold comes out as Python's own unpickler gives it; what is not plain is refused by name.

Crafted attacks: tests/lfvd/data/importers/test_hostile.py.
"""

import collections
import os
import pickle
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lfvd.data.importers.pickles import PickleRefused, unpickled, unpickled_bytes
from lfvd.files import InputError
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


def read(value, protocol: int = 4):
    return unpickled_bytes(pickle.dumps(value, protocol=protocol), source="file")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())
def test_arrays(array, protocol):
    found, again = read((array, array), protocol)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(again, array)
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


@given(PLAIN, st.sampled_from(PROTOCOLS))
def test_plain_values(value, protocol):
    assert read(value, protocol) == value


def test_long_bytes_and_odd_containers():
    value = [
        bytearray(b"ab"),
        frozenset([3]),
        collections.OrderedDict(b=1, a=2),
        collections.defaultdict(list, {3: [4]}),
    ]
    for protocol in PROTOCOLS:
        assert read(value, protocol) == [b"ab", {3}, {"b": 1, "a": 2}, {3: [4]}]
        assert bytes(read(b"x" * 300, protocol)) == b"x" * 300
        assert read(["é" * 300, "x" * 100_000], protocol) == ["é" * 300, "x" * 100_000]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scalars_and_objects(protocol):
    value = [np.float32(0.5), np.int64(-3), np.str_("é"), np.bool_(True), np.array([{"a": 1}, 2, None], dtype=object)]
    found = read(value, protocol)
    assert found == [0.5, -3, "é", True, [{"a": 1}, 2, None]]
    assert [type(x) for x in found] == [float, int, str, bool, list]


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool])
def test_tensors(dtype, protocol):
    tensor = torch.arange(12).reshape(3, 4).to(dtype)
    for part in (tensor, tensor.t(), tensor[1:, ::2], tensor[0, 0], tensor[:0], tensor.expand(1, 3, 4)):
        np.testing.assert_array_equal(read([part], protocol)[0], part.numpy())


def test_tensors_that_share_a_storage():
    base = torch.arange(6.0)
    found = read({"a": base, "b": base[2:4]})
    np.testing.assert_array_equal(found["b"], [2, 3])


def test_python2():
    value = (
        {"a": "x" * 300, 1: [True, 2.5, "caf\xe9"]},
        np.arange(400.0),
        [np.arange(3, dtype=np.int32)] * 2,
        ("y" * 300,),
    )
    content = DUMPS["python2"](value)
    found = unpickled_bytes(content, source="file")
    assert found[0] == value[0]
    assert found[3] == value[3]
    np.testing.assert_array_equal(found[1], value[1])
    np.testing.assert_array_equal(found[2][1], value[2][1])


def test_python2_text_of_protocol_0():
    assert unpickled_bytes(b"(lp0\nS'a\\\\b\\'c\\xe9\\n'\np1\naL5L\naI01\naF2.5\na.", source="file") == [
        "a\\b'cé\n",
        5,
        True,
        2.5,
    ]
    for text in (b"S'a\\q'\n.", b"S'a\\'\n.", b"Sa\n."):
        with pytest.raises(PickleRefused):
            unpickled_bytes(text, source="file")


def test_real_file(meld_folder):
    file = meld_folder / "cosmic_meld.pkl"
    assert unpickled(file) == pickle.loads(file.read_bytes(), encoding="latin1")


def test_arrays_are_views_of_the_file(tmp_path):
    array = np.arange(100_000.0)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([array], protocol=4))
    found = unpickled(tmp_path / "a.pkl")[0]
    np.testing.assert_array_equal(found, array)
    while isinstance(found, np.ndarray):
        base, found = found, found.base
    assert not base.flags.owndata
    assert type(found).__name__ in ("memoryview", "mmap")


class Sample:
    """Someone's class."""


class Call:
    """Pickles as the call of something."""

    def __init__(self, called, *args):
        self.reduced = called, args

    def __reduce__(self):
        return self.reduced


REFUSED = {
    "call": (Call(os.system, "touch ran"), "posix.system"),
    "eval": (Call(eval, "1"), "builtins.eval"),
    "class": (Sample(), None),
    "fraction": (Fraction(1, 2), "fractions.Fraction"),
    "complex": (1j, "builtins.complex"),
    "getattr": (Call(getattr, "a", "upper"), "builtins.getattr"),
    "numpy": (Call(np.load, "evil.npy"), "numpy.load"),
    "bfloat16": (torch.zeros(2, dtype=torch.bfloat16), "torch.BFloat16Storage"),
    "date": (np.datetime64("2020-01-01"), None),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("value", "name"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_by_name(value, name, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PickleRefused, match=r"^file: ") as caught:
        read(value, protocol)
    assert isinstance(caught.value, InputError)
    if name and protocol >= 3:  # older ones have older names of modules, and reconstructors of classes
        assert name in str(caught.value)
        assert "so it is not opened" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_list_in_itself():
    loop: list = []
    loop.append([loop])
    text = "file: holds a container inside itself, which no feature file does: write it without"
    with pytest.raises(PickleRefused, match=f"^{re.escape(text)}$"):
        read(loop)


def test_depth():
    deep: list = []
    for _ in range(60):
        deep = [deep]
    with pytest.raises(PickleRefused, match="nested more than 50 deep"):
        read(deep)


def test_keys_that_cannot_be_hashed_in_time():
    bomb: tuple = ()
    for _ in range(40):
        bomb = (bomb, bomb)
    for key in (bomb, 2**61 - 1, (1, 2)):
        item = pickle.dumps(key, protocol=2)[2:-1]  # Python itself would hash the bomb for ever
        for content in (b"}" + item + b"Ns.", b"(" + item + b"Nd.", b"\x8f(" + item + b"\x90.", b"(" + item + b"\x91."):
            with pytest.raises(PickleRefused, match="keys must be text or numbers"):
                unpickled_bytes(content, source="file")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_cut_is_an_error(protocol):
    content = pickle.dumps([np.arange(3.0), {"a": [1, "x", 2.5]}], protocol=protocol)
    for end in range(len(content)):
        with pytest.raises(PickleRefused):
            unpickled_bytes(content[:end], source="file")


def test_announced_shape_beyond_the_data():
    content = pickle.dumps(np.arange(3, dtype=np.int8), protocol=2)
    for shape in (b"J\xff\xff\xff\x7f\x85", b"K\x04\x85"):
        changed = content.replace(b"K\x03\x85", shape)
        assert changed != content
        with pytest.raises(
            PickleRefused, match=r"announces an array of shape \(\d+,\) of int8 \(\d+ bytes\) where it has 3 bytes"
        ):
            unpickled_bytes(changed, source="file")


def test_empty_and_missing_file(tmp_path):
    (tmp_path / "empty.pkl").touch()
    with pytest.raises(PickleRefused, match="is cut off, damaged or not a pickle"):
        unpickled(tmp_path / "empty.pkl")
    with pytest.raises(FileNotFoundError):
        unpickled(tmp_path / "none.pkl")
