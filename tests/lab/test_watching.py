"""A run watched while it trains: pictures of the same noise, held-out loss, rates; and where they are logged."""

import json
import sys
import types
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import digits, toy
from score_jax.lab import build, run, samples, show, watching
from score_jax.lab.measures.held_out_loss import loss_of_state
from score_jax.training import logging
from score_jax.types import InputError


def watched(module, variant, **training):
    config = module.get_config(variant)
    config.data.n, config.network.mlp.hidden = 500, (8,)
    config.training.update(steps=20, steps_per_dispatch=10, log_every=10, checkpoint_every=20, batch_size=16)
    config.training.update(sample_every=10, evaluate_every=20, ema_decay=0.9, **training)
    config.optimizer.warmup_steps = 5
    config.sampler.update(name="ddim", grid="log_snr", steps=3, n=20, batch_size=20)
    return config


def records(workdir):
    return {r["step"]: r for r in map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())}


def test_images_are_drawn_from_the_same_noise_and_labels_each_time(tmp_path):
    experiment = build.experiment(watched(digits, "mlp"))
    trained = run.train(experiment, tmp_path)
    written = sorted((tmp_path / "samples" / "during").rglob("*.png"))
    assert [path.relative_to(tmp_path / "samples" / "during").as_posix() for path in written] == [
        "0000010/grid.png",
        "0000020/grid.png",
    ]
    # The last is the picture of the parameters that training ended with, of the same keys and every class in turn.
    labels = samples.classes_in_turn(experiment.examples, 20)
    drawn = samples.draw_samples(trained, n=20, labels=labels)
    show.show_progress(trained, drawn, tmp_path / "again", experiment.data)
    np.testing.assert_array_equal(*(np.asarray(Image.open(p)) for p in (written[1], tmp_path / "again" / "grid.png")))
    first, last = (np.asarray(Image.open(p)) for p in written)
    assert (first != last).any()


def test_the_record_has_rates_and_the_held_out_loss(tmp_path):
    """The cosine of 20 steps with 5 of warm-up and the average's decay, at each record's last update; by hand."""
    config = watched(digits, "mlp")
    experiment = build.experiment(config)
    trained = run.train(experiment, tmp_path)
    found = records(tmp_path)
    assert sorted(found) == [10, 20]
    rate = config.optimizer.learning_rate * 0.5 * (1 + np.cos(np.pi * (9 - 5) / 15))
    assert found[10]["learning_rate"] == pytest.approx(rate, rel=1e-5)
    assert found[10]["ema_decay"] == pytest.approx(10 / 19, rel=1e-6)  # (1 + n)/(10 + n) at n = 9
    assert found[20]["ema_decay"] == pytest.approx(20 / 29, rel=1e-6)
    assert (found[10]["examples"], found[20]["examples"]) == (160, 320)
    assert found[20]["seconds_left"] == 0 < found[10]["seconds_left"]
    assert "held_out_loss_by_sigma" not in found[10]
    expected = loss_of_state(experiment)(trained.state)["loss_by_sigma"]
    assert found[20]["held_out_loss_by_sigma"] == pytest.approx(expected, rel=1e-5)


def test_rates_ask_nothing_of_the_device_while_it_trains():
    """They are those of the last update of each record's steps, found before the first."""
    asked = []
    how = build.experiment(watched(digits, "mlp")).training
    counted = lambda name: lambda n: asked.append(name) or getattr(how, name)(n)
    of_step = watching.rates(replace(how, learning_rate=counted("learning_rate"), decay=counted("decay")))
    assert sorted(asked) == ["decay", "learning_rate"]
    for step in (10, 20):
        expected = float(how.learning_rate(step - 1)), float(how.decay(step - 1))
        roundings = 2.0**-23 * max(1e-3, *expected)  # of the peak: a cosine's last rates are differences of it
        assert (of_step(step)["learning_rate"], of_step(step)["ema_decay"]) == pytest.approx(expected, abs=roundings)
    assert len(asked) == 2


@pytest.mark.slow
def test_points_have_a_scatter_and_the_score_field(tmp_path):
    experiment = build.experiment(watched(toy, "dsm"))
    run.train(experiment, tmp_path)
    for step in ("0000010", "0000020"):
        folder = tmp_path / "samples" / "during" / step
        assert {"scatter.png", "score_field.png"} <= {path.name for path in folder.iterdir()}


def test_pictures_are_in_tensorboard_and_weights_and_biases(tmp_path, monkeypatch):
    from tensorboardX import SummaryWriter

    seen = []
    add = lambda self, name, image, step, dataformats: seen.append((name, image.shape, step, dataformats))
    monkeypatch.setattr(SummaryWriter, "add_image", add)
    experiment = build.experiment(watched(digits, "mlp", tensorboard=True, log_every=20))
    run.train(experiment, tmp_path)
    assert [(name, step) for name, _, step, _ in seen] == [("grid", 10), ("grid", 20)]
    assert all(len(shape) == 3 and shape[2] == 3 and layout == "HWC" for _, shape, _, layout in seen)
    logged = []
    client = types.SimpleNamespace(
        Image=lambda path: ("image", path),
        init=lambda **_: types.SimpleNamespace(
            id="a", log=lambda r, step: logged.append((step, r)), finish=lambda: None
        ),
    )
    monkeypatch.setitem(sys.modules, "wandb", client)
    logger = logging.wandb("project")(tmp_path, 0)
    path = tmp_path / "samples" / "during" / "0000010" / "grid.png"
    logging.combine([logger]).picture(10, "grid", path)
    assert logged == [(10, {"grid": ("image", str(path))})]


_SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "name, shape",
    [
        ("mlp", (3,)),
        pytest.param("mlp", (6, 2), marks=_SLOW),
        pytest.param("mlp", (4, 4, 4, 1), marks=_SLOW),
        ("unet", (3,)),
        ("unet", (6, 2)),
        pytest.param("unet", (4, 4, 4, 1), marks=_SLOW),
    ],
)
def test_arrays_of_any_shape_are_trained_and_sampled(tmp_path, name, shape):
    """Vectors, sequences and volumes of floats, in their own units; the U-Net has no vectors, and says so."""
    x = 3 + 0.1 * np.random.default_rng(0).normal(size=(40, *shape)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    config = watched(toy, "dsm", steps_per_dispatch=1)
    config.data.update(name="array", root=str(tmp_path / "x.npy"))
    config.network.name = name
    config.network.unet.update(channels=4, multipliers=(1,), attention=())
    config.training.update(steps=2, log_every=1, checkpoint_every=2)
    config.training.update(dict.fromkeys(("sample_every", "evaluate_every"), int(name == "mlp")))
    config.optimizer.warmup_steps = 0
    if name == "unet" and len(shape) == 1:
        with pytest.raises(InputError, match=r"UNet takes sequences .*, got"):
            build.experiment(config)
        return
    trained = run.train(build.experiment(config), tmp_path / "run")
    drawn = samples.draw_samples(trained, n=5)
    assert drawn.x.shape == (5, *shape) and np.isfinite(drawn.x).all()
    assert list(records(tmp_path / "run")) == [1, 2]
    score = trained.model(jnp.asarray(x[:2]), jnp.asarray(0.5))
    assert score.shape == (2, *shape)
