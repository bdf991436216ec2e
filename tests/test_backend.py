"""What JAX's backend starts with: settings reach it, the environment comes before them, and both are recorded."""

import inspect
import json
import os
import subprocess
import sys
import warnings

import pytest

from score_jax import backend
from score_jax.lab import command
from score_jax.lab.settings import get_config
from score_jax.types import InputError

_PROGRAM = """
import json, os, sys
from score_jax import backend
backend.configure(**json.loads(sys.argv[1]))
import jax
jax.numpy.zeros(1)
print(json.dumps(backend.in_force()))
"""
_OWN = ("XLA_FLAGS", "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION", "JAX_COMPILATION_CACHE_DIR")


def started(settings, **variables):
    """What is in force in a fresh process with these settings and environment variables."""
    clean = {name: value for name, value in os.environ.items() if name not in _OWN}
    command = [sys.executable, "-c", _PROGRAM, json.dumps(settings)]
    done = subprocess.run(command, env=clean | variables, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_settings_reach_the_backend_and_are_recorded(tmp_path):
    settings = {"matmul_precision": "tf32", "deterministic": True, "preallocate": False, "memory_fraction": 0.5}
    found = started(settings | {"compile_cache": str(tmp_path)})
    assert "--xla_gpu_deterministic_ops=true" in found["XLA_FLAGS"].split()
    assert (found["XLA_PYTHON_CLIENT_PREALLOCATE"], found["XLA_PYTHON_CLIENT_MEM_FRACTION"]) == ("false", "0.5")
    assert (found["matmul_precision"], found["compile_cache"]) == ("tensorfloat32", str(tmp_path))


def test_what_the_environment_says_comes_first(tmp_path):
    given = {"XLA_FLAGS": "--xla_gpu_deterministic_ops=false", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    found = started({"deterministic": True}, **given, JAX_COMPILATION_CACHE_DIR=str(tmp_path))
    assert found["XLA_FLAGS"].split()[0] == given["XLA_FLAGS"] and "deterministic_ops=true" not in found["XLA_FLAGS"]
    assert found["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert (found["matmul_precision"], found["compile_cache"]) == ("default", str(tmp_path))


_EIGEN = "--xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"


@pytest.mark.parametrize(
    ("machine", "known", "plugins", "given", "expected"),
    [
        ("x86_64", True, [], {}, _EIGEN),
        ("x86_64", True, [], {"XLA_FLAGS": "--xla_one=1"}, f"--xla_one=1 {_EIGEN}"),
        ("x86_64", True, [], {"XLA_FLAGS": "--xla_cpu_experimental_ynn_fusion_type="}, None),
        ("x86_64", False, [], {}, None),
        ("aarch64", True, [], {}, None),
        ("x86_64", True, ["cuda"], {}, None),
        ("x86_64", True, ["cuda"], {"JAX_PLATFORMS": "cpu"}, _EIGEN),
    ],
)
def test_convolutions_are_chosen_where_they_were_measured(machine, known, plugins, given, expected, monkeypatch):
    """On x86-64 without an accelerator, of a jaxlib that knows the option, where the environment says nothing of it."""
    for name in ("XLA_FLAGS", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(backend.platform, "machine", lambda: machine)
    monkeypatch.setattr(backend.metadata, "entry_points", lambda group: plugins)
    monkeypatch.setattr(backend.pkgutil, "iter_modules", lambda paths: [])
    monkeypatch.setattr(backend, "_jaxlib_knows", lambda *words: known)
    monkeypatch.setattr(backend.jax.config, "update", lambda name, value: None)
    backend.configure()
    assert os.environ.get("XLA_FLAGS") == (expected or given.get("XLA_FLAGS"))


@pytest.mark.parametrize(
    ("dtype", "units", "plugins", "given", "expected"),
    [
        ("bfloat16", True, [], "", "--xla_cpu_experimental_onednn_custom_call=true"),
        ("bfloat16", True, [], "--xla_cpu_experimental_onednn_custom_call=false", None),
        ("bfloat16", False, [], "", None),
        ("bfloat16", True, ["cuda"], "", None),
        ("float32", True, [], "", None),
    ],
)
def test_bfloat16_is_multiplied_by_onednn_where_that_was_measured(dtype, units, plugins, given, expected, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", given)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(backend, "_has_bfloat16_units", lambda: units)
    monkeypatch.setattr(backend, "_jaxlib_knows", lambda *words: True)
    monkeypatch.setattr(backend.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(backend.metadata, "entry_points", lambda group: plugins)
    monkeypatch.setattr(backend.pkgutil, "iter_modules", lambda paths: [])
    of_jax = "Error writing persistent compilation cache entry for 'jit_{}': {}"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        backend.choose_products(dtype)
        warnings.warn(of_jax.format("step", "MemoryError: std::bad_alloc"), stacklevel=1)
        warnings.warn(of_jax.format("step", "OSError: No space left on device"), stacklevel=1)
    assert os.environ["XLA_FLAGS"] == (expected or given)
    chosen = dtype == "bfloat16" and units and not plugins
    assert ["bad_alloc" in str(one.message) for one in told] == ([False] if chosen else [True, False])


def test_units_for_bfloat16_are_those_that_linux_lists(tmp_path):
    listed = tmp_path / "cpuinfo"
    assert not backend._has_bfloat16_units(listed)
    for flags, expected in (("avx512f avx512_bf16 clzero", True), ("amx_bf16", True), ("avx512f avx512_vnni", False)):
        listed.write_text(f"processor : 0\nflags : fpu {flags}\n")
        assert backend._has_bfloat16_units(listed) == expected


def test_this_jaxlib_knows_its_options_and_no_others():
    assert backend._jaxlib_knows("xla_force_host_platform_device_count")
    assert not backend._jaxlib_knows("xla_force_host_platform_device_count", "xla_cpu_of_no_such_name")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"matmul_precision": "float64"}, "'float64' does not exist: choose one of default, bfloat16, tf32, float32"),
        ({"memory_fraction": 0.0}, r"memory_fraction is a share above 0 and up to 1, got 0.0"),
        ({"memory_fraction": 75.0}, r"got 75.0"),
    ],
)
def test_settings_that_do_not_exist_are_refused_before_anything_is_set(settings, message):
    before = dict(os.environ)
    with pytest.raises(InputError, match=message):
        backend.configure(deterministic=True, **settings)
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        ([], {}),
        (["--config.device.matmul_precision=tf32", "--n=3", "--config.sampler.steps=7"], {"matmul_precision": "tf32"}),
        (["--config.device.deterministic", "--config.network.dtype=bfloat16"], {"deterministic": True}),
    ],
)
def test_the_command_line_sets_the_backend_before_flags_are_parsed(arguments, changed, monkeypatch):
    """Reading a checkpoint needs JAX, and what the flags are depends on the checkpoint."""
    config, called = get_config(), []
    monkeypatch.setattr(sys, "argv", ["sample.py", *arguments])
    monkeypatch.setattr(backend, "configure", lambda **settings: called.append(settings))
    monkeypatch.setattr(backend, "choose_products", called.append)
    command.configure_backend(config)
    dtype = "bfloat16" if "--config.network.dtype=bfloat16" in arguments else "float32"
    assert called == [config.device.to_dict() | changed, dtype]


def test_the_settings_of_the_config_are_those_of_the_backend_with_its_defaults():
    defaults = {name: p.default for name, p in inspect.signature(backend.configure).parameters.items()}
    assert get_config().device.to_dict() == defaults


def test_virtual_devices_replace_only_their_own_flag(monkeypatch):
    chosen = {}
    monkeypatch.setenv("XLA_FLAGS", "--xla_one=1 --xla_force_host_platform_device_count=8 --xla_two=2")
    monkeypatch.setattr(backend.jax.config, "update", chosen.__setitem__)
    backend.use_virtual_devices(3)
    assert os.environ["XLA_FLAGS"] == "--xla_one=1 --xla_two=2 --xla_force_host_platform_device_count=3"
    assert chosen == {"jax_platforms": "cpu"}
