"""What a stranger's file cannot do: have code run, write elsewhere, hang a reader, take all memory, break a message.

By reading the code, that nothing in it runs what a file holds; and one test for each thing that `tests.fuzz` found.
"""

import ast
import json
import struct
import tarfile
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml

from score_jax import interop
from score_jax.data import cifar10, read_picture, tfds
from score_jax.interop import files
from score_jax.lab import evaluation, kept, reports
from score_jax.lab.restoring import results
from score_jax.metrics import load_moments
from score_jax.training import digests
from score_jax.types import InputError
from tests.fuzz import originals
from tests.helpers import refused

ROOT = Path(__file__).parent.parent
CODE = [path for name in ("score_jax", "experiments", "configs", "benchmarks") for path in (ROOT / name).rglob("*.py")]

# Calls that could run what a file holds, or write where it says, by the last part of their names and what is before.
FORBIDDEN = {
    **{name: {"pickle", "dill", "cloudpickle", "joblib", "marshal"} for name in ("load", "loads", "Unpickler")},
    **dict.fromkeys(("read_pickle", "load_module", "run_path"), None),
    **dict.fromkeys(("extractall", "extract", "unpack_archive"), None),
    **dict.fromkeys(("unsafe_load", "full_load", "load_all", "unsafe_load_all"), None),
    **{name: {"np", "numpy", "format"} for name in ("fromfile", "memmap", "open_memmap")},
    "open": {"shelve", "dbm"},
    "parse": {"ElementTree", "minidom", "etree", "ET", "sax"},
    "fromstring": {"ElementTree", "etree", "ET"},
}
BUILT_IN = {"eval", "exec", "compile", "__import__"}
SAFE_LOADERS = {"_Loader"}  # of `interop.files`, which is a SafeLoader


