import gc
import json
import os
import shutil
import tracemalloc
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.training import checkpoint, create, make_placement, optimizer, place, sharding
from score_jax.types import InputError
from tests.training import tiny


def _state(seed=1, width=50):
    variables = {
        "params": {"w": jax.random.normal(jax.random.key(seed), (width, 40)), "b": jnp.ones(4, jnp.bfloat16)},
        "fixed": {"f": jnp.arange(3)},
    }
    return create(jax.random.key(seed, impl="rbg" if seed == 5 else None), variables, optimizer(0.1))


def _save(workdir, *steps, config=tiny.CONFIG, position=None, **keep):
    manager = checkpoint.open_checkpoints(workdir, **keep)
    for step in steps:
        checkpoint.save_state(manager, step, _state(step), config=config, position=position, window=[1, 0.1])
    manager.wait_until_finished()
    return manager


def _assert_same(a, b):
    chex.assert_trees_all_equal(*(jax.tree.map(_words, tree) for tree in (a, b)), strict=True)


def _words(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x)


@pytest.mark.parametrize("seed", [1, 5])
def test_state_with_its_typed_key_position_and_sums_come_back(tmp_path, seed):
    position = b"\x00\xff grain" if seed == 1 else {"number": 3}
    manager = _save(tmp_path, seed, position=position)
    template = place(_state(0 if seed == 1 else 5), tiny.placement(4))
    read = checkpoint.restore_state(manager, template, config=tiny.CONFIG)
    manager.close()
    _assert_same(read.state, _state(seed))
    assert read.state.key.dtype == _state(seed).key.dtype
    assert read.state.params["w"].sharding.mesh.size == 4
    assert (read.position, read.window, read.step) == (position, [1, 0.1], seed)


def test_a_checkpoint_leaves_no_answers_of_tensorstore_behind(tmp_path):
    """TensorStore keeps the names in each JSON that Orbax has of it: of its counters, and five an array."""
    manager = _save(tmp_path, *range(1, 4), keep_last=1)  # caches fill
    tracemalloc.start()
    for step in range(4, 9):
        checkpoint.save_state(manager, step, _state(step), config=tiny.CONFIG)
    manager.wait_until_finished()
    gc.collect()
    left = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/tensorstore_utils.py")])
    tracemalloc.stop()
    manager.close()
    assert sum(found.count for found in left.statistics("lineno")) < 200  # some 70; 1,500 where nothing is mended


def test_a_checkpoint_of_any_mesh_is_read_onto_any_other(tmp_path):
    """8 → 2 → 1 devices, cut → copied and back, each read from what the one before wrote."""
    meshes = [(2, 4), (1, 2), (1, 1), (1, 8)]
    cut = {(2, 4): (13, 40), (1, 2): (26, 40), (1, 1): (52, 40), (1, 8): (52, 5)}
    written = _state(1, width=52)
    for number, (data, fsdp) in enumerate(meshes):
        placement = make_placement(data, fsdp, min_size=1000, devices=jax.devices()[: data * fsdp])
        if number == 0:
            found = place(written, placement)
        else:
            with checkpoint.open_checkpoints(tmp_path / str(number - 1), read_only=True) as manager:
                template = sharding.described(jax.eval_shape(lambda: _state(0, width=52)), placement)
                found = checkpoint.restore_state(manager, template).state
        _assert_same(found, written)
        for w in (found.params["w"], found.ema["w"], found.opt_state[0].mu["w"]):
            assert {shard.data.shape for shard in w.addressable_shards} == {cut[data, fsdp]}
            assert len(w.addressable_shards) == data * fsdp
        with checkpoint.open_checkpoints(tmp_path / str(number)) as manager:
            checkpoint.save_state(manager, 1, found, config={})


def test_last_and_every_nth_are_kept(tmp_path):
    with _save(tmp_path, *range(1, 11), keep_last=2, keep_every=4) as manager:
        assert sorted(manager.all_steps()) == [4, 8, 9, 10]


def test_donating_the_state_does_not_disturb_a_checkpoint_being_written(tmp_path):
    state = place({"w": jnp.arange(200_000.0)}, tiny.placement())
    spoil = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    manager = checkpoint.open_checkpoints(tmp_path)
    checkpoint.save_state(manager, 1, state, config={})
    for _ in range(3):
        state = spoil(state)
    manager.wait_until_finished()
    read = checkpoint.restore_state(manager, jax.eval_shape(lambda: {"w": jnp.zeros(200_000)}))
    manager.close()
    np.testing.assert_array_equal(read.state["w"], np.arange(200_000.0))


