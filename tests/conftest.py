"""Settings of every test: eight virtual CPU devices, fast compilation, no rank promotion, strict dtypes on request.

`make check-device` sets SCORE_JAX_DEVICE_TESTS=1 and runs `tests/device` alone: on whatever platform JAX finds, its
devices and its flags as they are. Otherwise tests marked `gpu` or `tpu` run where that is the default backend.
"""

import contextlib
import os
import threading
from importlib.metadata import version
from pathlib import Path

_DEVICE_TESTS = os.environ.get("SCORE_JAX_DEVICE_TESTS") == "1"
# The suite's time is compilation: these make XLA compile three times faster, at the price of slower programs.
_FLAGS = [
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
]
if version("jax") < "0.11":  # the flag is gone since, and XLA aborts on one it doesn't know
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
if not _DEVICE_TESTS:
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS])
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
# One cache of compiled programs for both workers, the commands that they start, and the next run.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


def _one_context_a_thread() -> None:
    """Lets all programs of a thread be written down in one MLIR context.

    JAX makes one for each, which takes a quarter of the time of a small program, and of those are the tests. It is
    private to JAX: where it is elsewhere, the tests are slower.
    """
    from jax._src.interpreters import mlir

    contexts, make = threading.local(), mlir.make_ir_context

    def shared():
        contexts.made = getattr(contexts, "made", None) or make()
        return contexts.made

    mlir.make_ir_context = shared


if not _DEVICE_TESTS:
    with contextlib.suppress(ImportError, AttributeError):
        _one_context_a_thread()


_IMPORTED: dict[str, dict] = {}  # where the imports left the RNG of the test modules


@pytest.fixture(autouse=True)
def _same_draws_in_any_order(request):
    """Before each test puts its module's `RNG` where the import left it: what a test draws hangs on no other."""
    if (rng := getattr(request.module, "RNG", None)) is not None:
        rng.bit_generator.state = _IMPORTED[request.module.__name__]


@pytest.fixture
def strict_dtypes():
    """No implicit dtype promotion, as in `pytestmark = pytest.mark.usefixtures("strict_dtypes")`."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def x64():
    """Double precision."""
    with jax.enable_x64(True):
        yield


# Those that take longest, first: the other worker has enough to do meanwhile.
_LONGEST = ("test_notebooks", "test_several", "test_killed_run", "test_damaged_checkpoint")


def pytest_collection_modifyitems(items):
    """Begins with the longest tests, so that none of them is left for one worker at the end; notes the modules' RNG."""
    for module in {item.module for item in items if hasattr(item.module, "RNG")}:
        _IMPORTED[module.__name__] = module.RNG.bit_generator.state
    items.sort(key=lambda item: not any(name in item.nodeid for name in _LONGEST))


def pytest_runtest_setup(item):
    """Skips what is for accelerators where there is none, unless it was asked for."""
    wanted = {"gpu", "tpu"} & {mark.name for mark in item.iter_markers()}
    if wanted and not _DEVICE_TESTS and jax.default_backend() not in wanted:
        pytest.skip(f"for a {' or '.join(sorted(w.upper() for w in wanted))}: run it by `make check-device`")
