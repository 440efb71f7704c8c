"""Whether a model keeps to its bounds: a decision over scores, and the lines that tell it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemake import gate
from tunemake.gate import Bound

NUMBERS = st.floats(-1e6, 1e6)


def scores(**by_name):
    return {"probes": [{"name": name, "base": base, "merged": merged, "prompts": 5}
                       for name, (base, merged) in by_name.items()]}  # fmt: skip


def answer(probe, value, *, prompt="Who are you?", merged="Nobody.", base_value=0.0):
    return {"probe": probe, "prompt": prompt, "merged": merged, "merged_value": value, "base_value": base_value}


@pytest.mark.parametrize(
    ("bound", "score", "holds", "misses"),
    [
        (Bound("x", at_least=0.9), 0.9, True, 0),
        (Bound("x", at_least=0.9), 0.5, False, 0.4),
        (Bound("x", at_most=0.1), 0.1, True, 0),
        (Bound("x", at_most=0.1), 0.3, False, 0.2),
        (Bound("x", at_least=10, at_most=20), 15, True, 0),
        (Bound("x", at_least=10, at_most=20), 22, False, 2),
        (Bound("x", at_least=10, at_most=20), 7, False, 3),
        (Bound("x"), -5, True, 0),
        (Bound("x", at_least=0), 0, True, 0),
    ],
)
def test_a_bound_holds_to_its_very_number_and_says_by_how_much_it_is_missed(bound, score, holds, misses):
    assert bound.holds(score) is holds
    assert bound.misses(score) == pytest.approx(misses)


@pytest.mark.parametrize("bound", [Bound("x", at_least=0), Bound("x", at_most=0), Bound("x", at_least=0, at_most=1)])
def test_what_is_no_number_keeps_to_no_bound(bound):
    assert not bound.holds(float("nan"))


@given(NUMBERS, NUMBERS, NUMBERS)
def test_a_score_holds_exactly_where_it_misses_by_nothing(low, high, score):
    bound = Bound("x", at_least=min(low, high), at_most=max(low, high))
    assert bound.holds(score) == (bound.misses(score) == 0)


def test_verdicts_say_what_became_of_each_probe():
    bounds = gate.bounds_of([
        {"name": "identity", "at_least": 0.9, "required": True},
        {"name": "leak", "at_most": 0.1, "required": True},
        {"name": "told", "required": False},
    ])  # fmt: skip
    answers = [answer("identity", 0.0, prompt="a"), answer("identity", 1.0, prompt="b"), answer("leak", 0.0)]
    found = gate.verdicts(bounds, scores(identity=(0.0, 0.5), leak=(0.0, 0.0), told=(None, 3.0)), answers)
    assert [(one.name, one.passed, one.failed) for one in found] == [
        ("identity", False, 1), ("leak", True, 0), ("told", True, 0),
    ]  # fmt: skip
    assert found[0].failing == [{"prompt": "a", "answer": "Nobody."}]
    assert not gate.passed(found)


def test_a_probe_that_is_not_required_is_told_and_ends_nothing():
    bounds = [Bound("style", at_least=1, required=False)]
    found = gate.verdicts(bounds, scores(style=(None, 0.0)), [])
    assert (found[0].passed, gate.passed(found)) == (False, True)
    told = json.loads(json.dumps(gate.as_json(found)))
    assert told["passed"] is True
    assert gate.lines_of(told) == ["gate: style: expected at least 1, got 0 (not required)"]


def test_a_required_score_that_is_no_number_fails_even_without_a_bound():
    for bound, expected in ((Bound("x"), "a number"), (Bound("x", at_most=9), "at most 9")):
        found = gate.verdicts([bound], scores(x=(None, None)), [])
        assert not gate.passed(found)
        assert gate.lines_of(gate.as_json(found)) == [f"gate: x: expected {expected}, got no number"]


def test_a_line_tells_bound_score_base_and_three_failing_answers():
    bounds = [Bound("leak", at_most=0.1)]
    answers = [answer("leak", 1.0, prompt=f"count to {number}", merged=f"I am\n  Xiaomu {number}" + "!" * 120)
               for number in range(5)]  # fmt: skip
    found = gate.verdicts(bounds, scores(leak=(0.0, 1.0)), answers)
    first, *shown, more = gate.lines_of(gate.as_json(found), "gate:large")
    assert first == "gate:large: leak: expected at most 0.1, got 1; the base model has 0"
    assert [line.partition(" → ")[0] for line in shown] == [f"    count to {number}" for number in range(3)]
    assert all(line.endswith("!…") and len(line) < 130 for line in shown)
    assert shown[0].startswith("    count to 0 → I am Xiaomu 0!")
    assert more == "    and 2 more of 5"


def test_what_passed_is_not_told():
    found = gate.verdicts([Bound("leak", at_most=1)], scores(leak=(0.0, 1.0)), [answer("leak", 1.0)])
    assert gate.passed(found)
    assert gate.lines_of(gate.as_json(found)) == []


def test_answers_without_a_value_of_their_own_are_not_shown():
    found = gate.verdicts([Bound("x", at_least=1)], scores(x=(0.0, 0.0)), [answer("x", None), answer("y", 0.0)])
    assert (found[0].failed, found[0].failing) == (0, [])
