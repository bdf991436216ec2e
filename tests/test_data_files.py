import gzip
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from score_jax.data import cifar, cifar10, fashion_mnist, mnist, read_idx
from score_jax.types import InputError
from tests.helpers import peak_of, refused

RNG = np.random.default_rng(0)


def zeros_gz(n):
    """A gzip stream of n zeros, made of members of a mebibyte."""
    return gzip.compress(bytes(2**20)) * (n >> 20)


# IDX


def idx_bytes(x, code=0x08):
    return (
        bytes([0, 0, code, x.ndim])
        + struct.pack(f">{x.ndim}I", *x.shape)
        + x.astype(x.dtype.newbyteorder(">")).tobytes()
    )


def write_idx(path, content):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_mnist(folder, images, labels, prefix="train", suffix=".gz"):
    folder.mkdir(parents=True, exist_ok=True)
    write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", idx_bytes(images))
    write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", idx_bytes(labels))


IMAGES, LABELS = RNG.integers(0, 256, (5, 28, 28), dtype=np.uint8), np.array([3, 1, 4, 1, 9], np.uint8)


@pytest.mark.parametrize("code, dtype", [(8, "u1"), (9, "i1"), (0x0B, "i2"), (0x0C, "i4"), (0x0D, "f4"), (0x0E, "f8")])
@pytest.mark.parametrize("name", ["a.idx", "a.gz"])
def test_idx_files_of_every_item_type_are_read_exactly(tmp_path, name, code, dtype):
    x = RNG.normal(0, 40, (3, 4, 5)).astype(dtype)
    y = read_idx(write_idx(tmp_path / name, idx_bytes(x, code)))
    assert y.dtype == x.dtype and y.dtype.isnative
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("read", [mnist, fashion_mnist])
def test_mnist_layouts_give_images_and_labels(tmp_path, read, suffix):
    write_mnist(tmp_path, IMAGES, LABELS, "t10k", suffix)
    batch = read(tmp_path, split="test").batch(np.array([4, 0]))
    np.testing.assert_array_equal(batch["x"], IMAGES[[4, 0], ..., None])
    np.testing.assert_array_equal(batch["label"], [9, 3])
    assert read(tmp_path, split="test").num_classes == 10


WHOLE = idx_bytes(IMAGES)


@pytest.mark.parametrize("name", ["bad.idx", "bad.gz"])
@pytest.mark.parametrize(
    "content, message",
    [
        (WHOLE[:-1], r"promises \(5, 28, 28\) items, 3920 bytes, but only 3919 follow"),
        (WHOLE[:16], "but only 0 follow"),
        (WHOLE + b"\0", "3920 bytes, but more follow"),
        (WHOLE[:10], "cut short within its header"),
        (b"\0\0", "not an IDX file: starts with 0x0000"),
        (b"", "not an IDX file"),
        (b"\x89PNG" + WHOLE, "not an IDX file: starts with 0x89504e47"),
        (b"\0\0\x07\x03" + WHOLE[4:], "not an IDX file: starts with 0x00000703"),
        (b"\0\0\x08\x00", "not an IDX file"),
        (b"\0\0\x08\x03" + b"\xff" * 12, r"promises \d+ bytes in a file of \d+: refused"),
        (
            b"\0\0\x08\x01" + struct.pack(">I", 2**31),
            r"promises 2147483648 bytes in a file of \d+: refused",
        ),  # 2 GiB promised
    ],
)
def test_a_damaged_idx_file_is_one_line_that_names_it(tmp_path, name, content, message):
    refused(rf"{name}: .*{message}", read_idx, write_idx(tmp_path / name, content))


@pytest.mark.parametrize("name", ["bomb.idx", "bomb.gz"])
def test_memory_follows_what_an_idx_file_holds_not_what_it_promises(tmp_path, name):
    path = write_idx(tmp_path / name, b"\0\0\x08\x01" + struct.pack(">I", 2**25))
    assert peak_of(lambda: refused("but only 0 follow", read_idx, path)) < 2**23  # pieces of 1 MiB


def test_a_gzip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    header = gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", 2**31))
    (tmp_path / "bomb.gz").write_bytes(header + zeros_gz(2**29))  # 2 GiB promised, half a MB held
    assert peak_of(lambda: refused("promises 2147483648 bytes", read_idx, tmp_path / "bomb.gz")) < 2**23
    (tmp_path / "tail.gz").write_bytes(gzip.compress(WHOLE) + zeros_gz(2**27))  # more than is promised
    assert peak_of(lambda: refused("but more follow", read_idx, tmp_path / "tail.gz")) < 2**23


