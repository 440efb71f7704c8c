"""Which checkpoint becomes the model: the earliest that keeps to all bounds, else the best by the order of probes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemake.gate import Bound
from tunemake.stages.select import BEST, EARLIEST, REQUIRED, choose

IDENTITY, LEAK, STYLE = Bound("identity", at_least=0.9), Bound("leak", at_most=0.1), Bound("style", 0.5, required=False)


def rows(*scores):
    return [{"checkpoint": f"iter_{number}.pth", "scores": dict(zip(("identity", "leak", "style"), row, strict=False))}
            for number, row in enumerate(scores, 1)]  # fmt: skip


def chosen(told, bounds=(IDENTITY, LEAK), order=()):
    row, why = choose(told, bounds, order)
    return row["checkpoint"], why


def test_the_earliest_that_meets_all_is_taken_though_a_later_one_is_better():
    told = rows((0.5, 0.0), (0.9, 0.1), (1.0, 0.0))
    assert chosen(told) == ("iter_2.pth", EARLIEST)
    assert [row["meets"] for row in told] == [False, True, True]


def test_one_that_learnt_and_then_forgot_is_left():
    assert chosen(rows((0.0, 0.0), (0.95, 0.05), (1.0, 0.4))) == ("iter_2.pth", EARLIEST)


@pytest.mark.parametrize(
    ("order", "best"),
    [
        ((), "iter_3.pth"),  # as the bounds stand: identity first
        (("identity",), "iter_3.pth"),
        (("leak",), "iter_1.pth"),
        (("leak", "identity"), "iter_1.pth"),
        (("no such probe", "leak"), "iter_1.pth"),
    ],
)
def test_where_none_meets_all_the_best_by_the_order_is_taken(order, best):
    assert chosen(rows((0.1, 0.1), (0.5, 0.4), (0.8, 0.9)), order=order) == (best, BEST)


def test_what_is_within_a_bound_is_no_better_for_being_further_within():
    # identity is met by both: the next probe decides, though the first says it more often.
    assert chosen(rows((1.0, 0.9), (0.9, 0.5))) == ("iter_2.pth", BEST)


def test_of_equal_ones_the_earlier():
    assert chosen(rows((0.5, 0.5), (0.5, 0.5))) == ("iter_1.pth", BEST)
    assert chosen(rows((0.95, 0.1), (0.95, 0.1))) == ("iter_1.pth", EARLIEST)


def test_a_score_that_is_no_number_meets_nothing_and_is_the_worst():
    told = rows((None, 0.0), (0.1, 0.9))
    assert chosen(told) == ("iter_2.pth", BEST)
    assert chosen(rows((None, 0.0), (None, 0.0))) == ("iter_1.pth", BEST)


def test_a_probe_that_the_gate_only_tells_counts_here_as_any_other():
    assert chosen(rows((1.0, 0.0, 0.2), (1.0, 0.0, 0.6)), (IDENTITY, LEAK, STYLE)) == ("iter_2.pth", EARLIEST)


SHARES = st.floats(0, 1)


@given(st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=6))
def test_none_before_the_chosen_one_meets_all_and_none_at_all_is_better(scores):
    told = rows(*scores)
    name, why = chosen(told)
    place = int(name.removeprefix("iter_").removesuffix(".pth")) - 1
    met = [IDENTITY.holds(identity) and LEAK.holds(leak) for identity, leak in scores]
    missed = [(IDENTITY.misses(identity), LEAK.misses(leak)) for identity, leak in scores]
    if any(met):
        assert (place, why) == (met.index(True), EARLIEST)
    else:
        assert (missed[place], why) == (min(missed), BEST)


def test_one_that_meets_all_that_is_required_goes_before_one_that_does_not():
    told = rows((0.2, 0.0, 0.9), (1.0, 0.0, 0.3))
    assert chosen(told, (STYLE, IDENTITY, LEAK)) == ("iter_2.pth", REQUIRED)
