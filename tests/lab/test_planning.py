"""A plan, part by part: operations, bytes, the largest batch, times, in closed form."""

import json
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import toy
from score_jax.lab import build, plan, run
from score_jax.lab.planning import accelerators, fitting, planned, text
from score_jax.lab.planning.compiled import bytes_on_device, needs, state_of
from score_jax.lab.planning.flops import flops
from score_jax.lab.planning.liveness import peak_bytes
from score_jax.training import place
from score_jax.types import InputError

HIDDEN, BATCH = 32, 64
ROOT = Path(__file__).parents[2]


def counted(f, *shapes):
    return flops(jax.make_jaxpr(f)(*(jnp.zeros(shape) for shape in shapes)))


def test_operations_of_a_dense_layer_and_its_gradient():
    layer = lambda w, x: (x @ w).sum()
    assert counted(layer, (5, 7), (3, 5)) == 2 * 3 * 5 * 7
    assert counted(jax.value_and_grad(layer, (0, 1)), (5, 7), (3, 5)) == 3 * 2 * 3 * 5 * 7


def test_a_scan_counts_as_often_as_it_runs_and_what_is_computed_again_twice():
    step = lambda w, x: jnp.tanh(x @ w)
    scanned = lambda w, x: jax.lax.scan(lambda x, _: (step(w, x), None), x, length=6)[0]
    assert counted(scanned, (5, 5), (3, 5)) == 6 * 2 * 3 * 25
    gradient = lambda f: jax.value_and_grad(lambda w, x: f(w, x).sum())
    assert counted(gradient(step), (5, 5), (3, 5)) == 2 * 2 * 3 * 25  # x needs none
    deep = lambda f: lambda w, x: f(w, f(w, x))
    plain, again = (counted(gradient(deep(f)), (5, 5), (3, 5)) for f in (step, jax.checkpoint(step)))
    assert again - plain == 2 * 2 * 3 * 25


@pytest.mark.parametrize(("stride", "padding"), [(1, "SAME"), (2, "SAME"), (1, "VALID"), (2, "VALID")])
def test_operations_of_convolutions_are_those_of_xla(stride, padding):
    """XLA counts products with zeros of padding and dilation as none, and so do we, of the gradients too."""

    def f(w, x):
        return jax.lax.conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    w, x = jnp.zeros((3, 3, 4, 6)), jnp.zeros((2, 8, 8, 4))
    y = jax.eval_shape(f, w, x)
    to_x, to_w = jax.linear_transpose(lambda x: f(w, x), x), jax.linear_transpose(lambda w: f(w, x), w)
    for program, *shapes in ((f, w.shape, x.shape), (to_x, y.shape), (to_w, y.shape)):
        found = jax.jit(program).lower(*(jnp.zeros(shape) for shape in shapes)).cost_analysis()["flops"]
        assert counted(program, *shapes) == found


def test_values_are_alive_from_where_they_are_made_to_where_they_are_last_taken():
    size = lambda f: peak_bytes(jax.make_jaxpr(f)(jnp.zeros(100)))
    assert size(lambda x: ((x + 1) * 2 - 3).sum()) == 2 * 400  # one and the one that is made of it
    assert size(lambda x: jnp.sin(x) + jnp.cos(x)) == 3 * 400
    assert size(lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c + 1), c), x, length=5)[1]) == (6 + 2) * 400


def test_what_is_computed_again_is_not_kept():
    """Of eight blocks of three layers each the input is kept, and one block's own values at a time."""

    def peak(block):
        def loss(w, x):
            for _ in range(8):
                x = block(w, x)
            return x.sum()

        return peak_bytes(jax.make_jaxpr(jax.value_and_grad(loss))(jnp.zeros((4, 4)), jnp.zeros((1000, 4))))

    block = lambda w, x: jnp.tanh(jnp.tanh(jnp.tanh(x @ w) @ w) @ w)
    layer = 1000 * 4 * 4
    plain, again = peak(block), peak(jax.checkpoint(block))
    assert plain >= 24 * layer and again <= (8 + 2 * 6) * layer


def experiment(*, fsdp=1, batch_size=BATCH, **options):
    """A small network of points, on a mesh of eight devices."""
    config = toy.get_config()
    config.data.n = 512
    config.network.mlp.hidden = (HIDDEN, HIDDEN)
    config.mesh.update(fsdp=fsdp, min_size=64)
    config.training.update(batch_size=batch_size, steps_per_dispatch=2, log_every=10, steps=100, checkpoint_every=100)
    return build.experiment(config, **options)


