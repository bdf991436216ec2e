import math
import pickle
import sys
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.interop import torch_files
from score_jax.types import InputError
from tests.interop.writing import (
    KINDS,
    Call,
    Name,
    Stored,
    dense,
    read_entries,
    tensor,
    write_entries,
    write_stream,
    write_zip,
)

WRITERS = {"zip": write_zip, "stream": write_stream}
NUMBERS = np.arange(12, dtype=np.float32)


@pytest.fixture(params=WRITERS)
def write(request, tmp_path):
    return lambda contents, **options: WRITERS[request.param](tmp_path / "file.pth", contents, **options)


def values(dtype) -> np.ndarray:
    if dtype == "bool":
        return np.array([True, False, True])
    dtype = jnp.bfloat16 if dtype == "bfloat16" else dtype
    parts = np.array([1.5, -2, 0.1, 300]) + (1j * np.arange(4) if np.dtype(dtype).kind == "c" else 0)
    return parts.astype(dtype) if np.dtype(dtype).kind not in "iu" else np.array([1, 2, 100], dtype)


@pytest.mark.parametrize("dtype", [*(k for k in KINDS if k not in ("V2", "b1")), "bool", "bfloat16"])
def test_every_type_of_storage_in_both_formats(write, dtype):
    array = values(dtype)
    (found,) = (t.array() for t in torch_files.read_torch(write([dense("0", array)])))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "c8", "bfloat16", "u1"])
def test_a_big_endian_machines_zip_is_swapped_back(tmp_path, dtype):
    path = write_zip(tmp_path / "file.pth", dense("0", values(dtype)), order="big")
    found = torch_files.read_torch(path).array()
    assert found.dtype == values(dtype).dtype
    np.testing.assert_array_equal(found, values(dtype))


@pytest.mark.parametrize("size_format", ["<q", ">q"])
def test_a_big_endian_machines_stream_has_little_endian_numbers(tmp_path, size_format):
    path = write_stream(tmp_path / "file.pth", dense("0", NUMBERS), little_endian=False, size_format=size_format)
    np.testing.assert_array_equal(torch_files.read_torch(path).array(), NUMBERS)


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "expected"),
    [
        (0, (3, 4), (4, 1), NUMBERS.reshape(3, 4)),
        (0, (4, 3), (1, 4), NUMBERS.reshape(3, 4).T),
        (2, (2, 2), (6, 3), np.array([[2, 5], [8, 11]])),
        (5, (), (), np.array(5)),
        (3, (2, 3), (0, 2), np.array([[3, 5, 7], [3, 5, 7]])),
        (12, (0, 7), (7, 1), np.zeros((0, 7))),
        (99, (2, 0), (1, 1), np.zeros((2, 0))),
        (11, (1, 1), (100, 100), np.array([[11]])),
    ],
)
def test_tensors_are_views_by_offset_and_strides(write, offset, shape, strides, expected):
    for function in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        found = torch_files.read_torch(write(tensor(Stored("0", NUMBERS), offset, shape, strides, function))).array()
        assert found.shape == expected.shape
        np.testing.assert_array_equal(found, expected)
        assert not found.flags.writeable or not found.size


def test_tensors_share_a_storage_and_parameters_are_tensors(write):
    stored = Stored("weights", NUMBERS)
    parameter = Call(Name("torch._utils", "_rebuild_parameter"), (tensor(stored, 6, (6,), (1,)), True, {}))
    state = Call(Name("collections", "OrderedDict"), (), {"_metadata": {"version": 1}})
    loaded = torch_files.read_torch(write({"a": tensor(stored, 0, (6,), (1,)), "b": parameter, "empty": state}))
    np.testing.assert_array_equal(loaded["a"].array(), NUMBERS[:6])
    np.testing.assert_array_equal(loaded["b"].array(), NUMBERS[6:])
    assert loaded["empty"] == {}


