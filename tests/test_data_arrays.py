"""Arrays in files, and labels: what is right is read exactly, the rest is one line that says how to mend it."""

import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from score_jax.data import ArraySource, array_file, bounded, hold_out, in_memory, npy, occurring, subset, unlabelled
from score_jax.data.source import blocks
from score_jax.types import InputError
from tests.helpers import peak_of, refused

RNG = np.random.default_rng(0)


def test_arrays_are_read_exactly_under_each_of_their_names(tmp_path):
    x, label = RNG.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8), np.array([0, 2, 1, 2])
    for names in (("x", "label"), ("images", "labels"), ("data", "y")):
        for save in (np.savez, np.savez_compressed):
            save(tmp_path / "a.npz", **dict(zip(names, (x, label))), other=np.zeros(3))
            source = array_file(tmp_path / "a.npz")
            np.testing.assert_array_equal(source.x, x)
            np.testing.assert_array_equal(source.label, label)
            assert source.num_classes == 3 and source.grey_levels == 256
    np.save(tmp_path / "a.npy", x[..., 0])
    assert array_file(tmp_path / "a.npy").shape == (6, 5, 1)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", ">f8", np.longdouble])
@pytest.mark.parametrize("order", ["C", "F"])
def test_points_of_every_type_and_order_are_given_out_as_float32(tmp_path, dtype, order):
    points = np.asarray(RNG.normal(size=(7, 2)), dtype, order=order)
    np.save(tmp_path / "a.npy", points)
    source = array_file(tmp_path / "a.npy")
    assert source.grey_levels == 0 and source.num_classes == 0 and source.shape == (2,)
    batch = source.batch(np.array([6, 0]))["x"]
    assert batch.dtype == np.float32 and batch.dtype.isnative
    np.testing.assert_array_equal(batch, points[[6, 0]].astype(np.float32))