shapes_alone = lambda network, key, *example: jax.eval_shape(network.init, key, *example)


@pytest.mark.parametrize("fsdp", [1, 4])
def test_bytes_of_a_device_are_those_of_arrays_that_lie_there(fsdp):
    described = state_of(experiment(fsdp=fsdp, initial=shapes_alone))
    real = experiment(fsdp=fsdp)
    state = place(run.first_state(real), real.placement)
    chex.assert_trees_all_equal_shapes_and_dtypes(described, state)
    held = lambda tree: sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))
    for part in ("params", "ema", "opt_state"):
        assert bytes_on_device(getattr(described, part)) == held(getattr(state, part))
    whole = sum(x.nbytes for x in jax.tree.leaves(state.params))
    assert (bytes_on_device(described.params) < whole / 2) == (fsdp > 1)


@pytest.fixture(scope="module")
def costs():
    """Of data parallelism over eight devices."""
    made = experiment(initial=shapes_alone)
    on = planned.on_accelerator(
        accelerators.accelerator("a100", 8),
        dtype="float32",
        precision="default",
        share=0.75,
        utilisation=0.5,
        reserve=0.2,
    )
    return planned.plan_of(made, on, rematerialised=None, other=None), made


def test_a_step_of_data_parallelism_exchanges_its_parameters(costs):
    """The gradient and the loss, once; for the report up to four numbers of each example are gathered."""
    found, _ = costs
    exchanged = found.needs.exchanged
    size = 4 * (found.parameters + 1)
    assert exchanged["all-reduce"] == (size, 2 * size * 7 / 8)
    assert set(exchanged) == {"all-reduce", "all-gather"} and 8 * exchanged["all-gather"].operands <= 4 * 4 * BATCH


def test_operations_of_a_step_are_those_of_its_layers(costs):
    """Forward, gradient of weights, gradient of what comes in but for the first layer: x needs none."""
    found, made = costs
    kernels = [w.shape for w in jax.tree.leaves(made.model.variables["params"]) if w.ndim == 2]
    (first,) = [shape for shape in kernels if shape[1] == HIDDEN and shape[0] != HIDDEN]
    layers = sum(rows * columns for rows, columns in kernels)
    assert found.needs.flops == 2 * BATCH * (3 * layers - first[0] * first[1])


def test_times_follow_from_the_published_figures(costs):
    found, _ = costs
    sent = sum(kind.sent for kind in found.needs.exchanged.values())
    np.testing.assert_allclose(found.seconds.products, found.needs.flops / 8 / (0.5 * 156e12))
    np.testing.assert_allclose(found.seconds.state, 2 * found.needs.memory.state / 2039e9)
    np.testing.assert_allclose(found.seconds.exchange, sent / 300e9)
    np.testing.assert_allclose(found.hours, 100 * found.seconds.step / 3600)
    np.testing.assert_allclose(found.on.limit, 80e9 * 0.75 * 0.8)


def test_a_plan_in_words(costs):
    found, _ = costs
    lines = text.lines(found, "network.mlp.remat")
    assert lines[1] == f"mesh data 8 × fsdp 1: 8 device(s), batch 64, 8 on each; {found.parameters:,} parameters"
    said = "\n".join(lines)
    assert "as XLA compiles for a CPU" in said and "this network has no option to compute activations again" in said
    assert "on NVIDIA A100 SXM4 80 GB: an estimate, nothing was run there" in said
    assert "156 TFLOP/s of tf32, memory of 80 GB at 2.04 TB/s, 300 GB/s to others (data sheet)" in said
    assert (
        "batch 64 fits: " in said
        and "of 44.7 GiB (74.5 GiB × 0.75, device.memory_fraction, less a reserve of 0.2)" in said
    )
    assert lines[-1].startswith(f"largest batch found to fit: {found.most:,}, all examples at once, with ")
    written = found.as_json()
    assert written["bytes_on_device"]["needed"] == found.needs.memory.needed and written["fits"]