def calls(path):
    """Every call in a file: its node, the name called, and the name before that."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name):
                yield node, function.id, None
            elif isinstance(function, ast.Attribute):
                before = function.value
                yield node, function.attr, getattr(before, "attr", getattr(before, "id", ""))


def is_forbidden(node, name, before):
    if before is None:
        return name in BUILT_IN
    if (before, name) in (("torch", "load"), ("np", "load"), ("numpy", "load"), ("jnp", "load")):
        keywords = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
        return keywords.get("weights_only" if before == "torch" else "allow_pickle") is not (before == "torch")
    if (before, name) == ("yaml", "load"):
        return getattr(node.args[1], "id", "") not in SAFE_LOADERS
    return name in FORBIDDEN and (FORBIDDEN[name] is None or before in FORBIDDEN[name])


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_what_a_file_holds_or_unpacks_archives(path):
    assert [(node.lineno, before, name) for node, name, before in calls(path) if is_forbidden(node, name, before)] == []


def test_the_search_for_such_calls_finds_them(tmp_path):
    lines = [
        *["import pickle, numpy as np", "pickle.load(f)", "np.load(f)", "np.load(f, allow_pickle=True)", "eval(x)"],
        *["yaml.load(f, yaml.Loader)", "tarfile.open(f).extractall()", "torch.load(f)", "shelve.open(f)", "exec(x)"],
        *["np.load(f, allow_pickle=False)", "torch.load(f, weights_only=True)", "json.loads(f)", "model.eval()"],
    ]
    (tmp_path / "x.py").write_text("\n".join(lines))
    found = [node.lineno for node, name, before in calls(tmp_path / "x.py") if is_forbidden(node, name, before)]
    assert found == [2, 3, 4, 5, 6, 7, 8, 9, 10]


def test_the_loader_of_yaml_makes_plain_values_alone(tmp_path):
    assert issubclass(files._Loader, yaml.SafeLoader)
    for tag in ("apply:os.system ['true']", "name:os.system", "module:os", "new:os.system ['true']"):
        (tmp_path / "config.yml").write_text(f"x: !!python/object/{tag}\n".replace("object/name", "name"))
        refused("config.yml: is no JSON or YAML", files.read_source_config, tmp_path / "config.yml")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_deep_yaml_is_refused_at_once(opening, tmp_path):
    (tmp_path / "config.yml").write_text(f"x:\n  {opening * 3000}")
    start = time.process_time()
    refused("config.yml: is no JSON or YAML", files.read_source_config, tmp_path / "config.yml")
    assert time.process_time() - start < 2  # its scanner takes time of the square of the depth: 20 s


def test_yaml_that_merges_the_same_over_and_over_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_MOST_KEYS", 5)
    doubled = [f"a{i}: &a{i} {{<<: *a{i - 1}, k{i}: 1, l{i}: 1}}" for i in range(1, 4)]  # PyYAML < 6.0.4: 2ⁿ of a list
    (tmp_path / "config.yml").write_text("\n".join(["a0: &a0 {x: 1}", *doubled]))
    refused("config.yml: is no JSON or YAML .*more than 5 keys", files.read_source_config, tmp_path / "config.yml")
    (tmp_path / "config.yml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")
    assert files.read_source_config(tmp_path / "config.yml")["b"] == {"x": 1, "y": 3}


def test_a_tar_member_that_claims_to_have_no_end_is_refused(tmp_path):
    endless = tarfile.TarInfo("readme")
    endless.size = 2**62
    (tmp_path / "c.tar").write_bytes(endless.tobuf(tarfile.GNU_FORMAT) + bytes(2000))
    refused(f"readme has {2**62} bytes", cifar10, tmp_path / "c.tar", split="test")


def test_a_pickle_of_pixels_that_encodes_no_text_is_damaged(tmp_path):
    (tmp_path / "test_batch").write_bytes(b"c_codecs\nencode\n(K\x01K\x02\x86S'latin1'\ntR.")
    refused("test_batch: its pickle is damaged near byte", cifar10, tmp_path, split="test")


DEEP = "[" * 100_000


def test_deep_json_is_damaged_like_other_json(tmp_path):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "sha256.json").write_text(DEEP)
    with pytest.raises(ValueError, match=r"sha256\.json is missing or damaged"):
        digests.check_digests(checkpoint)
    (tmp_path / "evaluation.json").write_text(DEEP)
    assert not evaluation.is_done(tmp_path)
    (tmp_path / "of.json").write_text(DEEP)
    assert kept.Kept(tmp_path, {}).once("x", lambda: {"y": np.ones(1)})["y"] == 1
    restored = tmp_path / "restored"
    restored.mkdir()
    (restored / "condition.json").write_text(DEEP)
    refused("holds other files", results.require_free, restored, {})


@pytest.mark.parametrize("content", [DEEP, "[]", "7", "null", '{"fileFormat": "x", "alternativeFileFormats": 3}'])
def test_a_description_of_tfds_that_is_none_is_refused(content, tmp_path):
    (tmp_path / "tiny/1.0.0").mkdir(parents=True)
    (tmp_path / "tiny/1.0.0/dataset_info.json").write_text(content)
    refused(r"dataset_info\.json: damaged or without a file format", tfds.load, "tiny", data_dir=tmp_path)


def test_formats_of_tfds_that_are_no_text_are_named_in_a_line(tmp_path):
    (tmp_path / "tiny/1.0.0").mkdir(parents=True)
    (tmp_path / "tiny/1.0.0/dataset_info.json").write_text('{"fileFormat": 1e308, "alternativeFileFormats": ["a\\nb"]}')
    refused(r"is prepared as .*1e\+308.*, which only TensorFlow reads", tfds.load, "tiny", data_dir=tmp_path)


def write_tfds(folder, old, new):
    for name, content in originals.tfds().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.replace(old, new) if name.endswith("features.json") else content)


@pytest.mark.parametrize("key", [b"pythonClassName", b"python_class_name", b"type"])
def test_a_module_that_a_tfds_copy_names_is_not_imported(key, tmp_path, monkeypatch):
    (tmp_path / "canary_of_tfds.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    known = b'"pythonClassName": "tensorflow_datasets.core.features.class_label_feature.ClassLabel"'
    write_tfds(tmp_path, known, b'"%s": "canary_of_tfds.Label"' % key)
    refused(
        r"features\.json: names canary_of_tfds\.Label, code of another package", tfds.load, "tiny", data_dir=tmp_path
    )
    assert not (tmp_path / "imported").exists()


def test_records_of_other_features_than_described_are_refused(tmp_path):
    write_tfds(tmp_path, b'"2"\n', b'"1"\n')  # points of one number
    refused("a record cannot be read .*; prepare it again", tfds.load, "tiny", data_dir=tmp_path)


@pytest.mark.parametrize("conditions", [DEEP.encode(), b"[]", b"\xff", b"{}"])
def test_moments_under_odd_conditions_are_refused(conditions, tmp_path):
    arrays = {"n": np.int64(3), "mean": np.zeros(2), "scatter": np.zeros((2, 2))}
    np.savez(tmp_path / "m.npz", conditions=np.frombuffer(conditions, np.uint8), **arrays)
    refused(r"m\.npz: ", load_moments, tmp_path / "m.npz", {"data": "digits"})


def test_a_picture_that_claims_more_pixels_than_its_file_can_hold_is_refused(tmp_path):
    side, empty = 9000, zlib.compress(b"")
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", empty), (b"IEND", b"")]
    parts = [struct.pack(">I", len(h)) + n + h + struct.pack(">I", zlib.crc32(n + h)) for n, h in chunks]
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    message = "claims 9000x9000 pixels in a file of 65 bytes, more than images have"
    refused(message, read_picture, tmp_path / "x.png", channels=3)


def test_names_of_a_config_cannot_break_the_message(tmp_path):
    given = json.loads(originals.diffusers_folder()["config.json"])
    given["down_block_types"][0] = "a\nb\x1b[31m"
    for name, content in (originals.diffusers_folder() | {"config.json": json.dumps(given).encode()}).items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"block types have a\\nb\\x1b\[31m: read are") as error:
        interop.load(tmp_path, source="diffusers")
    assert str(error.value).isprintable()


@pytest.mark.parametrize("number", [1e308, -1e308, 1e-320, 0.0, 10**400])
def test_a_report_is_made_of_whatever_numbers_a_run_tells(number, tmp_path):
    for name, content in originals.run_folder().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    losses = [{"step": s, "loss": number if s > 1 else 1.0} for s in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [*losses, {"step": 4, "loss": 2.0}]))
    numbers = {"sampler": "\ud800", "mmd2": number, "relative_score_error_by_sigma": {"0.1": 1.0, "1e308": number}}
    (tmp_path / "evaluations/ddim-10/evaluation.json").write_text(json.dumps(numbers))
    page = reports.write_run(tmp_path).read_text()
    assert "\\ud800" in page and "<svg" in page
