"""Many trainings in one project: what they share is made once, and they are told side by side."""

import json
import re
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.train


def test_variants_share_what_is_the_same_and_are_compared(project):
    project.write("project.toml", (project.root / "project.toml").read_text() + '\n[matrix]\n"train.lora.r" = [2, 4]\n')
    done = project.built("-n", "2")
    assert done.ran.count("data") == 1
    assert {"train:r2", "train:r4", "merge:r2", "merge:r4"} <= set(done.ran)
    assert (project.root / "build/r2/data").resolve() == (project.root / "build/r4/data").resolve()
    assert project.record("r4/adapter")["parameters"]["lora"]["r"] == 4
    rows = json.loads(project.run("tunemake", "compare", "--json").out)
    assert [row["variant"] for row in rows] == ["r2", "r4"]
    assert rows[0]["adapter_bytes"] < rows[1]["adapter_bytes"]
    table = project.run("tunemake", "compare").out
    assert table in done.out
    assert project.built().ran == []
    assert project.built("train:r4").ran == []
    # back to one variant of the same values: nothing is trained again
    project.edit('[matrix]\n"train.lora.r" = [2, 4]\n', "")
    assert " made in " not in project.built("merge").out.replace("config made in", "")


def test_a_fault_in_a_variant_is_told_where_it_stands(project):
    text = (project.root / "project.toml").read_text()
    project.write("project.toml", text + "\n[variants.big]\ntrain.lora.rr = 4\ntrain.lr = -1\n")
    done = project.doit("list")
    lines = len(text.splitlines())
    assert f'project.toml:{lines + 3}:1: train.lora.rr: unknown key; did you mean "r"?' in done.err
    assert f"project.toml:{lines + 4}:1: train.lr: " in done.err
    project.write("project.toml", text + "\n[variants.big]\nplugins = []\n")
    assert f"project.toml:{lines + 2}:2: variants.big: not allowed; expected one of" in project.doit("list").err


def test_a_part_that_differs_is_made_for_each(project):
    text = (project.root / "project.toml").read_text()
    project.write(
        "project.toml", text + "\n[variants.few]\n[variants.many.datasets.identity.parameters]\nsamples = 30\n"
    )
    done = project.built("data")
    assert set(done.ran) == {"dataset:identity:few", "dataset:identity:many", "data:few", "data:many"}
    counts = [project.record(f"{name}/data")["facts"]["train"]["samples"] for name in ("few", "many")]
    assert counts == [22, 27]


def test_what_the_guide_appends_makes_the_variants_that_it_names(project):
    guide = (Path(__file__).parents[2] / "docs" / "rebuilding.md").read_text("utf-8")
    blocks = re.findall(r"<!-- appended to project\.toml -->\n```toml\n(.*?)```", guide, flags=re.DOTALL)
    project.write("project.toml", (project.root / "project.toml").read_text() + "\n" + "\n".join(blocks))
    listed = project.built("list", "--all").out
    for name in ("small", "large", "r2-lr0.001", "r2-lr0.002", "r4-lr0.001", "r4-lr0.002"):
        assert f"train:{name} " in listed


def test_variants_may_have_models_of_their_own(project):
    shutil.copytree(project.root / "models/tiny", project.root / "other/tiny")
    text = (project.root / "project.toml").read_text()
    tables = '[variants.a]\n[variants.b.model]\nsource = "other/tiny"\n[variants.c.train]\nlr = 2e-3\n'
    project.write("project.toml", text + "\n" + tables)
    listed = project.built("list", "--all").out
    assert "base:a " in listed
    assert "base:b " in listed
    assert "base:c " not in listed
    project.built("config")
    assert (project.root / "build/b/base").resolve() != (project.root / "build/base/tiny").resolve()
    assert "other/tiny" in (project.root / "build/b/config/train.py").read_text()
