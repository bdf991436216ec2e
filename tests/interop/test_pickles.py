import collections
import io
import pickle
import time

import pytest

from score_jax import pickles
from score_jax.types import InputError
from tests.interop.writing import Call, Name, pickled

TABLE = {"collections.OrderedDict": pickles.OrderedDict, "made.up": lambda *arguments: list(arguments), "a.b": 7}


def exploited():
    raise AssertionError("a pickle ran this")


def load(data: bytes, persistent=None):
    return pickles.unpickle(io.BytesIO(data), TABLE, persistent)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_data_is_what_python_reads(protocol):
    data = {
        "text": ["", "ä\n", "x" * 300],
        "numbers": (0, -1, 255, 70_000, 2**31, -(2**80), 1.5, float("inf"), True, False, None),
        "bytes": [] if protocol < 3 else [b"", b"\0" * 300],
        7: {"nested": [[], {}, (), ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))]},
        "shared": [shared := [1, 2], shared],
    }
    if protocol < 1:  # tuples and dicts were written differently before 1996's binary protocol; no checkpoint has them
        data = ["x", 1, 2**80, 1.5, None]
    assert load(pickle.dumps(data, protocol)) == data


def test_objects_of_our_classes_and_sets_are_made():
    assert load(b"ccollections\nOrderedDict\n)\x81X\x01\x00\x00\x00aK\x01s.") == {"a": 1}
    assert load(pickle.dumps({"a", "b"}, 4)) == {"a", "b"}


def test_python_2_text_and_ordered_pairs_are_read():
    assert load(b"U\x03key.") == "key"
    assert load(pickled(Call(Name("collections", "OrderedDict"), ([["a", 1], ["b", 2]],)))[0]) == {"a": 1, "b": 2}


def test_state_dicts_keep_their_items_and_lose_their_attributes():
    state = collections.OrderedDict(a=1, b=2)
    state._metadata = {"version": 1}
    loaded = load(pickle.dumps(state, 2))
    assert list(loaded.items()) == [("a", 1), ("b", 2)]
    assert not hasattr(loaded, "_metadata")


def test_constructors_and_persistent_ids_are_the_readers():
    data, _ = pickled([Call(Name("made", "up"), (1, "two")), Name("a", "b")])
    assert load(data) == [[1, "two"], pickles.Named("a.b", 7)]
    assert load(b"(K\x01K\x02tQ.", persistent=sum) == 3


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_names_outside_the_table_are_refused_by_name_and_not_called(protocol):
    class Exploit:
        def __reduce__(self):
            return exploited, ()

    with pytest.raises(InputError, match=r"names tests\.interop\.test_pickles\.exploited, .*nothing was executed"):
        load(pickle.dumps(["harmless", Exploit()], protocol))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"cos\nsystem\n.", "names os.system"),
        (b"cos\nsystem\n(S'true'\ntR.", "names os.system"),
        (b"(S'true'\nios\nsystem\n.", "instruction INST"),
        (b"\x80\x02cmade\nup\n)\x81.", "damaged"),  # an object of a function
        (b"\x80\x02cos\nsystem\n)\x81.", "names os.system"),
        (b"\x80\x02cmade\nup\n)}\x92.", "instruction NEWOBJ_EX"),
        (b"\x8f(K\x01K\x02\x86\x90.", "damaged"),  # a tuple in a set
        (b"](K\x01\x90.", "damaged"),
        (b"\x82\x01.", "instruction EXT1"),
        (b"cmade\nup\n}S'__defaults__'\nNsb.", "damaged"),  # a state for one of our functions
        (b"]K\x01b.", "damaged"),  # a state for a list
        (b"K\x01)R.", "damaged"),  # a call of a number
        (b"ca\nb\n)R.", "damaged"),  # a call of a constant
        (b"cmade\nup\n]R.", "damaged"),  # arguments that are no tuple
        (b"}(K\x01K\x02tK\x03s.", "damaged"),  # a tuple for a key: its hash may take exponential time
        (b"}K\x01s.", "damaged"),
        (b"}(K\x01u.", "damaged"),
        (b"K\x01K\x02.", "damaged"),  # two results
        (b".", "damaged"),
        (b"h\x05.", "damaged"),  # what was never memoized
        (b"K", "damaged"),
        (b"\xff\xff", "damaged"),
        (b"X\xff\xff\xff\x7fshort.", "damaged"),  # two gigabytes of text
        (b"\x8d" + b"\xff" * 7 + b"\x7fshort.", "damaged"),
        (b"S'\\\xd2'\n.", "damaged"),
        (b"K\x01Q.", "damaged"),
        (b"(K\x01", "damaged"),
        (b"0.", "damaged"),
    ],
)
def test_what_no_checkpoint_needs_is_one_line(data, message):
    with pytest.raises(InputError, match=message) as error:
        load(data)
    assert "\n" not in str(error.value)


def test_text_of_the_file_cannot_break_the_message():
    with pytest.raises(InputError) as error:
        load(b"\x8c\x04o\ns\x00\x8c\x07sys\x1btem\x93.")
    assert r"o\ns\x00.sys\x1btem" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_memo_index_does_not_ask_for_memory():
    assert load(b"K\x05r\xff\xff\xff\xff0j\xff\xff\xff\xff.") == 5  # Python's own machine wants 64 GB for this


def test_a_thousand_nested_doublings_take_no_time():
    start = time.perf_counter()
    load(b"K\x01" + b"q\x00h\x00\x86" * 1000 + b"0].")
    assert time.perf_counter() - start < 5  # 2¹⁰⁰⁰ numbers, were they ever counted


def test_text_handed_out_again_and_again_is_refused():
    # 40 calls with one text of 100,000: 4 MB of a file of 0.1, of which 4 · 0.1 + 1 are allowed
    again = b"cmade\nup\nh\x00\x85R0"
    data = b"X" + (100_000).to_bytes(4, "little") + b"x" * 100_000 + b"q\x000"
    assert load(data + 10 * again + b"N.") is None
    with pytest.raises(InputError, match=r"hands the same data to constructors again and again"):
        load(data + 40 * again + b"N.")


def test_pickles_share_a_budget_of_instructions():
    data, steps = pickle.dumps(7, 2), pickles.budget(7)  # PROTO, BININT1 and STOP
    for _ in range(2):
        assert pickles.unpickle(io.BytesIO(data), {}, steps=steps) == 7
    with pytest.raises(InputError, match="more instructions than any file of data"):
        pickles.unpickle(io.BytesIO(data), {}, steps=steps)


def test_the_stream_is_left_behind_the_pickle():
    stream = io.BytesIO(pickle.dumps([1, 2], 2) + b"rest")
    assert pickles.unpickle(stream, {}) == [1, 2]
    assert stream.read() == b"rest"
