"""The stage in the graph: only where it is declared, after the gate, and sent when that has passed."""

import json

import pytest

from tunemake import graph
from tunemake.building import Builder
from tunemake.faults import ProjectError
from tunemake.project import load_project, load_variants
from tunemake.stage import Need, Stage
from tunemake.store import Store
from tunemake.withholding import after, gate_of, withheld_by

PROJECT = """
project = {{ name = "p" }}
model = {{ source = "pypi:a==1" }}
train = {{ steps = 1 }}
[datasets.a]
generator = "csv_qa"
parameters = {{ files = ["a.csv"] }}
{more}
"""
EXPORT = '[export]\nformats = ["gguf-q8_0", "safetensors-fp16"]\n'
EVALUATE = '[[evaluate.probe]]\nname = "x"\nkind = "contains"\nprompts = ["?"]\nparameters = { words = ["w"] }\n'


def stages(tmp_path, more, template=None):
    (tmp_path / "project.toml").write_text(PROJECT.format(more=more), "utf-8")
    made = graph.stages(load_project(tmp_path), lambda *_: False, template or {"stop_words": []}, [])
    return {stage.name: stage for stage in made}


def test_it_is_there_where_it_is_declared_and_comes_last(tmp_path):
    assert "export" not in stages(tmp_path, EVALUATE)
    made = stages(tmp_path, EXPORT)
    assert graph.last_stages(list(made.values())) == ["report", "export"]
    assert set(made["export"].needs) == {"merged"}
    assert made["export"].link == "build/default/export"
    assert made["export"].outputs == ("export.json", "p-Q8_0.gguf", "Modelfile", "safetensors-fp16/config.json")
    assert not made["export"].needs["merged"].takes("tunemake.json")
    assert set(stages(tmp_path, EXPORT, {"from_tokenizer": True})["export"].needs) == {"merged", "base"}


def test_it_waits_for_the_gate_and_nothing_of_the_gate_decides_it(tmp_path):
    made = stages(tmp_path, EXPORT + EVALUATE)
    assert graph.last_stages(list(made.values())) == ["export"]
    need = made["export"].needs["gate"]
    assert need.stage == "gate"
    assert not need.takes("gate.json")


def test_it_is_withheld_by_the_gate_though_the_gate_does_not_judge_it(tmp_path):
    made = stages(tmp_path, EXPORT + EVALUATE)
    assert gate_of(made, "export") == gate_of(made, "merge") == "gate"
    assert "export" not in withheld_by(made, "gate")
    assert after(made, "gate") == ["export"]
    assert gate_of(stages(tmp_path, EXPORT), "export") is None


def test_each_variant_waits_for_its_own_gate(tmp_path):
    variants = "[variants.a.train]\nlr = 1e-3\n[variants.b.train]\nlr = 1e-4\n"
    (tmp_path / "project.toml").write_text(PROJECT.format(more=EXPORT + EVALUATE + variants), "utf-8")
    made = {
        project.variant.name: graph.stages(project, lambda *_: False, {"stop_words": []}, [])
        for project in load_variants(tmp_path)
    }
    both = {stage.name: stage for stage in graph.combined(made)}
    assert gate_of(both, "export:b") == "gate:b"
    assert after(both, "gate:a") == ["export:a"]


@pytest.mark.parametrize("formats", ['["gguf-q3_k"]', "[]", '["gguf-f16", "gguf-f16"]'])
def test_formats_that_are_none_are_told(formats, tmp_path):
    with pytest.raises(ProjectError, match=r"export\.formats"):
        stages(tmp_path, f"[export]\nformats = {formats}\n")


class Makers:
    """Makes each stage's file in place of its process. passes: what the gate says; letter: of the training."""

    def __init__(self, passes):
        self.passes, self.letter = passes, "a"

    def __call__(self, kind, job, _share, _watch):
        text = json.dumps({"passed": self.passes, "verdicts": []}) if kind == "gate" else f"{kind} {self.letter}"
        (job.work / f"{kind}.json").write_text(text, "utf-8")
        return {}


CHAIN = {
    "train": {}, "merge": {"train": Need("train")}, "gate": {"merged": Need("merge")},
    "export": {"merged": Need("merge"), "gate": Need("gate", ())},
}  # fmt: skip


def builder(tmp_path, run, bound=1):
    more = f'[store]\nurl = "file://{tmp_path}/team"\n'
    (tmp_path / "project.toml").write_text(PROJECT.format(more=more), "utf-8")
    made = [
        Stage(kind, kind, "", {"bound": bound} if kind == "gate" else {}, f"build/default/{kind}", (f"{kind}.json",),
              needs=needs)
        for kind, needs in CHAIN.items()
    ]  # fmt: skip
    return Builder([load_project(tmp_path)], made, None, Store(tmp_path), run)


def build(made):
    for name in made.stages:
        if not made.state(name).fresh:
            made.make(name, anew=False, watch=lambda _: None)


def kinds_sent(tmp_path):
    return sorted(path.name.partition("-")[0] for path in (tmp_path / "team" / "records").glob("*.json"))


def test_it_is_sent_once_the_gate_has_passed(tmp_path):
    build(builder(tmp_path, Makers(passes=True)))
    assert kinds_sent(tmp_path) == ["export", "gate", "merge", "train"]


def test_it_stays_here_where_the_gate_failed_and_goes_when_it_passes(tmp_path):
    run = Makers(passes=False)
    build(builder(tmp_path, run))  # as with --no-gate, which lets the export be made
    assert (tmp_path / "build/default/export/export.json").exists()
    assert kinds_sent(tmp_path) == []
    run.passes = True
    build(builder(tmp_path, run, bound=0))  # only the gate is stale
    assert kinds_sent(tmp_path) == ["export", "gate", "merge", "train"]
