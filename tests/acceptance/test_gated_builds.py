"""A gate that ends the build: what it tells, what it keeps back, and what a changed bound makes anew."""

import json
import shutil

import pytest

from conftest import TinyProject

pytestmark = pytest.mark.train

FIRST = 'parameters = { words = ["Xiaomu"] }\n'  # of the probe identity, which has no bound
MINE = """
class Shout:
    summary = "length of an answer, in a unit of its own"
    version = "1"
    unit = "shouts"
    needs = ["questions"]
    parameters = {"type": "object", "properties": {"factor": {"type": "number", "default": 2}}}

    def score(self, parameters, model):
        from tunemake.contracts import Score

        parts = [len(question.prompt) * parameters["factor"] for question in model.questions]
        assert len(model.answers()) == len(parts)
        return Score(sum(parts) / len(parts), parts)
"""
PROBE = """
[[evaluate.probe]]
name = "shout"
kind = "shout"
prompts = ["a", "bb", "ccc", "dddd", "eeeee"]
at_most = 1
"""


def bounded(project: TinyProject, bound: str) -> None:
    """Give the probe identity a bound, and leave leak's."""
    text = (project.root / "project.toml").read_text()
    before, _, after = text.partition(FIRST)
    project.write("project.toml", f"{before}{FIRST}{bound}\n{after}")


def gate_of(project: TinyProject, variant: str = "default") -> dict:
    return json.loads((project.root / f"build/{variant}/gate/gate.json").read_text())


def test_a_model_that_fails_is_told_kept_and_told_again(built):
    bounded(built, "at_least = 0.9")
    failed = built.doit()
    assert (failed.code, failed.ran) == (1, ["report", "gate"])
    assert failed.why("gate") == "evaluate.probe.identity.at_least: none → 0.9"
    answer = json.loads((built.root / "build/default/evaluation/answers.json").read_text())[0]["merged"]
    assert "gate: identity: expected at least 0.9, got 0; the base model has 0\n" in failed.out
    assert f"    hello, and your name is? → {' '.join(answer.split())}\n" in failed.out
    assert "--no-gate; the model is kept, and not sent to a shared store" in failed.out
    assert "leak" not in failed.out.partition("gate: identity")[2]
    assert "Traceback" not in failed.told()
    assert gate_of(built)["passed"] is False
    assert (built.root / "build/default/merged/model.safetensors").is_file()
    assert "identity" in (built.root / "build/default/report/report.html").read_text("utf-8")

    again = built.doit()
    assert (again.code, again.ran, " made in " in again.out) == (1, ["gate"], False)
    assert again.why("gate") == "it failed before, and nothing changed"
    assert "gate: identity: expected at least 0.9, got 0" in again.out

    let = built.run("tunemake", "build", "--no-gate")
    assert (let.code, let.ran) == (0, [])
    assert "gate: identity: expected at least 0.9, got 0" in let.err
    assert "gate did not pass, and --no-gate was given" in let.err
    status = built.run("tunemake", "status")
    assert "gate: failed\n  gate: identity: expected at least 0.9, got 0" in status.out
    assert json.loads(built.run("tunemake", "status", "--json").out)["gates"]["gate"] == gate_of(built)
    (row,) = json.loads(built.run("tunemake", "compare", "--json").out)
    assert (row["passed"], row["scores"]) == (False, {"identity": 0.0, "leak": 0.0})

    built.edit("at_least = 0.9", "at_least = 0.9\nrequired = false")
    told = built.built()
    assert told.ran == ["report", "gate"]
    assert built.run("tunemake", "status").out.count("gate: passed\n") == 1
    assert built.built().ran == []


def test_a_model_just_made_is_told_with_its_bounds_and_first_that_it_failed(built):
    bounded(built, "at_least = 0.9")
    built.edit("lr = 1e-3", "lr = 2e-3")
    failed = built.doit()
    assert (failed.code, failed.ran[-1]) == (1, "gate")
    _, _, end = failed.out.partition("\nmade 6 in ")
    table, _, way = end.partition("\n\nthe gate failed: identity; ")
    assert "identity  0.00    0.00  at least 0.9  failed        1  share of answers\n" in table
    assert "leak      0.00    0.00  at most 1     ok            1  share of answers" in table
    assert way.startswith("the model is kept to look at, not to be handed on\nmerged model: build/default/merged\n")


def test_each_variant_is_built_and_judged_though_the_first_one_fails(built):
    text = (built.root / "project.toml").read_text()
    probes = text[text.index("[[evaluate.probe]]") :]
    own = {"a": "at_least = 0.9\n", "b": "at_least = 0\n"}
    tables = [f"\n[variants.{name}]\n" + probes.replace("[[evaluate", f"[[variants.{name}.evaluate", 2).replace(
        FIRST, FIRST + bound) for name, bound in own.items()]  # fmt: skip
    built.write("project.toml", text + "".join(tables))
    done = built.doit()
    assert done.code == 1
    assert "gate:a: identity: expected at least 0.9, got 0" in done.out
    assert "gate:b: " not in done.out
    assert (gate_of(built, "a")["passed"], gate_of(built, "b")["passed"]) == (False, True)
    assert (built.root / "build/b/merged/model.safetensors").is_file()
    table = built.run("tunemake", "compare").out.splitlines()
    assert [line.split()[:2] for line in table[1:]] == [["a", "failed"], ["b", "passed"]]
    again = built.doit()
    assert (again.code, " made in " in again.out) == (1, False)


def test_a_probe_of_ones_own_chooses_and_judges_and_nothing_is_sent_before_it_passes(built, tmp_path):
    built.write("my_probe.py", MINE)
    built.edit("[project]\n", 'plugins = ["./my_probe.py"]\n\n[project]\n')
    built.edit('select = "last"', 'select = "earliest"')
    store = tmp_path / "team"
    text = (built.root / "project.toml").read_text()
    built.write("project.toml", f'{text}{PROBE}\n[store]\nurl = "{store.as_uri()}"\n')
    failed = built.doit()
    assert failed.code == 1, failed.told()
    assert "train" not in failed.ran
    assert "gate: shout: expected at most 1, got 6; the base model has 6\n    a → " in failed.out
    assert failed.out.count(" → ", failed.out.index("gate: shout: expected")) == 3
    assert "\n    and 2 more of 5\n" in failed.out
    scores = json.loads((built.root / "build/default/selection/scores.json").read_text())
    assert [row["scores"]["shout"] for row in scores["checkpoints"]] == [6, 6]
    assert (scores["chosen"], scores["why"]) == ("iter_2.pth", "none meets all probes; the best by their order")
    sent = {path.name.partition("-")[0] for path in (store / "records").iterdir()}
    assert sent == {"baseline"}
    told = built.run("tunemake", "store", "send")
    assert "merge: not sent: gate has not passed\n" in told.out

    built.edit("at_most = 1\n\n[store]", "at_most = 6\n\n[store]")
    passed = built.doit()
    assert (passed.code, passed.ran) == (0, ["select", "report", "gate"]), passed.told()
    assert passed.why("select") == "evaluate.probe.shout.at_most: 1 → 6"
    sent = {path.name.partition("-")[0] for path in (store / "records").iterdir()}
    assert {"train", "select", "adapter", "merge", "evaluate", "report", "gate"} <= sent
    shutil.rmtree(store)
