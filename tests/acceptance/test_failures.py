"""A stage that fails ends in one clear error with the end of its log, exit code 1, and no artifact."""

import json
import os
import signal
from pathlib import Path

import pytest

from conftest import BIN, processes_of, wait_for
from tunemake import shelves

pytestmark = pytest.mark.train


def test_xtuner_crashing_on_a_bad_schedule(built):
    text = shelves.find("templates", "xtuner/base.py.jinja").read_text("utf-8")
    built.write("templates/xtuner/base.py.jinja", text.replace("eta_min=0.0", "eta_minimum=0.0"))
    done = built.doit()
    assert done.code == 1
    assert "eta_minimum" in done.out
    assert "train: failed: TypeError" in done.out
    assert "its log: build/.work/train-" in done.out
    assert built.record("default/train")["facts"]["iterations"] == 4
    assert "adapter" not in done.ran


def command_line(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode()


def test_a_model_file_that_goes_missing_during_the_build(built):
    built.edit("lr = 1e-3", "lr = 2e-3")
    (built.root / "models/tiny/model.safetensors").unlink()
    done = built.doit()
    assert done.code == 1
    assert "models/tiny" in done.out
    assert "no weights" in done.out
    assert "Traceback" not in done.told()


def test_no_memory(built):
    built.edit("r = 2, alpha", "r = 100_000_000, alpha")  # 12.8 GB in the first matrix
    done = built.run("bash", "-c", f"ulimit -v 12000000; exec {built.command('doit')[0]} train")
    assert done.code == 1, done.told()
    assert "train: failed: RuntimeError: " in done.out
    assert "can't allocate memory" in done.out
    assert "its log: build/.work/train-" in done.out
    assert built.record("default/train")["parameters"]["lora"]["r"] == 2


def test_the_systems_killer_of_large_processes(project):
    """It ends the largest process by signal 9 and says nothing."""
    project.edit("steps = 4", "steps = 4000")
    process = project.start("doit", "train")
    wait_for(lambda: any((work / "metrics.jsonl").exists() for work in project.work("train")))
    trainer = [pid for pid in processes_of(project.root) if "xtuner_process" in command_line(pid)]
    os.kill(trainer[-1], signal.SIGKILL)
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 1, out
    assert "train: was killed (signal 9), most often for want of memory; its log: build/.work/train-" in out
    assert not (project.root / "build/default/train").exists()


def test_a_prompt_that_was_trained_on(built):
    question = json.loads((built.root / "build/default/data/train.json").read_text())[0]["messages"][0]["content"]
    built.edit('["count to three for me"]', json.dumps([question.upper()]))
    done = built.doit()
    assert done.code == 1
    assert f"evaluate.probe leak: trained on: {question.upper()}" in done.out
    assert "Traceback" not in done.told()


@pytest.mark.parametrize("kind", ['method = "qlora"', 'precision = "bfloat16"'])
def test_what_needs_a_gpu_says_so_where_there_is_none(built, kind):
    built.edit("steps = 4", f"{kind}\nsteps = 4")
    done = built.doit("train", CUDA_VISIBLE_DEVICES="")
    assert done.code == 1
    needs = "train.method: qlora" if "qlora" in kind else "train.precision: bfloat16"
    assert f": {needs} needs a CUDA GPU, and none is here; " in done.out
    assert "Traceback" not in done.told()


def test_a_file_that_cannot_be_written_is_told_in_a_line_and_what_was_there_stays(built):
    before = (built.root / "build/default/data/train.json").read_text()
    built.edit("samples = 24", "samples = 240")
    done = built.run("bash", "-c", 'ulimit -f 8; exec "$0" data', str(BIN / "doit"))  # 8 KiB a file, as a full disk is
    assert done.code == 1
    assert "dataset:identity: " in done.told()
    assert "File too large" in done.told()
    assert "Traceback" not in done.told()
    assert (built.root / "build/default/data/train.json").read_text() == before
    built.built("data")
    assert built.record("default/data")["facts"]["train"]["samples"] > 200


def test_a_folder_that_cannot_be_made_is_told_in_a_line(project):
    project.write("build/.work", "a file where a folder must be")
    done = project.doit("data")
    assert done.code == 1
    assert (
        "dataset:identity: File exists; got " in done.told() or "dataset:identity: Not a directory; got " in done.told()
    )
    assert "Traceback" not in done.told()
    (project.root / "build/.work").unlink()
    project.built("data")
