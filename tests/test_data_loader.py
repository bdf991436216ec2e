import threading

import jax
import numpy as np
import pytest

from score_jax.data import ArraySource, Loader, View, batches, digits, hold_out, in_memory, subset, unlabelled
from score_jax.data.order import permutation
from score_jax.types import InputError

N, B = 10, 4


def numbers(n=N):
    """Example i is the number i, its label i as well."""
    return ArraySource(np.arange(n, dtype=np.float32)[:, None], np.arange(n))


def take(loader, n):
    """The examples of the next n hand-outs, (n·k, B)."""
    return np.concatenate([next(loader)["label"] for _ in range(n)])


@pytest.fixture
def make():
    loaders = []

    def make(source=None, **options):
        loaders.append(Loader(source or numbers(), **{"batch_size": B, "seed": 5, **options}))
        return loaders[-1]

    yield make
    for loader in loaders:
        loader.close()


def test_each_epoch_is_a_permutation_and_batches_run_across_its_border(make):
    order = take(make(), 10).ravel().reshape(4, N)  # 10 batches of 4 = 4 epochs of 10
    np.testing.assert_array_equal(np.sort(order), np.tile(np.arange(N), (4, 1)))
    assert len({tuple(epoch) for epoch in order}) == 4


def test_an_epoch_is_the_permutation_of_its_number_and_seed(make):
    expected = np.concatenate([permutation(N, 5, epoch) for epoch in range(2)])
    np.testing.assert_array_equal(take(make(), 5).ravel(), expected)