def test_a_stream_of_2019_may_refer_to_a_part_of_a_storage(tmp_path):
    part = Stored("0", NUMBERS, ("storage", Name("torch", "FloatStorage"), "0", "cuda:0", 12, ("1", 4, 5)))
    path = write_stream(tmp_path / "file.pth", [tensor(part, 1, (4,), (1,)), tensor(part, 1, (5,), (1,))])
    inside, outside = torch_files.read_torch(path)
    np.testing.assert_array_equal(inside.array(), NUMBERS[5:9])
    with pytest.raises(InputError, match="reaches element 5 of a storage of 5"):
        outside.array()


def test_containers_and_numpy_numbers_in_an_optimizer(write):
    number = Call(
        Name("numpy.core.multiarray", "scalar"),
        (
            Call(Name("numpy", "dtype"), ("f8", False, True), (3, "<", None, None, None, -1, -1, 0)),
            Call(Name("_codecs", "encode"), (np.float64(0.999).tobytes().decode("latin1"), "latin1")),
        ),
    )
    size = Call(Name("torch", "Size"), ((2, 3),))
    contents = [{"state": {}, "groups": [{"betas": (0.9, number), "eps": None}]}, 3, 2**70, size]
    expected = [{"state": {}, "groups": [{"betas": (0.9, 0.999), "eps": None}]}, 3, 2**70, (2, 3)]
    assert torch_files.read_torch(write(contents)) == expected


FLOATS = Name("torch", "FloatStorage")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (tensor(Stored("0", NUMBERS), 1, (12,), (1,)), "reaches element 12 of a storage of 12"),
        (tensor(Stored("0", NUMBERS), 0, (3, 4), (5, 1)), "reaches element 13 of a storage of 12"),
        (tensor(Stored("0", NUMBERS), 2**40, (1,), (1,)), "reaches element 1099511627776"),
        (tensor(Stored("0", NUMBERS), 0, (2,), (-1,)), "damaged"),
        (tensor(Stored("0", NUMBERS), -1, (2,), (1,)), "damaged"),
        (tensor(Stored("0", NUMBERS), 0, (2.0,), (1,)), "damaged"),
        (tensor(Stored("0", NUMBERS), 0, (2,), (1, 1)), "damaged"),
        (tensor(Stored("0", NUMBERS), 0, (2**62,), (0,)), "damaged"),
        (tensor(Stored("0", NUMBERS), 0, (2**30, 2**30), (0, 0)), "more elements than any file"),
        (tensor(Stored("0", NUMBERS), 0, (0, 2**40, 2**40), (0, 0, 0)), "more elements than any file"),
        (tensor(Stored("0", NUMBERS), 0, (1,) * 33, (1,) * 33), "damaged"),
        (tensor(Stored("0", NUMBERS, ("storage", FLOATS, "0", "cpu", 2**60)), 0, (2,), (1,)), "damaged"),
        (tensor(Stored("0", NUMBERS, ("storage", FLOATS, "0", "cpu", 2**40)), 0, (2,), (1,)), "promised|damaged"),
        (
            tensor(Stored("0", NUMBERS, ("storage", FLOATS, "9", "cpu", 12)), 0, (2,), (1,)),
            "data/9|that no tensor uses",
        ),
        (tensor(Stored("0", NUMBERS, ("module", FLOATS, "0", "cpu", 12)), 0, (2,), (1,)), "damaged"),
        (tensor(Stored("0", NUMBERS, ("storage", "FloatStorage", "0", "cpu", 12)), 0, (2,), (1,)), "damaged"),
        (tensor(Stored("0", NUMBERS, ("storage", Name("torch", "Size"), "0", "cpu", 12)), 0, (2,), (1,)), "torch.Size"),
        (
            tensor(Stored("0", NUMBERS, ("storage", Name("torch", "QInt8Storage"), "0", "cpu", 1)), 0, (1,), (1,)),
            "QInt8",
        ),
        (Call(Name("torch.nn.modules.conv", "Conv2d"), ()), r"names torch\.nn\.modules\.conv\.Conv2d"),
        (Call(Name("os", "system"), ("true",)), r"names os\.system.*nothing was executed"),
        (Call(Name("torch._utils", "_rebuild_parameter"), (3, True, {})), "damaged"),
        (Call(Name("numpy.core.multiarray", "scalar"), (FLOATS, b"x")), "damaged"),
    ],
)
def test_tensors_that_are_not_there_are_one_line(write, contents, message):
    with pytest.raises(InputError, match=message) as error:
        torch_files.read_torch(write(contents)).array()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cut", [0, 1, 3, 4, 30, 200, 0.3, 0.5, 0.9, -1])
