"""The main job in a few seconds, on any supported Python: train on a toy, sample it, meet its exact moments."""

import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import toy
from score_jax.lab import build, evaluation, run, samples


@pytest.mark.slow  # for other Pythons: on the suite's own, other tests do each of these things
def test_a_toy_is_trained_sampled_and_measured(tmp_path):
    config = toy.get_config()
    config.data.name = "mixture"
    config.network.mlp.hidden = (64, 64)
    config.training.steps = config.training.checkpoint_every = 1000
    config.training.steps_per_dispatch = config.training.log_every = 100
    config.training.batch_size = 64
    config.sampler.name, config.sampler.grid, config.sampler.steps = "ddim", "log_snr", 30
    config.evaluation.n = 500
    experiment = build.experiment(config)
    trained = run.train(experiment, tmp_path / "run")
    numbers = evaluation.evaluate(trained)
    print(sys.version, jax.__version__, numbers)
    assert numbers["step"] == 1000
    errors = {float(k): v for k, v in numbers["relative_score_error_by_sigma"].items()}
    # At the largest noise the score is nearly −x/(α²v + σ²): a small network has it after 1000 steps to a few per cent.
    assert errors[max(errors)] < 0.1
    assert np.isfinite(list(errors.values())).all()
    again = run.restore(experiment, tmp_path / "run")
    chex.assert_trees_all_equal(again.state.params, trained.state.params)
    drawn = samples.draw_samples(again, n=300, seed=1)
    near = jnp.linalg.norm(drawn.x[:, None] - np.array([[5.0, 5.0], [-5.0, -5.0]])[None], axis=2).min(1)
    assert float((near < 3).mean()) > 0.85  # 3 standard deviations around either mode: 0.989 for the data
