"""What the end of a build tells: scores beside their bounds, and of a model that failed its gate this first."""

import pytest

from tunemake import gate
from tunemake.gate import Bound
from tunemake.outcome import score_table, way_on

SCORES = {"probes": [
    {"name": "identity", "base": 0.0, "merged": 0.5, "prompts": 26, "unit": "share of answers"},
    {"name": "leak", "base": 0.0, "merged": 0.03, "prompts": 60, "unit": "share of answers"},
    {"name": "retention", "base": None, "merged": 0.9, "prompts": 60, "unit": "nats a token"},
    {"name": "loss", "base": 3.5, "merged": 12.25, "prompts": 0, "unit": "nats a token"},
]}  # fmt: skip
BOUNDS = [Bound("identity", at_least=0.8), Bound("leak", at_least=0, at_most=0.1),
          Bound("retention", at_most=0.8, required=False), Bound("loss")]  # fmt: skip


@pytest.fixture
def verdict():
    return gate.as_json(gate.verdicts(BOUNDS, SCORES, []))


def test_a_table_tells_each_bound_and_what_became_of_it(verdict):
    assert score_table(SCORES, verdict).splitlines() == [
        "           base  merged  bound                       gate    prompts",
        "identity   0.00    0.50  at least 0.8                failed       26  share of answers",
        "leak       0.00    0.03  at least 0 and at most 0.1  ok           60  share of answers",
        "retention     -    0.90  at most 0.8                 missed       60  nats a token",
        "loss       3.50   12.25  -                           -             -  nats a token",
    ]


def test_scores_that_no_gate_has_judged_stand_alone():
    assert score_table(SCORES).splitlines()[:2] == [
        "           base  merged  prompts",
        "identity   0.00    0.50       26  share of answers",
    ]


def test_of_a_model_that_failed_this_is_told_first(verdict):
    first, second, third = way_on("build/default/merged", verdict).lstrip("\n").splitlines()
    assert first == "the gate failed: identity; the model is kept to look at, not to be handed on"
    assert second == "merged model: build/default/merged"
    assert third.endswith("tunemake chat build/default/merged")


@pytest.mark.parametrize("bounds", [BOUNDS[1:], None])
def test_of_one_that_passed_or_was_not_judged_only_where_it_is(bounds):
    told = None if bounds is None else gate.as_json(gate.verdicts(bounds, SCORES, []))
    assert way_on("m", told).startswith("\nmerged model: m\ntalk to it:   ")
