"""The stage in the graph: only where it is declared, after the gate, and sent when that has passed."""

import pytest

from tunemake import graph
from tunemake.faults import ProjectError
from tunemake.project import load_project, load_variants
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
