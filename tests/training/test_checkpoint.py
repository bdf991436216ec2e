import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.training import checkpoint, create, optimizer, replicate
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
        checkpoint.save(manager, step, _state(step), config=config, position=position, window=[1, 0.1])
    manager.wait_until_finished()
    return manager


def _assert_same(a, b):
    same = lambda x, y: np.testing.assert_array_equal(_words(x), _words(y))  # noqa: E731
    jax.tree.map(same, a, b)


def _words(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x)


@pytest.mark.parametrize("seed", [1, 5])
def test_state_with_its_typed_key_position_and_sums_come_back(tmp_path, seed):
    position = b"\x00\xff grain" if seed == 1 else {"number": 3}
    manager = _save(tmp_path, seed, position=position)
    mesh = tiny.mesh(4)
    read = checkpoint.restore(manager, replicate(_state(0 if seed == 1 else 5), mesh), config=tiny.CONFIG)
    manager.close()
    _assert_same(read.state, _state(seed))
    assert read.state.key.dtype == _state(seed).key.dtype
    assert read.state.params["w"].sharding.mesh.size == 4
    assert (read.position, read.window, read.step) == (position, [1, 0.1], seed)


def test_last_and_every_nth_are_kept(tmp_path):
    with _save(tmp_path, *range(1, 11), keep_last=2, keep_every=4) as manager:
        assert sorted(manager.all_steps()) == [4, 8, 9, 10]


def test_donating_the_state_does_not_disturb_a_checkpoint_being_written(tmp_path):
    state = replicate({"w": jnp.arange(200_000.0)}, tiny.mesh())
    spoil = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    manager = checkpoint.open_checkpoints(tmp_path)
    checkpoint.save(manager, 1, state, config={})
    for _ in range(3):
        state = spoil(state)
    manager.wait_until_finished()
    read = checkpoint.restore(manager, jax.eval_shape(lambda: {"w": jnp.zeros(200_000)}))
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
    read = checkpoint.restore(manager, _state(0), config=tiny.CONFIG)
    assert read.step == 1
    _assert_same(read.state, _state(1))
    assert str(workdir / "checkpoints" / "2") in caplog.text
    checkpoint.set_aside_after(manager, 1)
    assert list(manager.all_steps()) == [1] and (workdir / "damaged" / "2").is_dir()
    checkpoint.save(manager, 2, _state(2), config=tiny.CONFIG)  # training gets there again
    manager.close()


@pytest.mark.usefixtures("abandoned_reads")
def test_only_damaged_checkpoints_are_an_error_naming_each(tmp_path):
    manager = checkpoint.open_checkpoints(_damaged(tmp_path, "one bit", 1, 2), read_only=True)
    with pytest.raises(InputError, match=r"checkpoints/2 \(its checksum is wrong\); .*checkpoints/1 \("):
        checkpoint.restore(manager, _state(0))
    manager.close()


def test_checksum_sees_any_single_change():
    state = _state()
    before = int(checkpoint.checksum(state))
    changed = state.params["w"].at[49, 39].multiply(1 + 2**-23)
    assert int(checkpoint.checksum(state.replace(params=state.params | {"w": changed}))) != before
    assert int(checkpoint.checksum(state.replace(finite=~state.finite))) != before
    assert int(checkpoint.checksum(state.replace(key=jax.random.key(2)))) != before
    swapped = state.params["w"].at[0, :2].set(state.params["w"][0, 1::-1])
    assert int(checkpoint.checksum(state.replace(params=state.params | {"w": swapped}))) != before


def test_checkpoint_of_another_network_names_the_array(tmp_path):
    manager = _save(tmp_path, 1)
    with pytest.raises(InputError, match=r"ema\.w is \(50, 40\) there and \(5, 40\) here"):
        checkpoint.restore(manager, _state(width=5))
    manager.close()


def test_checkpoint_of_another_config_names_what_differs(tmp_path):
    manager = _save(tmp_path, 1)
    other = {"network": {"width": 9}, "training": {"batch_size": 16, "steps": 80}}
    with pytest.raises(InputError, match=r"\(network\.width: 8 → 9\)"):
        checkpoint.restore(manager, _state(0), config=other, may_differ=["training.steps"])
    manager.close()


def test_step_that_is_not_there_names_those_that_are(tmp_path):
    manager = _save(tmp_path, 1, 2)
    with pytest.raises(InputError, match=r"no checkpoint of step 3; it has \[1, 2\]"):
        checkpoint.restore(manager, _state(0), step=3)
    _assert_same(checkpoint.restore(manager, _state(0), step=1).state, _state(1))
    manager.close()


def test_new_folder_is_claimed_again_by_the_same_config_only(tmp_path):
    config = {"network": {"width": 8, "layers": (1, 2)}, "training": {"steps": 10}}
    with checkpoint.claim(tmp_path / "a" / "b", config) as workdir:
        read = checkpoint.read_config(workdir)
    assert read == {"network": {"width": 8, "layers": [1, 2]}, "training": {"steps": 10}}
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
        assert _contents(workdir) == before
    with checkpoint.claim(workdir, longer, may_differ=["training.steps"]):
        pass


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
        ("config.json", "not json", "config.json cannot be read"),
        ("config.json", "[1]", "should hold the config"),
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
