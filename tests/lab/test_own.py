"""Objects of an outsider's package in every place where a setting is a name, and what is said of wrong ones."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import score_jax
from configs import toy
from score_jax import data, losses, networks, parameterization
from score_jax.lab import build, evaluation, own, run, samples, settings
from score_jax.losses import weighting
from tests.helpers import cut_off, refused
from tests.lab import outsider

ROOT = Path(__file__).parents[2]
OWN = {
    "sde.name": "mylab.sdes:Linear",
    "sde.options": {"beta": 3.0},
    "parameterization.name": "mylab.nets:Half",
    "network.name": "mylab.nets:Linen",
    "network.options": {"width": 6},
    "objective.name": "mylab.losses:twice",
    "weighting.name": "mylab.losses:flat",
    "times.name": "mylab.losses:middle",
    "optimizer.name": "optax:lion",
    "optimizer.options": {"b1": 0.8},
    "sampler.name": "mylab.samplers:slow_ddim",
    "sampler.options": {"eta": 0.25},
    "data.name": "mylab.data:line",
    "data.options": {"slope": -1.0},
    "training.loggers": ("mylab.logs:text",),
    "training.options": {"text": {"name": "own.txt"}},
    "evaluation.measures": ("nearest_neighbours", "mylab.measures:slope", "mylab.measures:raises"),
    "evaluation.options": {"slope": {"power": 2}},
}


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory):
    folder = outsider.write(tmp_path_factory.mktemp("outside"))
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.split(".")[0] == "mylab"]:
        del sys.modules[name]


def config_of(**changes):
    config = toy.get_config()
    config.data.n = 64
    config.network.mlp.hidden = (8,)
    config.training.update(steps=6, batch_size=8, steps_per_dispatch=2, log_every=2, checkpoint_every=2)
    config.sampler.update(name="ddim", grid="log_snr", steps=3, n=4)
    config.evaluation.n = 16
    for name, value in changes.items():
        section, _, key = name.rpartition(".")
        (config[section] if section else config)[key] = value
    return config


def test_every_name_may_be_an_object_of_ones_own(tmp_path, monkeypatch):
    """One run of them all: each does what it says, a run that was cut off goes on bit for bit, and all is measured."""
    config = config_of(**OWN)
    experiment = build.experiment(config)
    assert (
        experiment.settings["sde"] | {"name": "mylab.sdes:Linear", "options": {"beta": 3.0}}
        == experiment.settings["sde"]
    )
    sde = experiment.model.sde
    assert float(sde.sigma(jnp.asarray(0.5))) == 1.5  # beta t
    assert experiment.data.train.batch(np.arange(4))["x"].sum() == 0  # of slope −1
    # The objective is twice denoising's with the weight σ², of times about ½.
    keys, x0 = jax.random.key(0), jnp.ones((5, 2))
    score_fn = experiment.model.conditioned()
    found = experiment.objective(keys, score_fn, x0, experiment.times)
    expected = losses.diffusion_loss(keys, sde, score_fn, x0, times=experiment.times, weighting=weighting.sigma2)
    np.testing.assert_allclose(found, 2 * expected, rtol=1e-6)
    t, _ = experiment.times(jax.random.key(1), sde, 100)
    assert abs(t - 0.5).max() <= 0.1
    whole = run.train(experiment, tmp_path / "whole")
    lines = (tmp_path / "whole" / "own.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["2", "4", "6"]
    # Lion's update is the sign of the gradient: at most the learning rate a step, whatever the loss is multiplied by.
    moved = jax.tree.map(lambda a, b: abs(a - b).max(), whole.state.params, experiment.model.variables["params"])
    rate = config.optimizer.learning_rate
    assert 0 < max(jax.tree.leaves(moved)) <= 6.01 * rate
    cut_off(monkeypatch, lambda: run.train(experiment, tmp_path / "again"), 4)
    again = run.train(build.experiment(config, before=run.before(tmp_path / "again")), tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, again.state.params, whole.state.params)
    restored = run.restore(experiment, tmp_path / "whole")
    drawn = samples.draw_samples(restored, n=5, seed=1).x
    np.testing.assert_allclose(drawn, samples.draw_samples(whole, n=5, seed=1).x, atol=1e-6)
    numbers = evaluation.evaluate(restored)
    x = samples.draw_samples(restored, n=16, seed=restored.experiment.seed).x
    assert numbers["slope"] == pytest.approx(((x[:, 0] * x[:, 1]).sum() / (x[:, 0] ** 2).sum()) ** 2, rel=1e-5)
    assert (
        "division by zero" in numbers["left_out"]["raises"] and "measures.py, line 9" in numbers["left_out"]["raises"]
    )
    assert numbers["nearest_neighbour_distance"] > 0 and numbers["sampler"] == "mylab.samplers:slow_ddim"
    evaluation_folder = next((tmp_path / "whole" / "evaluations").iterdir())
    assert evaluation_folder.name.startswith("mylab.samplers_slow_ddim-3-step6-seed0-")


@pytest.mark.parametrize("name", ["mylab.nets:NNX", "mylab.nets:plain"])
def test_networks_of_other_libraries_are_trained_resumed_and_sampled(tmp_path, name, monkeypatch):
    config = config_of(**{"network.name": name, "network.options": {"width": 5}})
    experiment = build.experiment(config)
    whole = run.train(experiment, tmp_path / "whole")
    leaves = jax.tree.leaves(whole.state.params)
    assert {leaf.shape for leaf in leaves} <= {(3, 5), (5, 2), (5,), (2,)} and len(leaves) in (2, 4)
    cut_off(monkeypatch, lambda: run.train(experiment, tmp_path / "again"), 4)
    again = run.train(build.experiment(config, before=run.before(tmp_path / "again")), tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, again.state.params, whole.state.params)
    jax.tree.map(np.testing.assert_array_equal, again.state.ema, whole.state.ema)
    restored = run.restore(build.experiment(config), tmp_path / "whole")
    drawn = [samples.draw_samples(trained, n=4).x for trained in (whole, restored)]
    np.testing.assert_allclose(*drawn, atol=1e-6)  # of programs for one device, and for eight
    assert np.isfinite(drawn[0]).all()


def test_objects_are_handed_over_from_python(tmp_path):
    """And a run of them says so where only names are to be had."""
    from mylab import data as own_data
    from mylab import losses as own_losses
    from mylab import nets, sdes

    experiment = build.experiment(
        config_of(),
        data=own_data.line(slope=-1.0),
        sde=sdes.Linear(3.0),
        network=nets.Linen(6),
        objective=own_losses.twice,
        weighting=own_losses.flat,
        optimizer=optax.sgd(1e-3),
        measures={"slope": lambda measured: {"slope": 1.0}},
    )
    assert float(experiment.model.sde.beta) == 3.0 and experiment.data.train.batch(np.arange(4))["x"].sum() == 0
    trained = run.train(experiment, tmp_path)
    assert evaluation.evaluate(trained)["slope"] == 1.0
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["sde"]["name"] == "object mylab.sdes.Linear" and written["evaluation"]["measures"] == [
        "object slope"
    ]
    refused(
        r"data was an object handed to build.experiment \(score_jax.*Array", build.experiment, settings.of_run(tmp_path)
    )
    named = settings.of_run(tmp_path)
    named.data.name = "mixture"
    refused(r"sde was an object handed to build.experiment \(mylab.sdes.Linear", build.experiment, named)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sde.name": "nolab.sdes:MySDE"},
            r"sde.name 'nolab.sdes:MySDE': there is no module 'nolab' to import: install",
        ),
        ({"sde.name": "mylab.sdes:Other"}, r"mylab.sdes has no 'Other'; it has .*Linear"),
        ({"sde.name": "mylab.broken:Any"}, r"ZeroDivisionError: division by zero \(.*broken.py, line 2\)"),
        (
            {"sde.name": "mylab.sdes:Linear", "sde.options": {"gamma": 1}},
            r"has no option 'gamma': it takes beta, t_min",
        ),
        ({"sde.name": "mylab.sdes:broken"}, r"KeyError: 'beta' \(.*sdes.py, line 23\)"),
        (
            {"sde.name": "mylab.nets:Linen"},
            r"is no SDE: expected a class of score_jax.sde.SDE, or .*got the class Linen",
        ),
        (
            {"sde.name": "os:system"},
            r"is no SDE: expected a class of score_jax.sde.SDE, or .*got a function of \(command\)",
        ),
        (
            {"objective.name": "os:system"},
            r"is no objective: expected a function of \(key, sde, score_fn, x0, \*, times",
        ),
        ({"network.name": "os:system"}, r"is no network"),
        ({"sampler.name": "shutil:rmtree", "sampler.options": {"path": "x"}}, r"is no sampler: .*\(sde, score_fn\)"),
        ({"data.name": "mylab.data:rows"}, r"is no data set: .*annotation says that it returns one"),
        ({"optimizer.name": "optax:identity"}, r"is no optimizer: expected a function of \(learning_rate\)"),
        ({"evaluation.measures": ("mylab.data:rows",)}, r"is no measure: expected a function of \(measured\)"),
        (
            {"evaluation.measures": ("slope",)},
            r"'slope' does not exist: choose of held_out_loss, .* or module:attribute",
        ),
        ({"training.loggers": ("csv",)}, r"written module:attribute, got 'csv'"),
        ({"objective.name": "mylab.losses:raises"}, r"mylab.losses:raises: KeyError: .*losses.py, line 8, in raises"),
        ({"objective.name": "mylab.losses:wrong_shape"}, r"one number an example, \(3,\), got \(\)"),
        ({"network.name": "mylab.nets:Wide"}, r"mylab.nets:Wide|output must have the shape of its input"),
        ({"weighting.name": "mylab.losses:flat", "weighting.options": {"q": 1}}, r"has no option 'q': it takes power"),
        # What a factory stops by, or returns.
        ({"sde.name": "mylab.sdes:stops"}, r"'mylab.sdes:stops': SystemExit: 3 \(.*sdes.py, line 26\)"),
        ({"sde.name": "mylab.sdes:liar"}, r"sde.name 'mylab.sdes:liar' returned float 3.0: expected score_jax.sde.SDE"),
        (
            {"sampler.name": "mylab.samplers:nothing"},
            r"returned NoneType None: expected score_jax.sampling.base.Sampler",
        ),
        (
            {"optimizer.name": "mylab.optimizers:nothing"},
            r"returned NoneType None: expected optax.GradientTransformation",
        ),
        # What is found only where it is called, with the one of several objects that raised.
        ({"sde.name": "mylab.sdes:Lopsided"}, r"variance of the SDE must have the shape of t, \(\), got \(3,\)"),
        (
            {"sde.name": "mylab.sdes:Late"},
            r"^mylab.sdes:Late: RuntimeError: two lines \(.*sdes.py, line 39, in variance",
        ),
        (
            {"times.name": "mylab.losses:at"},
            r"times must return \(t, weight\), of shape \(3,\) each .* got \[\(3,\), \(\)",
        ),
        ({"times.name": "mylab.losses:early"}, r"times must lie between the SDE's t_min .* t_max .*, got \[-1.0"),
        (
            {"times.name": "mylab.losses:late"},
            r"times must lie between the SDE's t_min .* and t_max .*, got \[2.0, 2.0",
        ),
        (
            {"network.name": "mylab.nets:Careless", "network.dropout": 0.1, "sde.name": "mylab.sdes:Linear"},
            r"^mylab.nets:Careless: RuntimeError: only in training",
        ),
        ({"optimizer.name": "mylab.optimizers:breaks"}, r"^mylab.optimizers:breaks: ZeroDivisionError"),
        ({"sampler.name": "mylab.samplers:breaks"}, r"^mylab.samplers:breaks: ZeroDivisionError: .* in <lambda>"),
        # Settings of an object that aren't its own, or of none.
        ({"network.name": "mylab.nets:Linen", "network.conservative": True}, r"conservative is of the networks of the"),
        ({"network.name": "mylab.nets:Linen", "network.dtype": "bfloat16"}, r"network.dtype is of the networks of the"),
        (
            {"evaluation.options": {"slop": {}}},
            r"evaluation.options has 'slop', which is none of those listed: nothing",
        ),
        (
            {"evaluation.measures": ("mylab.measures:slope",), "evaluation.options": {"slope": 3}},
            r"evaluation.options.slope is 3: expected options by their names",
        ),
        ({"evaluation.measures": ("distances", "mylab.measures:distances")}, r"has two that are called 'distances'"),
        ({"training.options": {"txt": {}}}, r"training.options has 'txt', which is none of those listed: nothing"),
    ],
)
def test_a_wrong_object_is_one_line_before_anything_is_trained(changes, message):
    refused(message, build.experiment, config_of(**changes))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sde": "vp"}, r"sde is no SDE: expected an instance of score_jax.sde.SDE, got str 'vp'"),
        ({"sde": score_jax.sde.VP}, r"sde is no SDE: expected an instance of .*, got the class VP"),
        (
            {"network": networks.MLP},
            r"network is no network: expected an instance of flax.linen.module.Module or .*MLP",
        ),
        ({"network": lambda x: x}, r"network is no network: .* got function <lambda>"),
        ({"parameterization": parameterization.Eps}, r"parameterization is no .* got the class Eps"),
        (
            {"sampler": lambda sde: None},
            r"sampler is no sampler: expected a function of \(sde, score_fn\), got .*\(sde\)",
        ),
        ({"optimizer": optax.adam}, r"optimizer is no optimizer: expected an instance of optax.GradientTransformation"),
        (
            {"objective": lambda a, b: a},
            r".* a function of \(key, sde, score_fn, x0, \*, times, weighting\), got",
        ),
        ({"weighting": 1.0}, r"weighting is no weighting: expected a function of \(sde, t\), got float 1.0"),
        ({"times": 0.5}, r"times is no way to draw times: .*, got float 0.5"),
        ({"data": np.zeros((10, 2))}, r"data is no data set: expected an instance of score_jax.data.source.Source"),
        ({"measures": ["distances"]}, r"measures must be functions by name, \{'name': function\}, got list"),
        ({"measures": {"m": lambda: 1}}, r"measures\['m'\] is no measure: expected a function of \(measured\)"),
        ({"loggers": print}, r"loggers must be a list of functions, got builtin_function_or_method"),
        ({"loggers": [lambda: None]}, r"loggers\[0\] is no logger: expected a function of \(workdir, start\)"),
    ],
)
def test_a_wrong_object_from_python_is_one_line_with_its_argument(given, message):
    refused(f"^{message}", build.experiment, config_of(), **given)


def test_loggers_that_return_no_logger_are_refused_before_a_step(tmp_path):
    experiment = build.experiment(config_of(), loggers=[lambda workdir, start: None])
    refused(r"a logger must be a training.logging.Logger, got NoneType", run.train, experiment, tmp_path)


def test_own_points_have_a_scatter_and_other_arrays_no_picture(tmp_path):
    """And of those, training says at its beginning that none is drawn."""
    points = build.experiment(config_of(**{"data.name": "mylab.data:line", "training.sample_every": 6}))
    run.train(points, tmp_path)
    assert [path.name for path in (tmp_path / "samples" / "during").rglob("*.png")] == ["scatter.png"]
    vectors = data.ArraySource(np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32))
    told = build.experiment(config_of(**{"training.sample_every": 6}), data=vectors)
    assert any("examples of shape (3,) have no picture" in line for line in told.summary)
    assert told.examples.picture == "none" and points.examples.picture == "points"


def stranger(folder, name, key="sde"):
    """A run folder whose config.json names code that its reader has never heard of."""
    config = config_of().to_dict()
    config[key]["name"] = name
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("key", ["sde", "network", "objective", "sampler", "data", "optimizer", "times"])
def test_a_run_folder_is_data_and_imports_nothing_that_is_not_trusted(tmp_path, key, monkeypatch):
    folder = stranger(tmp_path, "mylab.broken:thing", key)
    refused("names mylab.broken:thing, code of another package.* --trust=mylab", settings.of_run, folder)
    assert "mylab.broken" not in sys.modules
    refused("--trust=mylab", settings.of_run, folder, trusted=["my", "mylabs", "mylab.broke"])
    for trusted in ("mylab", "mylab.broken", "mylab.broken:thing"):
        assert settings.of_run(folder, trusted=[trusted])[key].name == "mylab.broken:thing"
    monkeypatch.setattr(own.importlib, "import_module", lambda name: pytest.fail("imported"))
    nested = config_of().to_dict()
    nested["evaluation"]["measures"] = ["distances", "os:system"]
    (folder / "config.json").write_text(json.dumps(nested))
    refused("names os:system", settings.of_run, folder)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "sample", "evaluate"])
def test_commands_do_not_run_what_a_strangers_folder_names(tmp_path, command):
    """os:system with a harmless command, which is never run: not without trust, nor with it, being no SDE."""
    folder = stranger(tmp_path / "run", "os:system")
    config = json.loads((folder / "config.json").read_text())
    config["sde"]["options"] = {"command": f"touch {tmp_path / 'owned'}"}
    (folder / "config.json").write_text(json.dumps(config))
    for trust in ([], ["--trust=os"]):
        arguments = [f"--workdir={folder}", *(trust if command != "train" else [])]
        done = _command(command, *arguments)
        assert not (tmp_path / "owned").exists()
        if command != "train":  # which reads its settings from its own config file
            expected = "is no SDE" if trust else "--trust=os"
            assert done.returncode == 2 and expected in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def _command(name, *arguments, **variables):
    return subprocess.run(
        [sys.executable, "-m", f"score_jax.lab.{name}", *arguments],
        cwd=variables.pop("cwd", ROOT),
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **variables},
    )


@pytest.mark.slow
def test_the_commands_take_an_outsiders_package_from_any_folder(tmp_path, package):
    """A config file anywhere; trained, killed, resumed, sampled and evaluated, once the folder's names are trusted."""
    (tmp_path / "mine.py").write_text(
        "from score_jax.lab import settings\n\ndef get_config():\n    config = settings.get_config()\n"
        "    config.data.dequantize = False\n"
        "    config.training.update(steps=6, batch_size=8, steps_per_dispatch=2, log_every=2, checkpoint_every=2)\n"
        '    config.sampler.update(grid="log_snr", steps=3, n=4)\n    config.evaluation.n = 16\n'
        + "".join(f"    config.{key} = {value!r}\n" for key, value in OWN.items())
        + "    return config\n"
    )
    where = {"PYTHONPATH": os.pathsep.join([str(package), str(ROOT)]), "cwd": tmp_path}
    training = ("train", "--config=mine.py", "--workdir=run", "--config.sde.options.beta=4")
    killed = _command(*training, **where, MYLAB_KILL="4")
    assert killed.returncode == -9 and not (tmp_path / "run" / "samples").exists()
    done = _command(*training, **where)
    assert done.returncode == 0, done.stderr
    records = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert [record["step"] for record in records] == [2, 4, 6]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["sde"]["options"] == {"beta": 4.0}
    for command in ("sample", "evaluate"):
        refusal = _command(command, "--workdir=run", **where)
        assert refusal.returncode == 2 and "--trust=" in refusal.stderr
        for confirmed in ("--trust=mylab,optax", "--config=mine.py"):
            done = _command(command, "--workdir=run", confirmed, **where)
            assert done.returncode == 0, done.stderr
    assert "  slope " in done.stdout and "left out: raises: mylab.measures:raises: ZeroDivisionError" in done.stdout
    absent = _command("sample", "--workdir=run", "--trust=mylab,optax", PYTHONPATH=str(ROOT), cwd=tmp_path)
    assert absent.returncode == 2 and "no module 'mylab' to import" in absent.stderr


def test_equal_options_make_equal_objects():
    """So that nothing that was compiled for one is compiled again for the other."""
    first, second = (build.experiment(config_of(**{"network.name": "mylab.nets:Linen"})) for _ in range(2))
    assert first.model.apply == second.model.apply and hash(first.model.apply) == hash(second.model.apply)
    assert dataclasses.is_dataclass(first)