def _damaged(tmp_path, how, *steps):
    """Saves steps 1 and 2, damages `steps`, and returns the folder, moved to a path no reader has cached."""
    _save(tmp_path / "saved", 1, 2).close()
    for step in steps:
        folder = tmp_path / "saved" / "checkpoints" / str(step)
        largest = max((folder / "state").rglob("*"), key=lambda f: f.stat().st_size if f.is_file() else 0)
        content = bytearray(largest.read_bytes())
        if how == "cut off":
            largest.write_bytes(content[: len(content) // 2])
        elif how == "one bit":
            content[len(content) // 2] ^= 0x10
            largest.write_bytes(content)
        elif how == "missing":
            largest.unlink()
        else:
            (folder / "run" / "metadata").unlink()
    return (tmp_path / "saved").rename(tmp_path / "run")


@pytest.mark.usefixtures("abandoned_reads")
@pytest.mark.parametrize("how", ["cut off", "one bit", "missing", "no position"])
def test_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path, caplog, how):
    workdir = _damaged(tmp_path, how, 2)
    manager = checkpoint.open_checkpoints(workdir)
    with manager:
        read = checkpoint.restore_state(manager, _state(0), config=tiny.CONFIG)
    assert read.step == 1
    _assert_same(read.state, _state(1))
    assert str(workdir / "checkpoints" / "2") in caplog.text
    checkpoint.set_aside_after(workdir, 1)
    assert checkpoint.steps(workdir) == [1] and (workdir / "damaged" / "2").is_dir()
    _save(workdir, 2).close()  # training gets there again
    assert checkpoint.steps(workdir) == [2, 1]


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def _become_a_folder(path):
    path.unlink()
    path.mkdir()


_DAMAGES = {
    "flipped": _flip,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
    "a folder": _become_a_folder,
    "a list": lambda path: path.write_text("[1]"),
    "a number": lambda path: path.write_text("3"),
    "an object": lambda path: path.write_text('{"metrics": 3, "files": {}}'),
    "too deep": lambda path: path.write_text("[" * 100_000),
}


def test_damage_of_any_kind_to_any_file_is_named_and_the_checkpoint_before_used(tmp_path, caplog):
    """Every file flipped, and each damage to each file that describes something."""
    workdir, state = tmp_path / "run", {"w": jnp.arange(3.0)}
    with checkpoint.open_checkpoints(workdir) as manager:
        for step in (1, 2):
            checkpoint.save_state(manager, step, state, config={})
    folder = workdir / "checkpoints" / "2"
    files = sorted(f.relative_to(folder) for f in folder.rglob("*") if f.is_file())
    described = [f for f in files if f.name in ("metadata", "sha256.json", "_CHECKPOINT_METADATA", "_METADATA")]
    assert len(files) > 8 and len(described) == 4
    shutil.copytree(folder, tmp_path / "whole")

    def read():
        with checkpoint.open_checkpoints(workdir, read_only=True) as manager:
            return checkpoint.restore_state(manager, state, config={}).step

    for file, damage in [(f, "flipped") for f in files] + [(f, damage) for f in described for damage in _DAMAGES]:
        _DAMAGES[damage](folder / file)
        caplog.clear()
        assert read() == 1, (file, damage)
        assert f"{folder} ({file} is missing or damaged)" in caplog.text or file.name == "sha256.json"
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "whole", folder)
    assert read() == 2


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("a file", "sha256.json is missing"), ("empty", "sha256.json is missing"), ("renamed", "it is of step 2")],
)
def test_what_only_has_the_name_of_a_checkpoint_is_passed_over(tmp_path, caplog, kind, reason):
    _save(tmp_path, 1, 2).close()
    folder = tmp_path / "checkpoints" / "2"
    if kind == "renamed":
        folder.rename(folder.with_name("7"))
    else:
        shutil.rmtree(folder)
        folder.write_text("") if kind == "a file" else folder.mkdir()
    with checkpoint.open_checkpoints(tmp_path) as manager:
        assert checkpoint.restore_state(manager, _state(0)).step == 1
    assert reason in caplog.text
    checkpoint.set_aside_after(tmp_path, 1)
    assert checkpoint.steps(tmp_path) == [1] and len(list((tmp_path / "damaged").iterdir())) == 1


@pytest.mark.usefixtures("abandoned_reads")
def test_only_damaged_checkpoints_are_an_error_naming_each(tmp_path):
    manager = checkpoint.open_checkpoints(_damaged(tmp_path, "one bit", 1, 2), read_only=True)
    with pytest.raises(InputError, match=r"checkpoints/2 \(state/.* is missing or damaged\); .*checkpoints/1 \("):
        checkpoint.restore_state(manager, _state(0))
    manager.close()


