"""A sweep run in this process: what is trained, evaluated and compiled how often; what fails; how it goes on."""

import contextlib
import json
import shutil

import numpy as np
import pytest

from score_jax import plotting
from score_jax.lab import build, evaluation, records, run, settings
from score_jax.lab.build import data as of_data
from score_jax.lab.sweeps import estimate, folder, outcomes, plan, running
from score_jax.training.checkpoint import steps
from tests.helpers import compiled, refused
from tests.lab.sweeping import CELLS, Engine, base, tables


@pytest.fixture(scope="module", autouse=True)
def no_figures():
    """Files in place of figures, which take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plotting, "save_figure", saved)
        yield


def saved(figure, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The sweep run to its end, with what it trained, evaluated, read, and compiled for each training."""
    done = {"trained": [], "evaluated": [], "read": [], "compiled": []}
    with pytest.MonkeyPatch.context() as patch, compiled() as names:
        train, together, evaluate, data = run.train, run.train_together, evaluation.evaluate, of_data.data

        def counted(experiment, workdir):
            names.taken()
            done["trained"].append([workdir.name])
            return train(experiment, workdir)

        def counted_together(experiments, workdirs, numbers):
            names.taken()
            done["trained"].append([workdir.name for workdir in workdirs])
            return together(experiments, workdirs, numbers)

        def measured(run_, **options):
            numbers = evaluate(run_, **options)
            done["evaluated"].append((run_.workdir.name, run_.sampling.conditions["sampler_steps"]))
            done["compiled"].append(names.taken())
            return numbers

        def read(*arguments):
            done["read"].append(arguments)
            return data(*arguments)

        patch.setattr(run, "train", counted)
        patch.setattr(run, "train_together", counted_together)
        patch.setattr(evaluation, "evaluate", measured)
        patch.setattr(of_data, "data", read)
        engine, out = Engine(), tmp_path_factory.mktemp("sweeps") / "whole"
        engine.run(out)
    return engine, out, done


def test_nothing_is_done_twice(whole):
    _, out, done = whole
    names = [name for together in done["trained"] for name in together]
    assert [len(together) for together in done["trained"]] == [2, 1] and len(set(names)) == 3  # of 5 cells
    assert len(done["evaluated"]) == len(set(done["evaluated"])) == 5
    assert len(done["read"]) == 2  # a toy is drawn by its seed
    assert sorted(path.name for path in (out / "runs").iterdir()) == sorted(names)
    assert [name.rpartition("-")[0] for name in names] == ["dsm-seed0", "dsm-seed1", "ssm-seed0"]


def test_another_seed_compiles_nothing_again(whole):
    _, _, done = whole
    of = dict(zip(done["evaluated"], done["compiled"], strict=True))
    first, second = (
        [names for (run_, _), names in of.items() if run_.startswith(s)] for s in ("dsm-seed0", "dsm-seed1")
    )
    assert first[0].count("jit(joint_dispatch)") == 1 and {"jit(batch)", "jit(evaluate)"} <= {*first[0]}
    assert second == [[], []]
    # Another objective is another step, and the same sampler.
    third = of[next(key for key in of if key[0].startswith("ssm-seed0"))]
    assert "jit(dispatch)" in third and "jit(batch)" not in third


def test_cells_are_ordinary_runs_and_their_numbers_those_of_evaluate(whole):
    _, out, _ = whole
    read = outcomes.read_outcomes(out)
    assert [outcome.state for outcome in read.outcomes] == ["done"] * 5 and read.axes == [
        "objective.name",
        "seed",
        "sampler.steps",
    ]
    last = read.outcomes[-1]
    assert last.values == {"objective.name": "ssm", "seed": 0, "sampler.steps": 3} and last.record["parameters"] > 0
    config = settings.of_run(out / "runs" / last.run)
    config.sampler.steps = 3
    trained = run.restore(build.experiment(config, before=run.before(out / "runs" / last.run)), out / "runs" / last.run)
    numbers = evaluation.evaluate(trained, folder=out / "elsewhere")
    shutil.rmtree(out / "elsewhere")
    assert numbers == last.numbers and numbers["sampler_steps"] == 3 and numbers["seed"] == 0


def test_run_again_it_does_nothing_and_writes_the_same(whole, monkeypatch):
    engine, out, _ = whole
    before = tables(out)
    for name in ("train", "train_together"):
        monkeypatch.setattr(run, name, None)
    monkeypatch.setattr(evaluation, "evaluate", None)
    made = engine.plan(out)
    assert made.pending() == [] and all(cell.done for cell in made.cells)
    said = [*plan.plan_lines(made, estimated=True)]
    assert said[0] == "5 cells: 3 trainings, 5 evaluations; 5 cells are done" and len(said) == 4
    engine.run(out)
    assert tables(out) == before