def test_permutations_are_uniform_and_fixed_for_good():
    # 6 orders of 3 things, 6000 draws: chi-square with 5 degrees of freedom is below 25.7 with probability 0.9999.
    counts = np.unique([permutation(3, 1, i) for i in range(6000)], axis=0, return_counts=True)[1]
    assert len(counts) == 6 and ((counts - 1000) ** 2 / 1000).sum() < 25.7
    np.testing.assert_array_equal(
        permutation(10, 0, 0), [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    )  # a changed order breaks resumed runs


def test_a_batch_holds_the_same_rows_in_x_and_label_and_its_global_positions(make):
    loader = make(steps_per_batch=3)
    for i in range(2):
        batch = next(loader)
        np.testing.assert_array_equal(batch["x"][..., 0], batch["label"])
        np.testing.assert_array_equal(batch["index"], 12 * i + np.arange(12).reshape(3, B))
        assert batch["x"].shape == (3, B, 1) and batch["label"].dtype == np.int32 and batch["index"].dtype == np.uint32


@pytest.mark.parametrize("k", [1, 3, 6])
def test_the_order_does_not_depend_on_the_steps_handed_out_together(make, k):
    np.testing.assert_array_equal(take(make(steps_per_batch=k), 12 // k), take(make(), 12))


@pytest.mark.parametrize("position", [1, 2, 3, 7, 1000])
def test_a_restored_position_gives_the_batches_that_followed_it(make, position):
    whole = take(make(), position + 6)
    first = make()
    take(first, position)
    state = first.get_state()
    second = make()
    take(second, 3)  # in mid-prefetch somewhere else
    second.set_state(state)
    np.testing.assert_array_equal(take(second, 6), whole[position:])
    assert second.get_state()["step"] == position + 6


def test_a_position_survives_another_number_of_steps_and_of_processes(make):
    whole = take(make(), 12)
    loader = make(steps_per_batch=5)
    next(loader)
    state = {name: np.int64(value) for name, value in loader.get_state().items()}  # as a checkpoint may return it
    halves = [make(steps_per_batch=2, rows=rows) for rows in np.split(np.arange(B), 2)]
    for half in halves:
        half.set_state(state)
    joined = np.concatenate([take(half, 3) for half in halves], axis=1)
    np.testing.assert_array_equal(joined, whole[5:11])


def test_restoring_a_far_position_replays_nothing(make):
    gathered = []

    class Watched(ArraySource):
        def batch(self, rows, /):
            gathered.append(len(rows))
            return super().batch(rows)

    loader = make(Watched(np.zeros((7, 1), np.float32)))
    loader.set_state({**loader.get_state(), "step": 10**12})
    assert next(loader)["index"][0, 0] == (10**12 * B) % 2**32
    loader.close()
    assert len(gathered) <= 4  # this one and what was read ahead


def test_processes_have_their_rows_of_the_batches_of_one(make):
    whole, order = take(make(), 8), np.random.default_rng(0).permutation(B)
    for rows in np.split(order, 2):
        np.testing.assert_array_equal(take(make(rows=rows, steps_per_batch=2), 4), whole[:, rows])


def test_seeds_give_different_orders(make):
    assert not np.array_equal(take(make(seed=1), 5), take(make(seed=2), 5))


def test_a_batch_larger_than_the_data_spans_several_epochs(make):
    order = take(make(numbers(3), batch_size=4), 3).ravel().reshape(4, 3)
    np.testing.assert_array_equal(np.sort(order), np.tile(np.arange(3), (4, 1)))


def test_a_failed_read_is_raised_and_skips_nothing(make):
    class Flaky(ArraySource):
        broken = False

        def batch(self, rows, /):
            if Flaky.broken:
                raise InputError("photo_7.png: not a readable image")
            return super().batch(rows)

    expected, loader = take(make(), 8), make(Flaky(numbers().x, numbers().label))
    seen = [take(loader, 2)]
    Flaky.broken = True
    with pytest.raises(InputError, match="photo_7"):
        take(loader, 4)
    Flaky.broken = False
    seen.append(take(loader, 8 - loader.get_state()["step"]))
    first = np.concatenate(seen)[:2]
    np.testing.assert_array_equal(first, expected[:2])
    np.testing.assert_array_equal(seen[-1], expected[8 - len(seen[-1]) :])


def test_a_closed_loader_leaves_no_thread_and_goes_on_where_it_was(make):
    before = set(threading.enumerate())
    loader, other = make(), make()
    first = take(loader, 3)
    loader.close()
    np.testing.assert_array_equal(np.concatenate([first, take(loader, 3)]), take(other, 6))
    loader.close()
    other.close()
    started = set(threading.enumerate()) - before
    for thread in started:
        thread.join(timeout=5)
    assert not any(thread.is_alive() for thread in started)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "batch_size=0, steps_per_batch=1; expected at least 1"),
        ({"steps_per_batch": 0}, "steps_per_batch=0"),
        ({"rows": [0, 400]}, r"rows of a batch of \d+ are 0 to \d+, got \[0, 400\]"),
        ({"rows": []}, r"got \[\]"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_settings_that_make_no_batch_are_one_clear_line(make, options, message):
    with pytest.raises(InputError, match=message):
        make(**options)


def test_a_run_goes_on_with_more_or_fewer_examples_and_says_so(make, caplog):
    """As when a file that cannot be read is removed in mid-training, as the error advises."""
    loader = make(numbers(N - 1))
    loader.set_state({**make().get_state(), "step": 7})
    assert f"the data have {N - 1} examples and had {N}" in caplog.text
    assert loader.get_state() == {"step": 7, "seed": 5, "batch_size": B, "examples": N - 1}
    np.testing.assert_array_equal(take(loader, 3), take(make(numbers(N - 1)), 10)[7:])


def test_a_position_of_another_run_is_refused_with_what_differs(make):
    state = make(seed=6).get_state()
    with pytest.raises(InputError, match=r"belongs to \{'seed': 6\}, this loader has \{'seed': 5\}"):
        make().set_state(state)
    with pytest.raises(InputError, match=r"\{'batch_size': 2\}"):
        make().set_state(make(batch_size=2).get_state())


def test_one_pass_gives_every_example_once_in_order_with_the_remainder():
    parts = list(batches(numbers(), 4))
    assert [len(part["x"]) for part in parts] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([part["label"] for part in parts]), np.arange(N))
    np.testing.assert_array_equal(np.concatenate([part["index"] for part in parts]), np.arange(N))


def test_a_split_is_disjoint_complete_and_fixed():
    train, test = hold_out(numbers(100), 0.2, seed=3)
    assert (len(train), len(test)) == (80, 20)
    parts = [in_memory(part).label for part in (train, test)]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(100))
    np.testing.assert_array_equal(in_memory(hold_out(numbers(100), 20, seed=3)[1]).label, parts[1])
    assert not np.array_equal(in_memory(hold_out(numbers(100), 20, seed=4)[1]).label, parts[1])
    with pytest.raises(InputError, match="holds out 100 of 100"):
        hold_out(numbers(100), 100)


def test_a_subset_of_a_subset_picks_the_right_rows():
    inner = subset(subset(numbers(), np.array([9, 7, 5, 3])), np.array([2, 0]))
    np.testing.assert_array_equal(inner.batch(np.array([0, 1]))["label"], [5, 9])
    with pytest.raises(InputError, match="all in 0 … 9"):
        subset(numbers(), np.array([10]))


def test_an_unlabelled_source_gives_the_same_x_and_no_label():
    batch = unlabelled(numbers()).batch(np.array([3, 1]))
    assert set(batch) == {"x"} and unlabelled(numbers()).num_classes == 0
    np.testing.assert_array_equal(batch["x"], [[3], [1]])


@pytest.mark.parametrize(
    "x, label, message",
    [
        (np.zeros((0, 2), np.float32), None, "the data set is empty"),
        (np.zeros((3, 2), np.int64), None, "x has dtype int64"),
        (np.zeros((3, 2)), np.zeros(2, int), r"labels have shape \(2,\)"),
        (np.zeros((3, 2)), np.array([0, 1, -1]), "labels run from -1 to 1"),
        (np.zeros((3, 2)), np.array([0, 1, 4]), "labels run from 0 to 4; expected 0 … 3"),
    ],
)
def test_arrays_that_are_no_data_set_are_one_clear_line(x, label, message):
    with pytest.raises(InputError, match=message):
        ArraySource(x, label, num_classes=4)


def test_float64_points_are_given_out_as_float32():
    assert ArraySource(np.zeros((3, 2))).batch(np.arange(2))["x"].dtype == np.float32


def test_digits_are_scikit_learns_with_their_seventeen_levels():
    from sklearn.datasets import load_digits

    train, test, both = (in_memory(digits(name)) for name in ("train", "test", "all"))
    assert (len(train), len(test), len(both)) == (1500, 297, 1797)
    np.testing.assert_array_equal(both.x[..., 0], load_digits().images)
    np.testing.assert_array_equal(both.label, load_digits().target)
    assert both.grey_levels == train.grey_levels == 17 and both.x.max() == 16 and train.num_classes == 10
    joined = np.concatenate([train.x, test.x]).reshape(1797, -1)
    np.testing.assert_array_equal(np.unique(joined, axis=0), np.unique(both.x.reshape(1797, -1), axis=0))
    with pytest.raises(InputError, match="no split 'validation'"):
        digits("validation")


def test_importing_data_brings_no_heavy_package():
    import subprocess
    import sys

    heavy = ("tensorflow_datasets", "sklearn", "PIL", "grain")
    code = f"import score_jax.data, sys; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_loading_is_deterministic_under_several_threads(make):
    many = make(numbers(50), num_threads=4, prefetch=8)
    np.testing.assert_array_equal(take(many, 30), take(make(numbers(50)), 30))


def test_batches_go_to_a_device_unchanged(make):
    batch = next(make(steps_per_batch=2))
    np.testing.assert_array_equal(jax.device_put(batch)["label"], batch["label"])


@pytest.mark.parametrize("ending", [SystemExit(3), KeyboardInterrupt(), StopIteration(), GeneratorExit()])
def test_a_reader_that_ends_is_a_line_and_not_the_end_of_the_program(make, ending):
    """Handed on from the thread that reads, it would end the program, or the loop, without a word."""
    broken = [True]

    def batch(rows):
        if broken[0] and 7 in rows:
            raise ending
        return numbers().batch(rows)

    loader = make(View(N, (1,), 0, batch))
    with pytest.raises(InputError) as error:
        take(loader, N)  # batches, in which every example comes
    assert str(error.value) == f"the data cannot be read: what reads them ended by {ending!r}"
    broken[0], again = False, make()
    again.set_state(loader.get_state())
    np.testing.assert_array_equal(next(loader)["x"], next(again)["x"])  # nothing is skipped
