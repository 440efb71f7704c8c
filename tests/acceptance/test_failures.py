"""A stage that fails ends in one clear error with the end of its log, exit code 1, and no artifact."""

import json

import pytest

from tunemake import shelves

pytestmark = pytest.mark.train


def test_xtuner_crashing_on_a_bad_schedule(built):
    text = shelves.find("templates", "xtuner/config.py.jinja").read_text("utf-8")
    built.write("templates/xtuner/config.py.jinja", text.replace("eta_min=0.0", "eta_minimum=0.0"))
    done = built.doit()
    assert done.code == 1
    assert "eta_minimum" in done.out
    assert "train: failed: TypeError" in done.out
    assert "its log: build/.work/train-" in done.out
    assert built.record("default/train")["facts"]["iterations"] == 4
    assert "adapter" not in done.ran


def test_a_model_file_that_goes_missing_during_the_build(built):
    built.edit("lr = 1e-3", "lr = 2e-3")
    (built.root / "models/tiny/model.safetensors").unlink()
    done = built.doit()
    assert done.code == 1
    assert "models/tiny" in done.out
    assert "no weights" in done.out
    assert "Traceback" not in done.told()


def test_no_memory(built):
    built.edit("lr = 1e-3", "lr = 2e-3")
    done = built.run("bash", "-c", f"ulimit -v 1500000; exec {built.command('doit')[0]} train")
    assert done.code == 1, done.told()
    assert "train: " in done.out
    assert "its log: build/.work/train-" in done.out
    assert not (built.root / "build/default/train").resolve().name.startswith(".work")
    assert built.record("default/train")["parameters"]["lr"] == 1e-3


def test_a_prompt_that_was_trained_on(built):
    question = json.loads((built.root / "build/default/data/train.json").read_text())[0]["messages"][0]["content"]
    built.edit('["count to three for me"]', json.dumps([question.upper()]))
    done = built.doit()
    assert done.code == 1
    assert f"evaluate.unrelated: trained on: {question.upper()}" in done.out
    assert "Traceback" not in done.told()