def test_the_largest_batch_of_a_memory_that_is_affine_is_the_largest_that_fits():
    asked = []
    needed = lambda batch: asked.append(batch) or 1000 + 7 * batch
    known = {64: needed(64), 32: needed(32)}
    for limit, best in ((1000 + 7 * 200, 200), (1000 + 7 * 201.9, 200), (1000 + 7 * 8, 8), (1000 + 7 * 7, 0), (10, 0)):
        asked.clear()
        assert fitting.largest_batch(needed, limit, known=known, parts=8, most=4096) == best
        assert len(asked) <= 1  # the line is right at once: one compilation
    assert fitting.largest_batch(needed, 1e9, known=known, parts=24, most=500) == 480
    assert fitting.largest_batch(needed, 1000 + 7 * 64, known=known, parts=64, most=4096) == 64


def test_the_largest_batch_of_a_memory_that_bends_fits_too():
    needed = lambda batch: 1000 + 5 * batch + batch**2 // 50
    known = {32: needed(32), 64: needed(64)}
    found = fitting.largest_batch(needed, needed(240), known=known, parts=8, most=4096)
    assert found % 8 == 0 and 200 <= found <= 240


def test_precision_decides_by_what_a_device_multiplies():
    h100, v5e = (accelerators.accelerator(name, 1) for name in ("h100", "tpu-v5e"))
    assert [h100.unit(*how) for how in (("float32", "default"), ("float32", "float32"), ("bfloat16", "default"))] == [
        "tf32",
        "float32",
        "bfloat16",
    ]
    assert v5e.peak("float32", "default") == v5e.peak("bfloat16", "default") == 197e12
    assert v5e.peak("float32", "float32") == 197e12 / 6


def test_what_cannot_be_planned_is_said_in_a_line():
    with pytest.raises(InputError, match=r"--device=b9000 is not known: choose one of v100, .*tpu-v5e.*, cpu"):
        accelerators.accelerator("b9000", 1)
    assumed = {"dtype": "float32", "precision": "default", "share": 1.0}
    for utilisation in (0.0, 1.5, float("nan")):
        with pytest.raises(InputError, match="--utilisation is the share of the peak"):
            planned.on_accelerator(accelerators.PUBLISHED["h100"], **assumed, utilisation=utilisation, reserve=0.1)
    with pytest.raises(InputError, match="--reserve is the share of memory left free"):
        planned.on_accelerator(accelerators.PUBLISHED["h100"], **assumed, utilisation=0.4, reserve=1.0)
    with pytest.raises(InputError, match=r"batch_size 60 cannot be shared equally by 8 device\(s\)"):
        needs(experiment(batch_size=60, initial=shapes_alone), 60)


@pytest.mark.parametrize(
    ("arguments", "devices"),
    [
        ([], 1),  # what there is to be taken is one device, of which nothing else is known
        (["--config.mesh.data=4", "--config.mesh.fsdp=2"], 8),
        (["--config.mesh.fsdp", "16"], 16),
    ],
)
def test_jax_starts_with_the_devices_of_the_mesh(arguments, devices, monkeypatch):
    monkeypatch.setattr("sys.argv", ["plan", f"--config={ROOT}/configs/toy.py", *arguments])
    assert plan.devices_asked_for() == devices


@pytest.mark.slow
def test_the_command_plans_for_devices_that_are_not_there(tmp_path):
    """Of four, two by two, whatever XLA_FLAGS says; remat halves what is alive at once of a U-Net."""
    command = [sys.executable, ROOT / "experiments/plan.py", f"--config={ROOT}/configs/digits.py"]
    command += ["--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.network.unet.channels=16", "--device=tpu-v5p"]
    command += ["--config.training.steps_per_dispatch=1"]  # a loop of several holds the state beside that of its step
    done = subprocess.run([*command, f"--json={tmp_path}/plan.json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written["mesh"] == {"data": 2, "fsdp": 2} and written["device"]["unit"] == "bfloat16"
    assert written["alive_at_once_otherwise"] < 0.6 * written["alive_at_once"]
    assert "mesh data 2 × fsdp 2: 4 device(s), batch 64, 16 on each" in done.stdout
    assert "on TPU v5p: an estimate, nothing was run there" in done.stdout
    refused = subprocess.run([*command, "--device=abacus"], capture_output=True, text=True)
    assert refused.returncode == 2 and refused.stderr.startswith("error: --device=abacus is not known: choose one of")