def test_checksum_sees_any_single_change():
    state = _state()
    before = int(checkpoint.checksum(state))
    changed = state.params["w"].at[49, 39].multiply(1 + 2**-23)
    assert int(checkpoint.checksum(state.replace(params=state.params | {"w": changed}))) != before
    assert int(checkpoint.checksum(state.replace(failures=state.failures + 1))) != before
    assert int(checkpoint.checksum(state.replace(key=jax.random.key(2)))) != before
    swapped = state.params["w"].at[0, :2].set(state.params["w"][0, 1::-1])
    assert int(checkpoint.checksum(state.replace(params=state.params | {"w": swapped}))) != before


def test_checkpoint_of_another_network_names_the_array(tmp_path):
    manager = _save(tmp_path, 1)
    with pytest.raises(InputError, match=r"ema\.w is float32 \(50, 40\) there and float32 \(5, 40\) here"):
        checkpoint.restore_state(manager, _state(width=5))
    manager.close()


def test_checkpoint_of_another_precision_is_not_taken_for_a_damaged_one(tmp_path):
    manager = _save(tmp_path, 1)
    with jax.enable_x64(True), pytest.raises(InputError, match=r"ema\.w is float32 \(50, 40\) there and float64 "):
        checkpoint.restore_state(manager, jax.tree.map(_wide, _state()))
    manager.close()


def _wide(x):
    return x.astype(jnp.float64) if x.dtype == jnp.float32 else x


def test_checkpoint_of_another_config_names_what_differs(tmp_path):
    manager = _save(tmp_path, 1)
    other = {"network": {"width": 9}, "training": {"batch_size": 16, "steps": 80}}
    with pytest.raises(InputError, match=r"\(network\.width: 8 → 9\)"):
        checkpoint.restore_state(manager, _state(0), config=other, may_differ=["training.steps"])
    manager.close()


def test_step_that_is_not_there_names_those_that_are(tmp_path):
    manager = _save(tmp_path, 1, 2)
    with pytest.raises(InputError, match=r"no checkpoint of step 3; it has \[1, 2\]"):
        checkpoint.restore_state(manager, _state(0), step=3)
    _assert_same(checkpoint.restore_state(manager, _state(0), step=1).state, _state(1))
    manager.close()


def test_folder_with_a_checkpoint_is_claimed_again_by_the_same_config_only(tmp_path):
    config = {"network": {"width": 8, "layers": (1, 2)}, "training": {"steps": 10}}
    with checkpoint.claim(tmp_path / "a" / "b", config) as workdir:
        read = checkpoint.read_config(workdir)
    assert read == {"network": {"width": 8, "layers": [1, 2]}, "training": {"steps": 10}}
    (workdir / "checkpoints" / "10").mkdir(parents=True)
    with checkpoint.claim(workdir, config):
        pass
    longer = config | {"training": {"steps": 20}}
    with pytest.raises(InputError, match=r"training\.steps: 10 → 20"), checkpoint.claim(workdir, longer):
        pass
    with checkpoint.claim(workdir, longer, may_differ=["training"]):
        pass
    assert checkpoint.read_config(workdir)["training"]["steps"] == 20


def test_a_second_process_is_refused_while_the_first_trains_and_changes_nothing(tmp_path):
    longer = tiny.CONFIG | {"training": tiny.CONFIG["training"] | {"steps": 80}}
    with checkpoint.claim(tmp_path / "run", tiny.CONFIG) as workdir:
        before = _contents(workdir)
        with (
            pytest.raises(InputError, match="another process is training in"),
            checkpoint.claim(workdir, longer, may_differ=["training.steps"]),
        ):
            pass
        with pytest.raises(InputError, match="another process is training in"), checkpoint.claim(workdir, {"a": 1}):
            pass
        assert _contents(workdir) == before
    with checkpoint.claim(workdir, longer, may_differ=["training.steps"]):
        pass


@pytest.mark.parametrize(
    ("more", "free"),
    [
        ([], True),
        (["metrics.jsonl", "environment.json", "checkpoints/10.orbax-checkpoint-tmp/", "tensorboard/", "wandb/"], True),
        (["checkpoints/10/"], False),
        (["checkpoints/10"], False),
        (["notes.txt"], False),
        (["samples/"], False),
        (["environment-20.json"], False),
        (["damaged/"], False),
    ],
)
def test_folder_is_free_again_if_a_start_that_failed_left_all_of_it(tmp_path, more, free):
    with checkpoint.claim(tmp_path, tiny.CONFIG):
        pass
    for name in more:
        path = tmp_path / name
        path.mkdir(parents=True) if name.endswith("/") else (path.parent.mkdir(exist_ok=True), path.write_text("old"))
    before = _contents(tmp_path)
    if free:
        with checkpoint.claim(tmp_path, {"a": 1}):
            assert checkpoint.read_config(tmp_path) == {"a": 1}
        assert not (tmp_path / "metrics.jsonl").exists() and not (tmp_path / "environment.json").exists()
    else:
        with pytest.raises(InputError, match="belongs to another config"), checkpoint.claim(tmp_path, {"a": 1}):
            pass
        assert _contents(tmp_path) == before


