"""Three trainings of the real small model: one passes, one is told to be ruined, one is saved in time."""

import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.nightly
sys.path.append(str(Path(__file__).parents[2] / "bench"))

import verdicts  # noqa: E402 - bench/ is no package


def scores(found):
    return {probe["name"]: probe["merged"] for probe in found["evaluation"]["probes"]}


def test_the_default_project_passes(tmp_path):
    found = verdicts.build("default", tmp_path, None)
    assert (found["code"], found["gate"]["passed"]) == (0, True)


def test_the_tutorials_data_teach_the_identity_and_fail_the_gate_by_leakage(tmp_path):
    found = verdicts.build("tutorial", tmp_path, None)
    assert found["code"] == 1
    assert scores(found)["identity"] >= 0.8
    assert any(line.startswith("gate: leak: expected at most 0.1, got 0.") for line in found["told"])


def test_of_a_training_that_is_too_long_an_early_checkpoint_is_chosen_where_the_last_fails(tmp_path):
    found = verdicts.build("too_long", tmp_path, None)
    rows = found["selection"]["checkpoints"]
    chosen = next(row for row in rows if row["checkpoint"] == found["selection"]["chosen"])
    assert chosen["meets"]
    assert chosen["iteration"] < rows[-1]["iteration"]
    assert not rows[-1]["meets"]
    assert found["code"] == 0
