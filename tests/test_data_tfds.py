import json
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from score_jax.data import Loader, in_memory, occurring, tfds
from score_jax.types import InputError

array_record = pytest.importorskip("array_record", reason="array_record has no wheel for this platform")

X = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 3), dtype=np.uint8)
POINTS = np.random.default_rng(1).normal(size=(7, 2)).astype(np.float32)
LABELS = np.array([2, 0, 1, 1, 2, 0, 0])


def prepare(root, version, n, classes=3):
    """Writes examples 0 … n-1 in two shards without TensorFlow: images as plain tensors need no encoder."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.dataset_info import DatasetIdentity

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Tensor(shape=(4, 4, 3), dtype=np.uint8),
            "label": tfds.features.ClassLabel(num_classes=classes),
            "point": tfds.features.Tensor(shape=(2,), dtype=np.float32),
            "depth": tfds.features.Tensor(shape=(4, 4, 1), dtype=np.uint16),
        }
    )
    folder = root / "tiny" / version
    folder.mkdir(parents=True)
    identity = DatasetIdentity("tiny", tfds.core.Version(version), str(folder), module_name="")
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=4, file_format="array_record")
    writer.initialize_splits(["train"])
    depth = np.zeros((4, 4, 1), np.uint16)
    examples = [{"image": X[i], "label": int(LABELS[i]), "point": POINTS[i], "depth": depth} for i in range(n)]
    writer.add_examples({"train": examples})
    writer.close_all()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    prepare(root, "10.0.0", 7)
    prepare(root, "9.0.0", 3)
    return root


def test_an_array_record_copy_is_read_exactly_and_the_newest_version_taken(data_dir):
    source = tfds.load("tiny", data_dir=data_dir)
    assert (len(source), source.shape, source.num_classes, source.grey_levels) == (7, (4, 4, 3), 3, 256)
    batch = source.batch(np.array([5, 2, 6]))
    np.testing.assert_array_equal(batch["x"], X[[5, 2, 6]])
    np.testing.assert_array_equal(batch["label"], LABELS[[5, 2, 6]])


def test_a_version_and_a_part_of_a_split_can_be_asked_for(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert len(tfds.load("tiny:9.0.0")) == 3
    parts = [in_memory(tfds.load("tiny", split=split)).x for split in ("train[:4]", "train[4:]")]
    np.testing.assert_array_equal(np.concatenate(parts), X)


def test_another_feature_can_be_the_example(data_dir):
    source = tfds.load("tiny", data_dir=data_dir, x_key="point", label_key="none")
    assert source.grey_levels == 0 and source.num_classes == 0 and source.shape == (2,)
    np.testing.assert_array_equal(in_memory(source).x, POINTS)


def test_a_copy_is_loaded_in_batches(data_dir):
    loader = Loader(tfds.load("tiny", data_dir=data_dir), batch_size=7)
    np.testing.assert_array_equal(np.sort(next(loader)["label"][0]), np.sort(LABELS))
    loader.close()


def refused(message, *args, **kwargs):
    with pytest.raises(InputError, match=message) as caught:
        tfds.load(*args, **kwargs)
    assert "\n" not in str(caught.value)


def test_a_missing_copy_says_what_to_run(tmp_path):
    refused(
        r"no prepared copy of 'cifar10'.*pip install tensorflow.*tfds.builder\('cifar10', data_dir='.*', "
        r"file_format='array_record'\).download_and_prepare\(\)",
        "cifar10",
        data_dir=tmp_path,
    )


def test_a_copy_in_the_default_format_says_what_to_run_and_where_to(tmp_path):
    copy = tmp_path / "mnist" / "3.0.1"
    copy.mkdir(parents=True)
    (copy / "dataset_info.json").write_text(json.dumps({"name": "mnist", "fileFormat": "tfrecord"}))
    refused(
        "is prepared as tfrecord, which only TensorFlow reads; .*data_dir='.*array_record'", "mnist", data_dir=tmp_path
    )
    (copy / "dataset_info.json").write_text("{")
    refused("dataset_info.json: damaged", "mnist", data_dir=tmp_path)


def test_classes_without_an_example_do_not_occur(tmp_path):
    """As the letters of EMNIST, which are 1 to 26 of 37 classes."""
    prepare(tmp_path, "1.0.0", 7, classes=5)
    source = tfds.load("tiny", data_dir=tmp_path)
    assert source.names == ("0", "1", "2", "3", "4")
    np.testing.assert_array_equal(occurring(source), [0, 1, 2])
    np.testing.assert_array_equal(occurring(tfds.load("tiny", split="train[:2]", data_dir=tmp_path)), [0, 2])


def test_a_copy_that_cannot_be_used_is_one_line(data_dir, tmp_path):
    refused("feature 'depth' has dtype uint16; expected uint8 or floating", "tiny", x_key="depth", data_dir=data_dir)
    prepare(tmp_path, "1.0.0", 7)
    (tmp_path / "tiny/1.0.0/features.json").write_text("{")
    refused("its description cannot be read .*prepare it again", "tiny", data_dir=tmp_path)


def test_unknown_splits_and_features_are_answered_with_the_known_ones(data_dir):
    refused("has no split 'test'; it has train", "tiny", split="test", data_dir=data_dir)
    refused("has no feature 'pixels'; it has .*image", "tiny", x_key="pixels", data_dir=data_dir)


@pytest.mark.skipif(find_spec("tensorflow") is not None, reason="TFDS imports TensorFlow where it is installed")
def test_reading_a_copy_imports_no_tensorflow(data_dir):
    code = (
        "import sys; from score_jax.data import in_memory, tfds\n"
        f"print(len(in_memory(tfds.load('tiny', data_dir={str(data_dir)!r}))), 'tensorflow' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "7 False"
    )


def test_a_vanished_or_damaged_shard_is_named(tmp_path):
    prepare(tmp_path, "1.0.0", 7)
    source = tfds.load("tiny", data_dir=tmp_path)
    shard = next((tmp_path / "tiny" / "1.0.0").glob("*00001"))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(InputError, match=r"1\.0\.0: a record cannot be read .*; prepare it again"):
        tfds.load("tiny", data_dir=tmp_path).batch(np.array([6]))
    shard.unlink()
    with pytest.raises(InputError, match=r"a record cannot be read .*00001"):
        source.batch(np.array([6]))
    np.testing.assert_array_equal(source.batch(np.array([3]))["x"], X[3:4])