def test_a_file_cut_short_is_one_line(write, cut):
    path = write([dense("0", NUMBERS), dense("1", NUMBERS)])
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content)) if isinstance(cut, float) else cut])
    with pytest.raises(InputError, match=r"cut short|damaged|is empty|is not a file of torch\.save"):
        torch_files.read_torch(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n", "is not a file of torch.save: it starts with 0x89504e47"),
        (pickle.dumps({"a": 1}), "is not a file of torch.save"),
        (pickle.dumps(0x1950A86A20F9469CFC6C) + pickle.dumps(1002) + pickle.dumps({}), "protocol other than 1001"),
        (b"PK\x03\x04" + bytes(100), "damaged zip archive"),
    ],
)
def test_other_files_are_told_apart(tmp_path, content, message):
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        torch_files.read_torch(path)


def test_zip_entries_are_stored_whole_and_there(tmp_path):
    path = tmp_path / "file.pth"
    write_zip(path, dense("0", np.zeros(10_000_000, np.float32)), compression=zipfile.ZIP_DEFLATED)  # 40 kB for 40 MB
    with pytest.raises(InputError, match=r"entry archive/byteorder is compressed"):
        torch_files.read_torch(path)
    entries = read_entries(write_zip(path, dense("0", NUMBERS)))
    for changed, message in [
        ({"byteorder": b"middle"}, "byte order b'middle'"),
        ({"other/data.pkl": b"."}, "2 entries data.pkl"),
    ]:
        with pytest.raises(InputError, match=message):
            torch_files.read_torch(write_entries(path, entries | changed))
    del entries["data/0"]
    with pytest.raises(InputError, match="has no entry archive/data/0, which its pickle asks for"):
        torch_files.read_torch(write_entries(path, entries)).array()


def test_a_flipped_bit_in_a_zip_is_noticed(tmp_path):
    path = write_zip(tmp_path / "file.pth", dense("0", NUMBERS))
    content = bytearray(path.read_bytes())
    content[content.index(NUMBERS.tobytes()) + 17] ^= 4
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"entry archive/data/0 does not have the checksum"):
        torch_files.read_torch(path).array()


def test_a_zip_without_byte_order_is_little_endian(tmp_path):
    path = write_zip(tmp_path / "file.pth", dense("0", NUMBERS))
    entries = read_entries(path)
    del entries["byteorder"]
    np.testing.assert_array_equal(torch_files.read_torch(write_entries(path, entries)).array(), NUMBERS)


def test_streams_agree_with_their_pickles(tmp_path):
    path = tmp_path / "file.pth"
    twice = [dense("0", NUMBERS), tensor(Stored("0", NUMBERS[:3]), 0, (3,), (1,))]
    with pytest.raises(InputError, match="storage 0 is given two sizes or types"):
        torch_files.read_torch(write_stream(path, twice))
    content = write_stream(path, dense("0", NUMBERS)).read_bytes()
    path.write_bytes(content.replace((12).to_bytes(8, "little"), (11).to_bytes(8, "little")))
    with pytest.raises(InputError, match="does not have the 12 elements promised"):
        torch_files.read_torch(path)
    path.write_bytes(content.replace(pickle.dumps(["0"], 2), pickle.dumps([], 2)))
    with pytest.raises(InputError, match="has no storage 0, which its pickle asks for"):
        torch_files.read_torch(path).array()


def test_repeated_numbers_cost_nothing_until_they_are_copied(write):
    (huge,) = torch_files.read_torch(write([tensor(Stored("0", NUMBERS), 0, (2**20, 2**20), (0, 0))]))
    assert huge.array().shape == (2**20, 2**20)
    assert huge.nbytes == math.prod(huge.shape) * 4


def test_torch_is_not_imported():
    assert "torch" not in sys.modules