@pytest.mark.parametrize(
    "moment", ["training", *(pytest.param(v, marks=pytest.mark.slow) for v in ("evaluation", "between"))]
)
def test_stopped_at_any_moment_it_goes_on_to_the_same_table(whole, tmp_path, monkeypatch, moment):
    engine, expected, _ = whole
    train, evaluate, record = run.train, evaluation.evaluate, folder.write_record
    calls = []

    def stopping(function, when):
        def call(*arguments, **options):
            calls.append(function)
            if len(calls) == when:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return call

    def cut_off(experiment, workdir):
        """Trains the last one, which goes with no other, for a dispatch, and is stopped."""
        monkeypatch.setattr("score_jax.training.signals.end_if_any", lambda caught, step: stop(step))
        monkeypatch.setattr("score_jax.training.signals.agreed", lambda caught: 15)
        return train(experiment, workdir)

    def stop(step):
        raise KeyboardInterrupt(step)

    target = {"training": (run, "train", cut_off), "evaluation": (evaluation, "evaluate", stopping(evaluate, 2))}
    target["between"] = (folder, "write_record", stopping(record, 2))
    monkeypatch.setattr(*target[moment])
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        engine.run(out)
    monkeypatch.undo()
    there = [steps(path) for path in (out / "runs").iterdir()]
    assert len(there) == (3 if moment == "training" else 2)
    read = engine.write(out)  # of what is there
    assert {outcome.state for outcome in read.outcomes} == {"done", "not run yet"}
    engine.run(out)
    assert tables(out) == tables(expected)
    leaves = [(path.parent.name, path.name) for path in sorted(out.glob("runs/*/evaluations/*"))]
    assert leaves == [(path.parent.name, path.name) for path in sorted(expected.glob("runs/*/evaluations/*"))]


def test_a_cell_that_fails_or_cannot_be_costs_no_other(tmp_path, monkeypatch):
    """A sampler that diverges is in `left_out` of its numbers; what raises is the cell's own."""
    few = [{"seed": 0}, {"optimizer.learning_rate": 1e30}, {"objective.name": "nothing"}, {"sampler.steps": 2}]
    engine, out, evaluate = Engine(), tmp_path / "out", evaluation.evaluate

    def raising(run_, **options):
        if run_.sampling.conditions["sampler_steps"] == 2:
            raise MemoryError("RESOURCE_EXHAUSTED: out of\nmemory")
        return evaluate(run_, **options)

    monkeypatch.setattr(evaluation, "evaluate", raising)
    read = engine.run(out, few)
    states = {json.dumps(outcome.values): (outcome.state, outcome.reason) for outcome in read.outcomes}
    found = [state for state, _ in states.values()]
    assert found == ["done", "failed", "left out", "failed"]
    reasons = [reason for _, reason in states.values()]
    assert "the loss became" in reasons[1] and "in step" in reasons[1]
    assert reasons[2].startswith("objective 'nothing' does not exist: choose one of")
    assert reasons[3].startswith("MemoryError: RESOURCE_EXHAUSTED: out of memory (")
    text = (out / "table.md").read_text()
    assert all(reason[:30] in text for reason in reasons)
    assert [line.split(",")[0] for line in (out / "cells.csv").read_text().splitlines() if ",failed," in line] == [
        "1",
        "3",
    ]
    # Tried again, and only that.
    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    monkeypatch.setattr(run, "train", lambda experiment, workdir: (_ for _ in ()).throw(ValueError("still")))
    read = engine.run(out, few)
    assert [outcome.state for outcome in read.outcomes] == ["done", "failed", "left out", "done"]
    assert "ValueError: still" in read.outcomes[1].reason


def test_a_sweep_in_which_nothing_can_run_is_refused(tmp_path):
    refused(
        "no cell can be run: .*'nothing' does not exist",
        Engine().plan,
        tmp_path / "out",
        [{"objective.name": "nothing"}],
    )
    refused(
        "device.matmul_precision holds for a whole process",
        Engine().plan,
        tmp_path / "out",
        [{"device.matmul_precision": "float32"}],
    )
    assert not (tmp_path / "out").exists()


def test_length_and_attention_are_other_trainings_and_sampling_is_none(tmp_path):
    cells = [{}, {"training.steps": 24}, {"network.attention_implementation": "cudnn"}, {"sampler.name": "heun"}]
    cells += [{"evaluation.n": 16}, {"training.log_every": 2}, {"sde.name": "vp"}, {"data.root": "elsewhere"}]
    made = Engine().plan(tmp_path / "out", cells)
    assert [group.cells for group in made.groups] == [(0, 3, 4, 5), (1,), (2,), (6,), (7,)]
    assert [group.steps for group in made.groups] == [12, 24, 12, 12, 12]
    assert len({(cell.run, cell.evaluation) for cell in made.cells}) == 7  # records are not evaluations


def test_a_worker_of_a_config_that_was_edited_is_refused(whole):
    engine, out, _ = whole
    base = records.as_json(engine.config.to_dict())
    folder.require_same(out, base, CELLS)
    refused(r"with other settings \(seed: 0 → 7\): start it again", folder.require_same, out, base | {"seed": 7}, CELLS)
    refused("with other settings", folder.require_same, out, base, CELLS[1:])