@pytest.mark.parametrize("name", [".lock", "config.json", "metrics.jsonl", "environment.json", "wandb_run.txt"])
def test_folder_or_pipe_in_place_of_a_runs_file_is_one_line(tmp_path, name):
    for make in (Path.mkdir, os.mkfifo):  # which hangs who opens it
        workdir = tmp_path / make.__name__
        workdir.mkdir()
        (workdir / "config.json").write_text(json.dumps(tiny.CONFIG))
        (workdir / name).unlink(missing_ok=True)
        make(workdir / name)
        with pytest.raises(InputError, match=f"{name} should be a file of the run: move it away"):
            checkpoint.claim(workdir, tiny.CONFIG).__enter__()


@pytest.mark.parametrize("name", ["checkpoints", "damaged", "tensorboard"])
def test_file_in_place_of_a_runs_folder_is_one_line(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps(tiny.CONFIG))
    (tmp_path / name).write_text("")
    for start in (checkpoint.claim(tmp_path, tiny.CONFIG).__enter__, lambda: checkpoint.open_checkpoints(tmp_path)):
        with pytest.raises(InputError, match=f"{name} should be a folder of the run: move it away"):
            start()


def test_lock_that_is_a_link_leaves_what_it_links_to(tmp_path):
    (tmp_path / "value").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "value")
    with checkpoint.claim(tmp_path / "run", tiny.CONFIG):
        pass
    assert (tmp_path / "value").read_text() == "mine"


@pytest.mark.parametrize("name", ["a[1]", "a\\b", "a*", "what?"])
def test_name_that_orbax_takes_for_a_pattern_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="in its name"), checkpoint.claim(tmp_path / name, tiny.CONFIG):
        pass
    assert list(tmp_path.iterdir()) == []
    _save(tmp_path / "run", 1).close()
    with pytest.raises(InputError, match="in its name"):
        checkpoint.open_checkpoints((tmp_path / "run").rename(tmp_path / name), read_only=True)


def test_what_a_process_leaves_that_died_in_its_first_moment_is_no_foreign_folder(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.json.4711").write_text("{")
    with checkpoint.claim(tmp_path, tiny.CONFIG):
        assert checkpoint.read_config(tmp_path) == tiny.CONFIG


def test_the_config_of_something_else_is_not_listed_in_full(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({f"key_{i:03d}": i for i in range(100)}))
    with pytest.raises(InputError, match="and 95 more") as error, checkpoint.claim(tmp_path, tiny.CONFIG):
        pass
    assert len(str(error.value)) < 700


def test_differences_list_changed_added_and_removed_keys():
    was, now = {"a": {"b": 1, "c": 2}, "d": None}, {"a": {"b": 1.5, "e": "x"}, "d": None}
    assert checkpoint.config_differences(was, now) == ["a.b: 1 → 1.5", "a.c: 2 → absent", 'a.e: absent → "x"']


def _contents(folder):
    return {f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("thesis.tex", "mine", "holds thesis.tex but no config.json"),
        ("config.json", json.dumps({"hidden_size": 4}), "belongs to another config"),
        ("config.json", "{}", "belongs to another config"),
        ("config.json", "not json", "config.json cannot be read"),
        ("config.json", "", "config.json cannot be read"),
        ("config.json", "\x00ÿ", "config.json cannot be read"),
        ("config.json", "[" * 100_000, "config.json cannot be read"),
        ("config.json", "[1]", "should hold the config of a run, a JSON object, not list"),
        ("config.json", "NaN", "should hold the config of a run, a JSON object, not float"),
    ],
)
def test_foreign_folder_is_refused_and_untouched(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    before = _contents(tmp_path)
    with pytest.raises(InputError, match=message), checkpoint.claim(tmp_path, tiny.CONFIG):
        pass
    assert _contents(tmp_path) == before


def test_workdir_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for folder, message in [("file", "is a file"), ("file/below", "cannot be written")]:
        with pytest.raises(InputError, match=message) as error, checkpoint.claim(tmp_path / folder, {}):
            pass
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="cannot be written"), checkpoint.claim("/proc/score_jax_run", {}):
        pass


def test_reading_a_folder_without_a_run_says_so(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        checkpoint.read_config(tmp_path)
    with pytest.raises(InputError, match="has no checkpoints yet"):
        checkpoint.open_checkpoints(tmp_path, read_only=True)
    assert list(tmp_path.iterdir()) == []