def npz(path, arrays, method=zipfile.ZIP_STORED, change=None):
    """A zip archive of {name: bytes}, changed byte by byte."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in arrays.items():
            archive.writestr(name, content)
    content = bytearray(file.getvalue())
    if change:
        change(content)
    path.write_bytes(content)


def npy_bytes(shape, data=b"", descr="<f4", order=False):
    header = f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + data


def encrypted(content):
    content[6] = content[content.index(b"PK\x01\x02") + 8] = 1


def by_method(number):
    def change(content):
        content[8] = content[content.index(b"PK\x01\x02") + 10] = number

    return change


WHOLE = npy_bytes("(4, 4)", bytes(64))
UNUSABLE = {
    "objects.npy": (np.array([{"a": 1}, None], object), "holds Python objects, which only a pickle can read: refused"),
    "objects.npz": ({"x": np.array([{}])}, "entry x holds Python objects"),
    "names.npz": (
        {"pictures": np.zeros(3), "b": np.zeros(3)},
        "holds pictures, b; expected exactly one of x, images, data",
    ),
    "two.npz": ({"x": np.zeros((3, 2)), "data": np.zeros((3, 2))}, "holds x, data; expected exactly one"),
    "labels.npz": ({"x": np.zeros((3, 2)), "y": np.zeros(2, int)}, r"labels have shape \(2,\)"),
    "int64.npy": (np.zeros((3, 2), np.int64), r"x has dtype int64; expected uint8.*x\.astype\(np\.float32\)"),
    "uint16.npy": (np.zeros((3, 2, 2), np.uint16), "x has dtype uint16; expected uint8"),
    "complex.npy": (np.zeros((3, 2), np.complex64), "x has dtype complex64"),
    "records.npy": (np.zeros(3, [("a", "f4")]), "holds records"),
    "text.npy": (np.array(["a", "b"]), r"holds <U1 of shape \(2,\)"),
    "bytes.npy": (np.zeros((3, 2), np.uint8), r"holds uint8 of shape \(3, 2\); expected uint8 \(N, H, W\[, C\]\)"),
    "numbers.npy": (np.zeros(3), r"holds float64 of shape \(3,\).*x\[:, None\] makes vectors"),
    "scalar.npy": (np.zeros(()), r"holds float64 of shape \(\)"),
    "nan.npy": (np.array([[0.0], [np.nan]]), "has NaN, infinite values or values beyond float32, first in example 1"),
    "large.npy": (np.array([[0.0], [1e39]]), "beyond float32, first in example 1"),  # finite, but not in float32
    "empty.npy": (np.zeros((0, 2)), "the data set is empty"),
    "nothing.npy": (np.zeros((10**15, 0)), "its examples hold no numbers"),  # a header alone
    "levels.npy": (np.full((2, 3, 3), 9, np.uint8), r"holds grey level 9; expected 0 … 7"),
    "one.npy": (np.zeros((32, 32, 3), np.uint8), r"looks like one image: x\[None\] makes a data set of it"),
    "chw.npy": (np.zeros((5, 3, 32, 32), np.uint8), r"channels first; .*x\.transpose\(0, 2, 3, 1\) mends it"),
    "grey.npy": (np.zeros((5, 1, 28, 28), np.uint8), "channels first"),
    "wide.npy": (np.zeros((5, 3, 32, 48), np.uint8), "channels first"),
    "bands.npy": (np.zeros((5, 13, 64, 64), np.uint8), "channels first"),
    "floats.npy": (np.zeros((5, 4, 16, 16), np.float32), r"channels first; .*x\[\.\.\., None\] says .* volumes"),
    "volumes.npy": (np.zeros((5, 1, 6, 6, 6), np.float32), r"channels first; .*x\.transpose\(0, 2, 3, 4, 1\) mends it"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_array_file_that_cannot_be_used_is_one_line_that_names_it(tmp_path, name):
    content, message = UNUSABLE[name]
    np.savez(tmp_path / name, **content) if name.endswith("npz") else np.save(tmp_path / name, content)
    refused(rf"{name}: .*{message}", array_file, tmp_path / name, grey_levels=8)


@pytest.mark.parametrize("shape", [(5, 32, 32, 3), (5, 3, 3, 3), (5, 3, 32, 4), (5, 8, 8, 16), (5, 32, 48, 8)])
def test_images_with_channels_last_are_taken_as_they_are(tmp_path, shape):
    np.save(tmp_path / "x.npy", np.zeros(shape, np.uint8))
    assert array_file(tmp_path / "x.npy").shape == shape[1:]


DAMAGED = {
    "header.npy": (b"\x93NUMPY\x01\0" + struct.pack("<H", 9) + b"{'descr':", "has a damaged header"),
    "header_cut.npy": (b"\x93NUMPY\x01\0\xff\xff{", "is cut short within the header"),
    "length_cut.npy": (b"\x93NUMPY\x01\0\x01", "has a damaged header"),
    "header_of_4_GiB.npy": (b"\x93NUMPY\x02\0\xff\xff\xff\xff" + bytes(2**15), "is cut short within the header"),
    "version.npy": (b"\x93NUMPY\x09\0", "is no array as numpy.save writes it"),
    "not_utf8.npy": (b"\x93NUMPY\x01\0\x01\0\xff", "has a damaged header"),
    "nested.npy": (b"\x93NUMPY\x01\0" + struct.pack("<H", 9000) + b"(" * 9000, "has a damaged header"),
    "descr.npy": (npy_bytes("(4, 4)", bytes(64), "no type"), "has a damaged header"),
    "sub.npy": (npy_bytes("(4,)", bytes(64), "(2,2)f4"), "holds records or has a damaged header"),
    "width.npy": (npy_bytes("(4,)", b"", "<U0"), "holds records or has a damaged header"),
    "dimensions.npy": (npy_bytes(str((1,) * 65), bytes(4)), "holds records or has a damaged header"),
    "negative.npy": (npy_bytes("(-4, -4)", bytes(64)), "holds records or has a damaged header"),
    "beyond.npy": (npy_bytes("(99999999999999999999999, 4)", bytes(64)), "promises .* bytes .* where 64 are: damaged"),
    "huge.npy": (npy_bytes("(10000000000, 4)", bytes(64)), "promises 160000000000 bytes .* where 64 are"),
    "cut.npy": (WHOLE[:-1], "promises 64 bytes .* where 63 are"),
    "longer.npy": (WHOLE + WHOLE, "promises 64 bytes"),
    "empty.npy": (b"", "is empty, expected a .npy or .npz file"),
    "text.csv": (b"1,2,3\n", r"is text, expected .*np\.loadtxt"),
    "text.npy": (b"hello there", "is text"),
    "unicode.csv": ("höhe,breite\n".encode(), "is text"),
    "image.npy": (b"\x89PNG\r\n\x1a\n\0", "is an image.*data.name=folder"),
    "array.h5": (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
    "array.mat": (b"MATLAB 5.0 MAT-file", "is a Matlab file"),
    "array.npy.gz": (b"\x1f\x8b\x08", "is compressed by gzip.*unpack it"),
    "array.pkl": (pickle.dumps(os.abort), "is a pickle, which holds Python objects"),
    "random.npy": (bytes(range(100)), "is damaged or no array"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_any_damage_and_any_other_file_is_one_line(tmp_path, name):
    content, message = DAMAGED[name]
    (tmp_path / name).write_bytes(content)
    refused(rf"{name}: {message}", array_file, tmp_path / name)


ARCHIVES = {
    "text": ({"x.npy": b"hello"}, {}, "entry x is no array as numpy.save writes it"),
    "name": ({"x": WHOLE}, {}, "holds no arrays; expected exactly one of x, images, data"),
    "twice": ({"x.npy": WHOLE, "data.npy": WHOLE}, {}, "holds x, data"),
    "cut": ({"x.npy": WHOLE[:-1]}, {}, "entry x promises 64 bytes .* unlike the archive"),
    "longer": ({"x.npy": WHOLE + b"\0"}, {}, "entry x promises 64 bytes .* unlike the archive"),
    "huge": ({"x.npy": npy_bytes("(10000000000, 4)")}, {}, "entry x promises 160000000000 bytes"),
    "header": ({"x.npy": b"\x93NUMPY\x01\0\x01"}, {}, "entry x has a damaged header"),
    "encrypted": ({"x.npy": WHOLE}, {"change": encrypted}, "entry x is encrypted or compressed in another way"),
    "method": ({"x.npy": WHOLE}, {"change": by_method(99)}, "entry x is encrypted or compressed in another way"),
    "lzma": ({"x.npy": WHOLE}, {"method": zipfile.ZIP_LZMA}, "entry x is encrypted or compressed in another way"),
    "none": ({}, {}, "holds no arrays"),
    "labels": ({"x.npy": WHOLE, "y.npy": npy_bytes("(4,)", bytes(16), "<i2")}, {}, "entry y promises 8 bytes"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_any_damage_of_an_archive_is_one_line(tmp_path, name):
    arrays, options, message = ARCHIVES[name]
    npz(tmp_path / "a.npz", arrays, **options)
    refused(f"a.npz: {message}", array_file, tmp_path / "a.npz")


@pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed])
def test_cut_and_changed_files_are_read_as_they_were_or_refused(tmp_path, save):
    """Every length, and every byte changed: what is accepted has numbers that differ in the changed byte at most."""
    path, x = tmp_path / ("a.npy" if save is np.save else "a.npz"), RNG.normal(size=(4, 3)).astype(np.float32)
    save(path, **{"arr" if save is np.save else "x": x})
    whole = path.read_bytes()
    for n in range(0, len(whole), 7):
        path.write_bytes(whole[:n])
        refused(path.name, array_file, path)
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 32]) + whole[at + 1 :])
        try:
            found = array_file(path)
        except InputError as error:
            assert "\n" not in str(error) and path.name in str(error)
        else:
            if save is not np.save:  # a zip has checksums
                np.testing.assert_array_equal(found.x, x)


def test_no_file_is_one_line(tmp_path):
    refused("no.npz: no such file", array_file, tmp_path / "no.npz")
    refused(r"is no file; .*data\.name=folder", array_file, tmp_path)
    os.mkfifo(tmp_path / "fifo.npy")  # opening it would wait for ever
    refused("is no file", array_file, tmp_path / "fifo.npy")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded, "_ALLOWANCE", 2**20)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as entry:
        entry.write(npy_bytes("(16, 1048576)", descr="|u1"))
        for _ in range(16):
            entry.write(bytes(2**20))
    (tmp_path / "bomb.npz").write_bytes(file.getvalue())
    call = lambda: refused(
        r"entry x promises 16777.* bytes in a file of .*: refused; unpack it if you trust it: np\.save",
        array_file,
        tmp_path / "bomb.npz",
    )
    assert peak_of(call) < 2**20


# A file larger than what is read whole


@pytest.fixture
def rows_only(monkeypatch):
    monkeypatch.setattr(npy, "_IN_MEMORY", 0)


@pytest.mark.parametrize("dtype, shape", [("u1", (9, 4, 5)), ("u1", (9, 4, 5, 3)), ("<f4", (9, 2)), (">f8", (9, 3, 2))])
def test_large_files_are_read_row_by_row(tmp_path, rows_only, dtype, shape):
    x = RNG.integers(0, 200, shape).astype(dtype)
    np.save(tmp_path / "a.npy", x)
    source = array_file(tmp_path / "a.npy")
    assert isinstance(source.x, npy.Rows) and len(source) == 9
    rows = np.array([8, 0, 3, 3])
    expected = (
        x[..., None] if x.dtype == np.uint8 and x.ndim == 3 else x.astype(np.float32 if "f" in dtype else x.dtype)
    )
    np.testing.assert_array_equal(source.batch(rows)["x"], expected[rows])
    assert source.batch(rows[:0])["x"].shape == (0, *source.shape)
    np.testing.assert_array_equal(in_memory(source, batch_size=4).x, expected)


def test_large_files_are_checked_before_they_are_used(tmp_path, rows_only, monkeypatch):
    monkeypatch.setattr(blocks, "__defaults__", (4,))  # two rows at a time
    x = np.zeros((9, 2))
    x[7, 1] = np.inf
    np.save(tmp_path / "a.npy", x)
    refused("a.npy: x has NaN, .* first in example 7", array_file, tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.arange(9, dtype=np.uint8).reshape(9, 1, 1))
    refused("holds grey level 8; expected 0 … 7", array_file, tmp_path / "a.npy", grey_levels=8)
    np.save(tmp_path / "a.npy", np.asfortranarray(np.zeros((9, 2))))
    refused("a.npy: is in Fortran order", array_file, tmp_path / "a.npy")


def test_a_file_that_is_cut_while_it_is_read_is_one_line(tmp_path, rows_only):
    """A mapped file would kill the process."""
    np.save(tmp_path / "a.npy", np.zeros((2000, 8), np.float32))
    source = array_file(tmp_path / "a.npy")
    os.truncate(tmp_path / "a.npy", 4096)
    refused(r"a.npy: had 64128 bytes, now 4096: cut or changed while in use", source.batch, np.array([0, 1999]))
    (tmp_path / "a.npy").unlink()
    refused("a.npy: cannot be read", source.batch, np.array([0]))


def test_a_small_file_that_is_cut_later_was_read_already(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2000, 8), np.float32))
    source = array_file(tmp_path / "a.npy")
    os.truncate(tmp_path / "a.npy", 0)
    np.testing.assert_array_equal(source.batch(np.arange(2000))["x"], 1)


# Labels

X = np.zeros((6, 2), np.float32)


@pytest.mark.parametrize(
    "label, expected, names",
    [
        ([0, 2, 1, 2, 0, 1], [0, 2, 1, 2, 0, 1], "0 1 2"),
        ([1, 2, 7, 7, 1, 2], [0, 1, 2, 2, 0, 1], "1 2 7"),
        (np.array([5, 2**63, 5, 5, 5, 2**40], np.uint64), [0, 2, 0, 0, 0, 1], "5 1099511627776 9223372036854775808"),
        (np.array([2**32, 2**32 + 1, 0, 0, 1, 1]), [2, 3, 0, 0, 1, 1], "0 1 4294967296 4294967297"),
        (["dog", "cat", "cat", "ä", "dog", "dog"], [1, 0, 0, 2, 1, 1], "cat dog ä"),
        (np.array([b"b", b"a", b"a", b"a", b"\xff", b"b"]), [1, 0, 0, 0, 2, 1], "a b \\xff"),
        ([True, False, True, True, True, True], [1, 0, 1, 1, 1, 1], "False True"),
        ([3] * 6, [0] * 6, "3"),
    ],
)
def test_the_labels_that_occur_are_numbered_and_keep_their_names(tmp_path, label, expected, names):
    np.savez(tmp_path / "a.npz", x=X, label=label)
    for source in (ArraySource(X, np.asarray(label)), array_file(tmp_path / "a.npz")):
        assert source.label.dtype == np.int32 and source.num_classes == len(names.split())
        np.testing.assert_array_equal(source.label, expected)
        assert source.names == tuple(names.split())


@pytest.mark.parametrize(
    "label, message",
    [
        ([0, 1, 2, -1, 0, 0], r"labels run from -1 to 2; expected 0 or more, since -1 is no label.*label\.min\(\)"),
        ([0.0, 1.0, 2.0, 0.0, 0.0, 0.0], r"labels have dtype float64; expected integers or text: label\.astype\(int\)"),
        ([0j] * 6, "labels have dtype complex128"),
        ([[0]] * 6, r"labels have shape \(6, 1\); expected \(6,\), one an example: label\[:, 0\] mends it"),
        ([[0, 1, 0]] * 6, r"labels have shape \(6, 3\).*label\.argmax\(1\) mends one-hot labels"),
        ([0] * 5, r"labels have shape \(5,\); expected \(6,\)"),
    ],
)
def test_labels_that_cannot_be_classes_are_refused_with_the_cure(tmp_path, label, message):
    refused(message, ArraySource, X, np.array(label))
    np.savez(tmp_path / "a.npz", x=X, label=label)
    refused(f"a.npz: {message}", array_file, tmp_path / "a.npz")


@pytest.mark.parametrize("label", [[0, 1, 2, 3, 4, 2**32], [0, 1, -1, 0, 0, 0], [0.0] * 6, ["a"] * 6])
def test_labels_outside_a_stated_number_of_classes_are_refused(label):
    refused("expected (integers in )?0 … 9", ArraySource, X, np.array(label), 10)


def test_classes_without_an_example_do_not_occur():
    whole = ArraySource(np.zeros((4, 1)), np.array([0, 3, 3, 5]), num_classes=7)
    np.testing.assert_array_equal(occurring(whole), [0, 3, 5])
    np.testing.assert_array_equal(occurring(subset(whole, np.array([1, 2]))), [3])
    assert subset(whole, np.array([1])).names == ("0", "1", "2", "3", "4", "5", "6")
    np.testing.assert_array_equal(occurring(in_memory(whole)), [0, 3, 5])
    assert len(occurring(unlabelled(whole))) == 0


def test_reading_nothing_into_memory_is_one_line():
    refused("the data set is empty", in_memory, hold_out(ArraySource(np.zeros((4, 1))), 0)[1])


# Few examples


@pytest.mark.parametrize(
    "n, holdout, expected",
    [(100, 0.1, 10), (4, 0.1, 1), (2, 0.1, 1), (100, 0.99, 99), (100, 7, 7), (100, 7.0, 7), (100, 0, 0), (1, 0.0, 0)],
)
def test_what_is_held_out_is_a_share_or_a_number_and_at_least_one_unless_it_is_none(n, holdout, expected):
    train, test = hold_out(ArraySource(np.arange(n, dtype=np.float32)[:, None], np.arange(n)), holdout)
    assert (len(train), len(test)) == (n - expected, expected) and len(test.label) == expected
    np.testing.assert_array_equal(np.sort(np.concatenate([train.label, test.label])), np.arange(n))


@pytest.mark.parametrize(
    "n, holdout, message",
    [
        (1, 0.1, r"holdout=0.1 holds out 1 of 1 examples and leaves none to train on: .*--config\.data\.holdout=0"),
        (5, 5, "holds out 5 of 5"),
        (5, 9.0, "holds out 9 of 5"),
        (2, 0.99, "holds out 2 of 2"),
        (5, 1.5, "holdout=1.5; expected a share below 1, a whole number of examples, or 0 for none"),
        (5, -1, "holdout=-1; expected"),
        (5, float("nan"), "holdout=nan; expected"),
        (5, float("inf"), "holdout=inf; expected"),
    ],
)
def test_a_split_that_is_none_is_refused_with_the_cure(n, holdout, message):
    refused(message, hold_out, ArraySource(np.zeros((n, 1))), holdout)
