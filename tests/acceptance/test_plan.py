"""`doit why` and `doit plan`: the same decisions as the build's, told before it."""

import json

import pytest

pytestmark = pytest.mark.train


def test_what_is_up_to_date_needs_no_more_than_a_line(built):
    assert built.doit("why").out == "nothing to do\n"
    plan = built.doit("plan")
    assert plan.code == 0
    assert plan.out.count(": up to date") == 12


def test_reasons_are_told_field_by_field_with_what_it_cost_and_what_follows(built):
    built.edit("lr = 1e-3", "lr = 2e-3")
    before = built.run("tunemake", "plan", "--json")
    steps = {step["stage"]: step for step in json.loads(before.out)}
    assert steps["train"]["verdict"] == "runs"
    assert steps["train"]["reasons"] == ["train.lr: 0.001 → 0.002"]
    assert steps["train"]["seconds"] == built.record("default/train")["seconds"]
    assert (steps["adapter"]["verdict"], steps["adapter"]["after"]) == ("may run", ["train"])
    assert steps["data"]["verdict"] == "fresh"
    told = built.doit("why", "merge").out
    assert "  └─ train.lr: 0.001 → 0.002\n" in told
    assert "adapter: may run, if train comes out changed (" in told
    assert "evaluate" not in told
    assert "2 to run, 2 may have to, at most " in told
    ran = built.built().ran
    assert set(ran) <= {step for step, told in steps.items() if told["verdict"] != "fresh"}
    assert {step for step, told in steps.items() if told["verdict"] == "runs"} <= set(ran)


def test_data_that_changed_is_told_in_samples(built):
    built.edit("samples = 24", "samples = 30")
    built.built("data")
    assert "  └─ data/train.json: 22 → 27 samples\n" in built.doit("why", "train").out
    built.edit("samples = 30", "samples = 24")
    assert "made before; its link moves to it" in built.doit("plan", "data").out


def test_a_dry_run_builds_nothing_and_an_unknown_stage_is_told(built):
    built.edit("lr = 1e-3", "lr = 2e-3")
    assert "train: will run" in built.run("tunemake", "build", "--dry-run").out
    assert built.record("default/train")["parameters"]["lr"] == 1e-3
    wrong = built.run("tunemake", "why", "trian")
    assert (wrong.code, wrong.err) == (2, 'trian: no such stage; did you mean "train"?\n')
    done = built.run("tunemake", "build", "config")
    assert (done.code, done.ran) == (0, ["config"])


def test_links_that_only_move_are_foreseen_with_what_reads_them(built):
    assert built.doit("clean", "merge", "evaluate").code == 0
    steps = {step["stage"]: step["verdict"] for step in json.loads(built.run("tunemake", "plan", "--json").out)}
    assert steps["merge"] == steps["evaluate"] == "found made"
    assert steps["report"] == steps["gate"] == "fresh"
    assert " made in " not in built.built().told()
    assert built.doit("why").out == "nothing to do\n"


def test_going_back_is_foreseen_to_the_end(built):
    built.edit("lr = 1e-3", "lr = 2e-3")
    built.built()
    built.edit("lr = 2e-3", "lr = 1e-3")
    told = [step["verdict"] for step in json.loads(built.run("tunemake", "plan", "--json").out)]
    assert set(told) == {"fresh", "found made"}
    assert " made in " not in built.built().told()