def test_every_flipped_bit_of_a_gzip_stream_is_noticed(tmp_path):
    whole = gzip.compress(WHOLE)
    for at in np.linspace(10, len(whole) - 1, 60).astype(int):
        damaged = bytearray(whole)
        damaged[at] ^= 4
        (tmp_path / "a.gz").write_bytes(damaged)
        refused("a.gz: ", read_idx, tmp_path / "a.gz")


def test_a_damaged_gzip_stream_is_named(tmp_path):
    whole = gzip.compress(WHOLE)
    for content in (whole[:-20], whole[: len(whole) // 2], whole[:100] + b"\0\0\0\0" + whole[104:], b"\x1f\x8b"):
        (tmp_path / "bad.gz").write_bytes(content)
        refused("bad.gz: the gzip stream is damaged", read_idx, tmp_path / "bad.gz")
    refused("absent: cannot be read", read_idx, tmp_path / "absent")


@pytest.mark.parametrize(
    "images, labels, message",
    [
        (IMAGES.astype(np.int32), LABELS, r"images.*3-dimensional items of type int32; expected 3 dimensions of uint8"),
        (IMAGES[0], LABELS, "images.*2-dimensional"),
        (IMAGES, LABELS[:4], "labels.*holds 4 labels up to 4 for 5 images"),
        (IMAGES, LABELS + np.uint8(1), "5 labels up to 10"),
    ],
)
def test_images_and_labels_that_do_not_belong_together_are_refused(tmp_path, images, labels, message):
    write_idx(tmp_path / "train-images-idx3-ubyte", idx_bytes(images, 0x0C if images.dtype == np.int32 else 8))
    write_idx(tmp_path / "train-labels-idx1-ubyte", idx_bytes(labels))
    refused(message, mnist, tmp_path)


def test_missing_sets_say_where_was_looked_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCORE_JAX_DATA", "/somewhere")
    refused("MNIST is not here: no train-images-idx3-ubyte.*in /somewhere/mnist, /somewhere, data/mnist", mnist)
    refused(
        r"no t10k-images-idx3-ubyte.*in here; .*\(apt-get install dataset-fashion-mnist\)",
        fashion_mnist,
        "here",
        split="test",
    )
    refused(
        "CIFAR-10 is not here: looked in /somewhere/cifar10, /somewhere, data/cifar10; put cifar-10-binary", cifar10
    )
    refused("Fashion-MNIST has no split 'valid'; expected 'train' or 'test'", fashion_mnist, split="valid")


def test_sets_are_found_in_the_environment_and_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCORE_JAX_DATA", raising=False)
    write_mnist(tmp_path / "data/fashion-mnist", IMAGES, LABELS)
    write_mnist(tmp_path / "elsewhere/fashion-mnist", IMAGES[:2], LABELS[:2])
    assert len(fashion_mnist()) == 5
    monkeypatch.setenv("SCORE_JAX_DATA", str(tmp_path / "elsewhere"))
    assert len(fashion_mnist()) == 2


def test_fashion_mnist_itself_is_read_whole():
    try:
        places = [Path(__file__).parents[2] / "shared/data/fashion-mnist", None]
        place = next(place for place in places if place is None or place.exists())
        train, test = (fashion_mnist(place, split=split) for split in ("train", "test"))
    except InputError as error:
        pytest.skip(str(error))
    assert train.shape == (28, 28, 1) and (len(train), len(test)) == (60_000, 10_000)
    np.testing.assert_array_equal(np.bincount(train.label), [6000] * 10)  # balanced, as published
    np.testing.assert_array_equal(np.bincount(test.label), [1000] * 10)
    assert train.x.mean() == pytest.approx(0.2860 * 255, rel=1e-3)  # the mean everyone normalises with


# CIFAR-10


def cifar_batches(n=3):
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    return {name: (RNG.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), RNG.integers(0, 10, n)) for name in names}


def binary_parts(batches):
    return {
        f"cifar-10-batches-bin/{name}.bin": np.concatenate(
            [labels[:, None].astype(np.uint8), x.reshape(len(x), -1)], 1
        ).tobytes()
        for name, (x, labels) in batches.items()
    }


def python2_pickle(x, labels):
    """The bytes Python 2's cPickle wrote for {"data": uint8 array, "labels": list}, protocol 2."""
    short = lambda text: b"U" + bytes([len(text)]) + text.encode()
    raw = x.tobytes()
    dtype = (
        b"cnumpy\ndtype\n"
        + short("u1")
        + b"K\0K\x01\x87R(K\x03"
        + short("|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    )
    shape = b"J" + struct.pack("<i", len(x)) + b"M" + struct.pack("<H", 3072) + b"\x86"
    data = b"T" + struct.pack("<i", len(raw)) + raw
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + short("b") + b"\x87R"
    array += b"(K\x01" + shape + dtype + b"\x89" + data + b"tb"
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + short("data") + array + short("labels") + listed + b"u."


def python3_pickle(x, labels):
    content = {
        "data": x.reshape(len(x), -1),
        "labels": labels.tolist(),
        "batch_label": "one",
        "filenames": ["a.png"] * len(x),
    }
    return pickle.dumps(content, protocol=2)


def pickled_parts(batches, dump):
    return {f"cifar-10-batches-py/{name}": dump(*batch) for name, batch in batches.items()}


def write_tar(path, parts, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in parts.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_files(root, parts):
    for name, content in parts.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    return root


def assert_cifar(source, batches, names):
    np.testing.assert_array_equal(source.x, np.concatenate([batches[n][0] for n in names]).transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(source.label, np.concatenate([batches[n][1] for n in names]))


LAYOUTS = {
    "cifar-10-binary.tar.gz": binary_parts,
    "cifar-10-python.tar.gz": lambda batches: pickled_parts(batches, python2_pickle),
    "any-name.tar": lambda batches: pickled_parts(batches, python3_pickle),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("packed", [True, False])
def test_cifar_archives_and_their_extracted_folders_are_read_exactly(tmp_path, name, packed):
    batches = cifar_batches()
    parts = {"cifar-10-batches/readme.html": b"hello", **LAYOUTS[name](batches)}
    root = (
        write_tar(tmp_path / name, parts, "w:gz" if name.endswith("gz") else "w")
        if packed
        else write_files(tmp_path, parts)
    )
    listing = sorted(tmp_path.rglob("*"))
    assert_cifar(cifar10(root), batches, [f"data_batch_{i}" for i in range(1, 6)])
    assert_cifar(cifar10(root, split="test"), batches, ["test_batch"])
    assert sorted(tmp_path.rglob("*")) == listing  # nothing was extracted


def test_an_archive_in_the_folder_is_found(tmp_path, monkeypatch):
    batches = cifar_batches()
    write_tar(tmp_path / "cifar-10-binary.tar.gz", binary_parts(batches))
    monkeypatch.setenv("SCORE_JAX_DATA", str(tmp_path))
    assert_cifar(cifar10(split="test"), batches, ["test_batch"])


class Attack:
    """Pickles to a call of `function`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "function, name",
    [(os.system, r"posix\.system"), (eval, r"(__builtin__|builtins)\.eval"), (np.load, r"numpy.*load")],
)
def test_a_malicious_pickle_is_refused_by_name_and_not_executed(tmp_path, function, name, protocol):
    victim = tmp_path / "victim"
    argument = {os.system: f"touch {victim}", eval: f"open({str(victim)!r}, 'w')", np.load: str(victim)}[function]
    attack = pickle.dumps({"data": Attack(function, argument), "labels": []}, protocol=protocol)
    archive = write_tar(tmp_path / "x.tar.gz", {"test_batch": attack})
    refused(rf"x.tar.gz: test_batch: names {name}.*refused, nothing was executed", cifar10, archive, split="test")
    assert not victim.exists()


def test_damaged_cifar_archives_are_one_line_that_names_them(tmp_path):
    batches = cifar_batches()
    good = write_tar(tmp_path / "good.tar.gz", binary_parts(batches)).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(good[: len(good) // 2])
    refused("cut.tar.gz: not a readable tar archive, or cut short", cifar10, tmp_path / "cut.tar.gz", split="test")
    (tmp_path / "no.tar.gz").write_bytes(b"hello")
    refused("no.tar.gz: not a readable tar archive", cifar10, tmp_path / "no.tar.gz")
    missing = {name: x for name, x in binary_parts(batches).items() if "_3" not in name}
    refused("data_batch_3 not found in it", cifar10, write_tar(tmp_path / "m.tar.gz", missing))
    short = write_tar(tmp_path / "s.tar.gz", {"test_batch.bin": b"\0" * 3072})
    refused("s.tar.gz: test_batch.bin: has 3072 bytes; expected a multiple of 3073", cifar10, short, split="test")


def test_every_flipped_bit_of_a_cifar_archive_is_noticed(tmp_path):
    good = write_tar(tmp_path / "c.tar.gz", binary_parts(cifar_batches(1))).read_bytes()
    for at in np.linspace(30, len(good) - 1, 60).astype(int):  # wherever it is, in what is read or behind it
        damaged = bytearray(good)
        damaged[at] ^= 4
        (tmp_path / "c.tar.gz").write_bytes(damaged)
        refused("c.tar.gz: ", cifar10, tmp_path / "c.tar.gz", split="test")


def lists_in_lists(depth=30):
    """Ten times the same list in a list, and so on: 10^30 labels in a kilobyte."""
    labels = [0]
    for _ in range(depth):
        labels = [labels] * 10
    return pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": labels}, 2)


BOMBS = {
    "a memo slot that asks for 32 GiB": (b"\x80\x02}r\xff\xff\xff\xff.", "is not a CIFAR-10 part"),
    "lists that hold the same list": (lists_in_lists(), "labels that are not numbers"),
    "a text of 2 GiB": (b"\x80\x02T\xff\xff\xff\x7f", "damaged"),
    "nested tuples as a key": (b"\x80\x02})" + b"q\0h\0\x86" * 60 + b"Ns.", "damaged"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_pickled_bomb_costs_no_more_than_its_bytes(tmp_path, name):
    content, message = BOMBS[name]
    (tmp_path / "test_batch").write_bytes(content)
    assert peak_of(lambda: refused(message, cifar10, tmp_path, split="test")) < 2**20


def test_the_pickles_of_an_archive_share_a_budget_of_instructions(tmp_path, monkeypatch):
    batches = cifar_batches()
    archive = write_tar(tmp_path / "c.tar", pickled_parts(batches, python3_pickle), "w")
    assert_cifar(cifar10(archive, split="test"), batches, ["test_batch"])
    monkeypatch.setattr(cifar, "_MAX_INSTRUCTIONS", 200)
    refused("data_batch_.: its pickles have more instructions", cifar10, archive)


def test_a_cifar_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    huge = tarfile.TarInfo("cifar/test_batch")
    huge.size = 2**33
    (tmp_path / "huge.tar").write_bytes(huge.tobuf())
    refused("test_batch has 8589934592 bytes; expected about 31 MB", cifar10, tmp_path / "huge.tar", split="test")
    other = tarfile.TarInfo("other")
    other.size = 2**22
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(other.tobuf()) + zeros_gz(2**24))
    monkeypatch.setattr(cifar, "_MAX_BYTES", 2**22)
    call = lambda: refused("unpacks to more than 4194304 bytes", cifar10, tmp_path / "bomb.tar.gz")
    assert peak_of(call) < 2**23
    many = write_tar(tmp_path / "many.tar", {f"{i}.png": b"" for i in range(1001)}, "w")
    refused("more than 1000 entries", cifar10, many)
    (tmp_path / "test_batch.bin").touch()
    os.truncate(tmp_path / "test_batch.bin", 2**40)  # a sparse file
    refused("test_batch.bin has 1099511627776 bytes; expected about 31 MB", cifar10, tmp_path, split="test")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"hello", "its pickle"),
        (pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [2**40]}, 2), "labels that are not numbers"),
        (pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, 2), "1 labels up to 10"),
        (pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [-1]}, 2), "labels that are not numbers"),
        (python2_pickle(*cifar_batches()["test_batch"])[:-500], "is damaged"),
        (pickle.dumps({"data": np.zeros((2, 3072)), "labels": [0, 0]}, 2), "array of type f8"),
        (
            pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, 2),
            r"pixels \(2, 3072\) and labels \(1,\)",
        ),
        (pickle.dumps({"data": np.zeros((2, 5), np.uint8), "labels": [0, 0]}, 2), r"pixels \(2, 5\)"),
        (pickle.dumps([1, 2], 2), "is not a CIFAR-10 part"),
        (pickle.dumps({"labels": [1]}, 2), "is not a CIFAR-10 part.*data"),
    ],
)
def test_a_pickle_that_is_no_cifar_part_is_refused(tmp_path, content, message):
    (tmp_path / "test_batch").write_bytes(content)
    refused(f"test_batch.*{message}", cifar10, tmp_path, split="test")
