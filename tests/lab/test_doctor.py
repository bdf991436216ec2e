"""The doctor: each thing that can be wrong, injected, is named in a line with the command that mends it."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from score_jax.data import ArraySource
from score_jax.lab.doctoring import (
    compilations,
    devices,
    disk,
    finding,
    folders,
    memory_here,
    packages,
    sources,
    surroundings,
    trained_toy,
    weights,
)
from score_jax.lab.doctoring.devices import SeenDevices
from score_jax.lab.doctoring.finding import Finding
from score_jax.lab.doctoring.trained_toy import TrainedToy
from score_jax.types import InputError
from tests.training import tiny

ROOT = Path(__file__).parents[2]


def told(found):
    """State, words and cure of findings."""
    return [(one.state, one.found, one.cure) for one in found]


# Lines


def test_lines_have_the_cure_below():
    found = [Finding("ok", "python", "3.11"), Finding("wrong", "packages", "jax is 0.1", "pip install jax")]
    lines = finding.in_lines(found).splitlines()
    assert lines[0].split() == ["ok", "python", "3.11"] and lines[1].split()[:2] == ["wrong", "packages"]
    assert lines[2].strip() == "→ pip install jax"


@pytest.mark.parametrize("error", [ZeroDivisionError("a\nb"), SystemExit(3), RecursionError()])
def test_a_check_that_raises_is_reported_in_a_line(error):
    def check():
        yield Finding("ok", "x", "y")
        raise error

    (found,) = finding.findings_of("memory", check)
    assert found.state == "wrong" and "\n" not in found.found
    assert found.found.startswith(f"could not be looked at: {type(error).__name__}: ")


# Packages

HERE = {"jax": "0.10.2", "jaxlib": "0.10.2", "numpy": "2.4.6", "jax-cuda13-plugin": "0.10.1", "libtpu": "0.0.40"}


@pytest.mark.parametrize(
    ("version", "bounds", "expected"),
    [
        *[("0.10.2", ">=0.10.2", True), ("0.10.10", ">=0.10.2", True), ("0.9.9", ">=0.10.2", False)],
        *[("2.0.0", ">=2.0,<=2", True), ("1.0rc1", ">=1", True), ("0.11.0", "<=0.10.2,>=0.10.1", False)],
        *[("82", "<82", False), ("82", "!=82", False), ("3", "", True), ("2.4.0", "==2.4", True)],
    ],
)
def test_versions_are_compared_by_their_numbers(version, bounds, expected):
    assert packages.fits(version, bounds) is expected


def test_an_old_python_is_told_of_and_how_to_get_another():
    (found,) = told([packages.check_python(">=3.11", "3.9.1")])
    assert found[:2] == ("wrong", "3.9.1, and >=3.11 is needed") and found[2].startswith("python3.11 -m venv .venv")


def test_missing_and_old_packages_are_named_with_their_bounds():
    found = packages.check_packages({"jax": ">=0.11", "numpy": ">=2", "grain": ">=0.2"}, HERE.get)
    assert told(found) == [
        ("wrong", "jax is 0.10.2; expected >=0.11", "pip install 'jax>=0.11'"),
        ("wrong", "grain is not installed; expected >=0.2", "pip install 'grain>=0.2'"),
    ]
    (found,) = packages.check_packages({"jax": ">=0.10", "numpy": ">=2"}, HERE.get)
    assert found.state == "ok" and "2 within their bounds; jax 0.10.2" in found.found


def test_a_jaxlib_that_jax_does_not_ask_for_is_wrong():
    asked = ["jaxlib<=0.10.2,>=0.10.1", 'jaxlib==0.1; extra == "ci"']
    assert packages.check_jaxlib(HERE.get, asked)[0].state == "ok"
    (found,) = told(packages.check_jaxlib((HERE | {"jaxlib": "0.9.0"}).get, asked))
    assert found == (
        "wrong",
        "jaxlib 0.9.0 does not go with jax 0.10.2, which asks for <=0.10.2,>=0.10.1",
        "pip install 'jax==0.10.2' 'jaxlib<=0.10.2,>=0.10.1'",
    )


def test_versions_newer_than_tested_are_a_note():
    found = packages.check_known_good({"jax": "0.10.1", "numpy": "2.5"}, HERE.get)
    assert found.state == "note" and found.found.startswith("newer than tested: jax 0.10.2 (0.10.1); should something")
    assert packages.check_known_good({"jax": "0.10.2"}, HERE.get).state == "ok"
    assert "were not tested together" in packages.check_known_good({}, HERE.get).found


def test_plugins_are_missing_or_of_another_version():
    assert told(packages.check_plugins(["cuda"], {"jaxlib": "0.10.2"}.get)) == [
        (
            "wrong",
            "there is a device for cuda, and JAX's plugin for it, jax-cuda13-plugin, is not installed",
            "pip install -e '.[cuda]'",
        )
    ]
    assert told(packages.check_plugins(["cuda", "tpu"], HERE.get)) == [
        (
            "wrong",
            "jax-cuda13-plugin 0.10.1 does not go with jaxlib 0.10.2: both have to be of one version",
            "pip install --upgrade 'jax[cuda13]==0.10.2'",
        ),
        ("ok", "libtpu 0.0.40", ""),
    ]
    assert list(packages.check_plugins([], HERE.get)) == []


def test_a_package_that_is_broken_is_a_line():
    def load(name):
        if name == "PIL":
            raise ImportError("libjpeg.so.8: cannot open\nshared object file")

    (found,) = told(packages.check_imports(("jax", "PIL"), load))
    said = "PIL cannot be imported: ImportError: libjpeg.so.8: cannot open shared object file"
    assert found == ("wrong", said, "pip install --force-reinstall pillow")


def test_the_projects_own_bounds_are_read():
    python, bounds = packages.required_here()
    assert python == ">=3.11" and bounds["jax"].startswith(">=0.10") and "tensorboard" not in bounds
    assert packages.known_good((3, 11))["jax"] and packages.known_good((3, 99)) == {}


# Devices

CPU = SeenDevices("cpu", ["cpu"] * 8, None)


def test_device_files_tell_of_accelerators():
    assert devices.accelerators({"/dev/nvidiactl"}.__contains__) == ["cuda"]
    assert devices.accelerators(lambda path: False) == []


def test_virtual_devices_are_told_from_real_ones():
    (found,) = devices.check_devices(CPU, [], {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"})
    assert found == Finding("ok", "devices", "cpu: 8 × cpu, 8 of them made by XLA_FLAGS of one machine's cores")
    gpu = SeenDevices("gpu", ["NVIDIA H100"], 70 * 2**30)
    (found,) = devices.check_devices(gpu, ["cuda"], {})
    assert found == Finding("ok", "devices", "gpu: 1 × NVIDIA H100, 70 GiB each")


@pytest.mark.parametrize(
    ("environ", "state", "words", "cure"),
    [
        ({}, "wrong", "a device for cuda is there, and JAX sees cpu alone", "nvidia-smi && pip install -e '.[cuda]'"),
        ({"JAX_PLATFORMS": "cpu"}, "note", "JAX_PLATFORMS=cpu keeps JAX from", "unset JAX_PLATFORMS"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "note", "CUDA_VISIBLE_DEVICES hides the GPUs", "unset CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_gpu_that_jax_does_not_see(environ, state, words, cure):
    _, found = devices.check_devices(CPU, ["cuda"], environ)
    assert (found.state, found.cure) == (state, cure) and found.found.startswith(words)


@pytest.mark.slow
def test_a_platform_that_does_not_exist():
    nothing = SeenDevices("", (), None, "Unknown backend abacus")
    assert told(devices.check_devices(nothing, [], {"JAX_PLATFORMS": "abacus"})) == [
        ("wrong", "JAX finds no device for JAX_PLATFORMS=abacus: Unknown backend abacus", "unset JAX_PLATFORMS")
    ]


def test_variables_and_cores_in_force():
    environ = {"XLA_FLAGS": "--a  --b", "JAX_ENABLE_X64": "1", "HOME": "/", "NCCL": "x"}
    assert devices.check_variables(environ).found == "JAX_ENABLE_X64=1, XLA_FLAGS=--a --b"
    assert devices.check_variables({}).found == "none that JAX heeds"
    assert devices.cpus(16, "200000 100000\n").found == "16, of which the container may use 2 at a time"
    assert devices.cpus(2, "max 100000") == Finding("ok", "cores", "2")


# The cache of compiled programs


@pytest.mark.slow
def test_a_round_trip_through_the_compile_cache(tmp_path):
    (found,) = compilations.check_compile_cache(tmp_path / "new")
    assert found.state == "ok" and found.found.endswith("0 files, 0 B; compiled once, found again")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_compile_cache_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(compilations.tempfile, "TemporaryDirectory", refuse)
    (found,) = told(compilations.check_compile_cache(tmp_path))
    assert found[:2] == ("wrong", f"{tmp_path} cannot be written (Read-only file system)")
    assert found[2] == f"chmod u+rwx {tmp_path}, or --config.device.compile_cache=FOLDER"


@pytest.mark.parametrize(
    ("trip", "words"), [((0, 0), "a compiled program was not kept"), ((1, 0), "a kept program was compiled again")]
)
def test_a_broken_compile_cache(trip, words, tmp_path):
    (found,) = told(compilations.check_compile_cache(tmp_path, lambda folder: trip))
    expected = f"{words} in {tmp_path}: every command would compile anew"
    assert found == ("wrong", expected, f"rm -r {tmp_path}")


def test_a_compile_cache_that_is_off_or_has_empty_files(tmp_path):
    (found,) = compilations.check_compile_cache(None)
    assert found.state == "note" and found.found.startswith("off: ")
    (tmp_path / "entry").touch()
    _, found = compilations.check_compile_cache(tmp_path, lambda folder: (1, 1))
    assert (found.state, found.cure) == ("note", f"find {tmp_path} -empty -delete")


# Data and weights


def test_known_data_are_found_missing_or_damaged(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    (tmp_path / "cifar10/3.0.2").mkdir(parents=True)
    (tmp_path / "cifar10/3.0.2/dataset_info.json").touch()

    def raises(text):
        def read():
            raise InputError(text)

        return read

    source = ArraySource(np.zeros((3, 2), np.float32))
    known = {"a": lambda: source, "b": raises("B is not here: looked in x"), "c": raises("c.gz: cut short")}
    found = list(sources.check_known_data(known))
    assert [one.state for one in found] == ["ok", "note", "wrong", "ok"]
    assert found[0].found == "3 held-out examples of shape (2,)" and found[2].found == "c.gz: cut short"
    assert found[2].cure == "fetch its files anew, or give another folder, --config.data.root=FOLDER"
    assert found[3].found == f"cifar10 in {tmp_path}"


def test_data_of_a_config_and_their_warnings():
    source = ArraySource(np.zeros((5, 4, 4, 1), np.uint8))
    first, same, line, warned = sources.check_data("x", source, ("mean 0", "warning: too small"))
    assert first.found == "x: 5 examples of shape (4, 4, 1), 80 B"
    assert same.state == "note" and same.found.startswith("the first 5 examples are 0 everywhere")
    assert (line.state, warned.state, warned.found) == ("ok", "note", "too small")


def test_weights_that_are_missing_are_notes():
    def missing():
        raise InputError("not installed: pip install x")

    found = list(weights.check_weights(missing, lambda name: False))
    assert {one.state for one in found} == {"note"} and found[0].found.endswith("not installed: pip install x")
    assert "pip install huggingface_hub" in found[2].found


# Memory, disk, surroundings

MACHINE = memory_here.of_meminfo("MemTotal:  8388608 kB\nMemAvailable: 4194304 kB\nHugePages_Total: 0\n")


def test_memory_against_what_training_needs():
    (found,) = memory_here.check_memory(MACHINE, None, None, None)
    assert found == Finding("ok", "memory", "4 GiB free of 8 GiB")
    _, found = memory_here.check_memory(MACHINE, None, 2**33, None)
    assert found.state == "wrong" and found.found.endswith(
        "needs at least 8 GiB beside activations, and there are 4 GiB"
    )
    _, found = memory_here.check_memory(MACHINE, None, 2**33, 2**36)
    assert found.state == "ok"  # on a device with more


def test_a_containers_limit_counts():
    limit = memory_here.group_limit({"/sys/fs/cgroup/memory.max": "2147483648\n"})
    first, second = memory_here.check_memory(MACHINE, limit, 3 * 2**30, None)
    assert first.state == "note" and first.found.endswith("this container is ended above 2 GiB")
    assert second.state == "wrong"
    assert memory_here.group_limit({"/sys/fs/cgroup/memory.max": "max\n"}) is None


def test_a_full_disk_and_one_that_is_nearly_so(tmp_path):
    places = {"workdir": tmp_path / "a/b", "temporary files": tmp_path}
    full, little = disk.check_disk(places, {"workdir": 2**31}, lambda path: 2**29)
    assert full.state == "wrong" and full.cure.startswith(f"df -h {tmp_path}; give another folder")
    assert full.found.endswith("512 MiB free at " + f"{tmp_path}/a/b, and the checkpoints that are kept take 2 GiB")
    assert little.state == "note"
    assert [one.state for one in disk.check_disk(places, {}, lambda path: 2**40)] == ["ok", "ok"]


def test_clock_locale_and_open_files():
    assert surroundings.check_clock(1e9, 1.7e9).state == "wrong" and surroundings.check_clock(1.7e9, 1e9).state == "ok"
    (found,) = surroundings.check_locale("ascii", "utf-8")
    assert (found.state, found.cure) == ("wrong", "export PYTHONUTF8=1")
    (found,) = surroundings.check_locale("utf-8", None)
    assert found.state == "ok"
    assert surroundings.check_open_files(256, 2**20).cure == "ulimit -n 4096"
    assert surroundings.check_open_files(4096, 4096).state == "ok"


# A run's folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    from tests.fuzz.originals import checkpoints

    folder = tmp_path_factory.mktemp("run")
    for name, content in checkpoints().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_a_run_that_is_whole_damaged_or_of_another_process(run_folder):
    assert [one.found for one in folders.check_workdir(run_folder)] == [
        f"{run_folder} is the folder of a run",
        "2, all whole, the newest of step 2",
    ]
    from score_jax.training import checkpoint

    with checkpoint.claim(run_folder, tiny.CONFIG):
        _, locked, _ = folders.check_workdir(run_folder)
        assert locked.state == "note" and locked.found.startswith(f"a process trains in {run_folder}: ")
    (run_folder / "checkpoints/2/sha256.json").write_text("{}")
    (run_folder / "checkpoints/3.orbax-checkpoint-tmp").mkdir()
    *_, damaged, draft = folders.check_workdir(run_folder)
    assert damaged.state == "wrong" and damaged.cure.startswith("python experiments/train.py --workdir=")
    assert damaged.found == "damaged: 2 (sha256.json is missing or damaged); step 1 is the newest that is whole"
    assert draft.state == "note" and draft.found.startswith("1 unfinished, 3.orbax-checkpoint-tmp")
    (run_folder / "checkpoints/1/sha256.json").unlink()
    *_, damaged, _ = folders.check_workdir(run_folder)
    assert damaged.found.startswith("none of 2 can be read: 2 (sha256.json") and damaged.cure.startswith("mv ")


def test_a_folder_that_is_none(tmp_path):
    (found,) = folders.check_workdir(tmp_path / "new")
    assert found.state == "ok" and "is not there yet" in found.found
    found, _ = folders.check_workdir(tmp_path)
    assert found.state == "wrong" and "it has no config.json" in found.found


# The toy


def test_a_toy_that_does_not_learn_or_misses_its_modes():
    near = np.full((10, 2), 5.0)
    (found,) = trained_toy.check_toy(lambda: TrainedToy(1.0, 0.4, near, 9.0))
    assert found.state == "ok" and found.found.startswith("loss 1 → 0.4, 100% of 10 samples near a mode, 9 s on")
    for wrong in (TrainedToy(1.0, 0.9, near, 9.0), TrainedToy(1.0, 0.4, near * 0, 9.0)):
        (found,) = trained_toy.check_toy(lambda wrong=wrong: wrong)
        assert found.state == "wrong" and found.cure.startswith("JAX_PLATFORMS=cpu python -m score_jax.lab.doctor")
    (found,) = trained_toy.check_toy(lambda: TrainedToy(1.0, float("nan"), near * np.nan, 9.0))
    assert found.state == "wrong"


# The command


def doctor(*arguments, **environ):
    command = [sys.executable, ROOT / "experiments/doctor.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environ}, cwd=ROOT)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_platform_that_does_not_exist_is_a_line_with_its_cure(tmp_path):
    done = doctor(f"--json={tmp_path}/found.json", JAX_PLATFORMS="abacus")
    lines = done.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if "JAX finds no device for JAX_PLATFORMS=abacus" in line)
    assert (
        done.returncode == 1
        and lines[at].startswith("wrong devices")
        and lines[at + 1].strip() == "→ unset JAX_PLATFORMS"
    )
    found = json.loads((tmp_path / "found.json").read_text())["findings"]
    assert {"state": "wrong", "what": "devices"}.items() <= next(f for f in found if f["what"] == "devices").items()
    assert not any(f["found"].startswith("could not be looked at") for f in found)


def test_a_package_that_is_missing_is_told_before_anything_is_imported(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata as m\nold = m.version\n"
        "def version(name):\n    if name == 'absl-py': raise m.PackageNotFoundError(name)\n    return old(name)\n"
        "m.version = version\nimport sys\nsys.modules['absl'] = None\n"
    )
    done = doctor(PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert done.returncode == 1 and "absl-py is not installed; expected >=2.3.1" in done.stdout
    assert "→ pip install 'absl-py>=2.3.1'" in done.stdout and "self-test" not in done.stdout


@pytest.mark.slow
def test_everything_is_looked_at_with_a_config_and_its_data(tmp_path):
    done = doctor("--config=configs/toy.py", f"--workdir={tmp_path}/run", f"--json={tmp_path}/found.json")
    found = json.loads((tmp_path / "found.json").read_text())["findings"]
    states = {(one["what"], one["state"]) for one in found}
    assert {("self-test", "ok"), ("config", "ok"), ("data", "ok"), ("compile cache", "ok")} <= states, done.stdout
    assert done.returncode == int(any(state == "wrong" for _, state in states))
    missing = doctor("--config=configs/fashion_mnist.py", f"--config.data.root={tmp_path}/none")
    assert (
        missing.returncode == 1
        and f"Fashion-MNIST is not here: no train-images-idx3-ubyte[.gz] in {tmp_path}" in missing.stdout
    )