def test_numbers_of_a_cell_that_cannot_be_built_here_are_kept(whole, tmp_path):
    engine, out = whole[0], tmp_path / "out"
    shutil.copytree(whole[1], out)
    made = engine.plan(out)
    cells = [cell._replace(done=False, left_out="no such device") for cell in made.cells]
    running.begin(out, cells)
    running.record_failed(out, cells, "no such device")
    assert tables(out) == tables(whole[1])
    folder.forget_record(out, cells[0].record)  # killed between the numbers and the record
    running.record_failed(out, made.cells[:1], "killed")
    assert folder.read_record(out, cells[0].record)["state"] == "done"


def test_a_damaged_last_checkpoint_is_made_again(whole, tmp_path):
    engine, out = whole[0], tmp_path / "out"
    shutil.copytree(whole[1], out)
    made = engine.plan(out)
    workdir = folder.run_folder(out, made.cells[0].run)
    for path in (workdir / "checkpoints" / "12").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-9])
    shutil.rmtree(workdir / "evaluations")
    engine.run(out)
    assert tables(out) == tables(whole[1])


def test_the_folder_of_another_sweep_is_refused_and_left_alone(whole, tmp_path):
    _, out, _ = whole
    described = json.loads((out / "sweep.json").read_text())
    config, cells = described["base"], described["cells"]
    assert cells == CELLS
    folder.require_ours(out, config, [*cells, {"seed": 7}])  # more of it
    folder.require_ours(out, config | {"device": {}}, cells)
    other = base()
    other.training.batch_size = 32
    refused(
        r"of another sweep \(training.batch_size: 16 → 32\)",
        folder.require_ours,
        out,
        json.loads(other.to_json()),
        cells,
    )
    refused(r"it has the cell objective.name=dsm seed=0", folder.require_ours, out, config, cells[1:])
    (tmp_path / "file").touch()
    refused("is a file", folder.require_ours, tmp_path / "file", config, cells)
    refused("holds file but no sweep.json", folder.require_ours, tmp_path, config, cells)
    refused("takes for a pattern", folder.require_ours, tmp_path / "a*", config, cells)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "sweep.json").write_text('{"base"')
    refused("cannot be read", folder.require_ours, tmp_path / "damaged", config, cells)
    with folder.claimed(tmp_path / "new", config, cells):
        refused("another process runs the sweep", lambda: folder.claimed(tmp_path / "new", config, cells).__enter__())
    refused("not the folder of a sweep", outcomes.read_outcomes, tmp_path)


def test_a_training_that_another_process_works_on_is_waited_for_and_not_done_again(whole, tmp_path, monkeypatch):
    engine, out = whole[0], tmp_path / "out"
    shutil.copytree(whole[1], out)
    cells = [{"objective.name": "dsm", "seed": 0, "sampler.steps": 2}]
    made = engine.plan(out, cells)
    place = folder.run_folder(out, made.cells[0].run) / made.cells[0].evaluation
    record = folder.read_record(out, made.cells[0].record)
    shutil.move(place, tmp_path / "there")
    made = engine.plan(out, cells)
    assert not made.cells[0].done
    said = []

    def say(line):
        said.append(line)
        if "waiting" in line:  # the other process ends, and leaves the numbers behind
            shutil.move(tmp_path / "there", place)
            other.close()

    monkeypatch.setattr("score_jax.lab.evaluation.evaluate", lambda *_: pytest.fail("evaluated again"))
    with contextlib.ExitStack() as other:
        other.enter_context(folder.locked(out / "locks" / made.groups[0].run))
        running.run_groups(out, made, engine.build, say)
    assert said[0] == f"{made.groups[0].run}: another process works on it: waiting for it to end"
    found = folder.read_record(out, made.cells[0].record)
    assert found["state"] == "done" and found["run"] == record["run"]


def test_the_time_is_estimated_from_a_step_and_a_call_or_from_cells_that_are_done(whole, tmp_path, monkeypatch):
    engine, out, _ = whole
    monkeypatch.setattr(estimate, "_seconds_of_a_step", lambda experiment: 0.5)
    monkeypatch.setattr(estimate, "_seconds_of_a_call", lambda experiment, size: 0.25)
    made = engine.plan(tmp_path / "new", speeds=estimate.Speeds(tmp_path / "new"))
    assert [group.seconds for group in made.groups] == [6.0] * 3  # 12 steps
    assert [cell.seconds for cell in made.cells] == [0.75, 1.0, 0.75, 1.0, 1.0]  # steps and a denoise
    said = [*plan.plan_lines(made, estimated=True)][-1]
    assert said.startswith("estimated time: 22 s one after another, of which training 18 s (an estimate:")
    # Another seed is as fast as those that were run.
    speeds, record = estimate.Speeds(out), json.loads(next((out / "cells").glob("dsm-seed0-steps2*")).read_text())
    experiment = engine.build({"objective.name": "dsm", "seed": 5, "sampler.steps": 2}, None)
    others = [json.loads(path.read_text()) for path in (out / "cells").glob("dsm-seed*")]
    mean = np.mean([other["seconds_a_step"] for other in others])
    assert record["programs"] == plan.programs_of(experiment)
    assert speeds.training(experiment, 10) == pytest.approx(10 * mean)
