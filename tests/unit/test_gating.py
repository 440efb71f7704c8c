"""Where gates stand among the stages, what waits for which of them, and how a build ends at one."""

import json

import pytest

from light_model import write_light_model
from tunemake.gating import NO_GATE, STEP, failure, judged
from tunemake.loading import load_builder
from tunemake.plan import plan
from tunemake.withholding import gate_of, withheld_by

PROJECT = """
[project]
name = "tiny"

[model]
source = "models/tiny"
prompt_template = "chatml"

[datasets.identity]
generator = "self_cognition"
parameters = { name = "Xiaomu", author = "a tester", samples = 4 }

[train]
steps = 2

[[evaluate.probe]]
name = "identity"
kind = "contains"
prompts = ["Who?"]
parameters = { words = ["Xiaomu"] }
at_least = 0.5
"""
VARIANTS = "[variants.a]\n[variants.b.train]\nlr = 1e-3\n"
FAILED = {"name": "identity", "score": 0.25, "base": None, "at_least": 0.5, "at_most": None, "required": True,
          "passed": False, "failed": 0, "prompts": 1, "failing": []}  # fmt: skip


@pytest.fixture
def build(tmp_path):
    write_light_model(tmp_path / "models/tiny")

    def builder(more=""):
        (tmp_path / "project.toml").write_text(PROJECT + more)
        return load_builder(tmp_path)

    return builder


def verdict(builder, gate, *, passed):
    folder = builder.root / builder.stages[gate].link
    folder.mkdir(parents=True)
    (folder / "gate.json").write_text(json.dumps({"passed": passed, "probes": [] if passed else [FAILED]}))


def test_gates_come_last_of_all_variants(build):
    names = list(build(VARIANTS).stages)
    assert names[-2:] == ["gate:a", "gate:b"]
    assert {"merge:b", "evaluate:b", "report:b"} <= set(names[:-2])
    assert list(build().stages)[-1] == "gate"


def test_what_needs_a_gate_stands_behind_it_in_each_variant(build):
    builder = build(f'{VARIANTS}[export]\nformats = ["gguf-f16"]\n')
    assert list(builder.stages)[-4:] == ["gate:a", "gate:b", "export:a", "export:b"]
    before: set[str] = set()
    for name, stage in builder.stages.items():
        assert {need.stage for need in stage.needs.values()} <= before, name
        before.add(name)
    assert gate_of(builder.stages, "export:b") == "gate:b"
    assert [step.stage for step in plan(builder)] == list(builder.stages)


def test_what_was_made_from_a_training_waits_for_its_gate(build):
    stages = build().stages
    waiting = withheld_by(stages, "gate")
    assert waiting == ["train", "select", "adapter", "merge", "evaluate", "report", "gate"]
    assert [name for name in stages if gate_of(stages, name) is None] == [
        "dataset:identity", "base", "config", "data", "tokens", "baseline",
    ]  # fmt: skip


def test_each_variant_waits_for_its_own(build):
    stages = build(VARIANTS).stages
    for variant in ("a", "b"):
        mine = withheld_by(stages, f"gate:{variant}")
        assert {name.partition(":")[2] for name in mine} == {variant}
        assert len(mine) == 7
        assert all(gate_of(stages, name) == f"gate:{variant}" for name in mine)
    assert gate_of(stages, "baseline") is None


def test_a_verdict_is_read_from_what_the_link_shows(build, monkeypatch, capsys):
    builder = build()
    assert failure(builder.root, "gate", builder.stages["gate"].link) == ["gate: its verdict cannot be read"]
    assert not builder.passed("gate")
    verdict(builder, "gate", passed=False)
    line = "gate: identity: expected at least 0.5, got 0.25"
    assert judged(builder, "gate") == f"{line}\n{STEP}"
    monkeypatch.setenv(NO_GATE, "1")
    assert judged(builder, "gate") is None
    assert capsys.readouterr().err == f"{line}\ngate did not pass, and --no-gate was given\n"


def test_one_that_passed_ends_nothing(build):
    builder = build()
    verdict(builder, "gate", passed=True)
    assert judged(builder, "gate") is None
    assert builder.passed("gate")
    assert not builder.is_built("gate")  # its artifact is not that of what is built now: nothing is


def test_a_variant_that_is_not_built_is_not_judged(build):
    builder = build(VARIANTS)
    verdict(builder, "gate:a", passed=False)
    assert judged(builder, "gate:a") == f"gate:a: identity: expected at least 0.5, got 0.25\n{STEP}"
