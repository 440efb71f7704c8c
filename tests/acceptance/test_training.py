"""Kinds of training through the real XTuner, from project.toml to the merged model."""

import json
import shutil
import sys

import pytest

import tiny

pytestmark = pytest.mark.train


def metrics(project):
    lines = (project.root / "build/default/train/metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_full_fine_tuning_has_no_adapter_and_changes_every_weight(project):
    project.edit("lora = { r = 2, alpha = 4 }", 'method = "full"')
    done = project.built()
    assert done.ran == [
        "dataset:identity",
        "base",
        "config",
        "data",
        "tokens",
        "baseline",
        "train",
        "merge",
        "evaluate",
        "report",
        "gate",
    ]
    base, merged = weights(project.root / "models/tiny"), weights(project.root / "build/default/merged")
    assert base.keys() == merged.keys()
    assert all(base[name].dtype == merged[name].dtype for name in base)
    assert all(not base[name].equal(merged[name]) for name in base if "proj" in name)


def test_internlm2_with_code_of_its_own_where_that_is_trusted(project):
    """The architecture of the well-known tutorial, as the hub gives it: remote code and a fused wqkv."""
    shutil.rmtree(project.root / "models/tiny")
    tiny.write_internlm2(project.root / "models/tiny")
    refused = project.doit()
    assert refused.code == 1
    assert "its config names Python code of its own" in refused.out
    project.edit('source = "models/tiny"', 'source = "models/tiny"\ntrust_remote_code = true')
    project.built()
    merged = project.root / "build/default/merged"
    assert (merged / "modeling_internlm2.py").exists()
    before, after = weights(project.root / "models/tiny"), weights(merged)
    changed = {name for name in before if not before[name].equal(after[name])}
    assert "model.layers.1.attention.wqkv.weight" in changed
    assert not any("norm" in name or "tok_embeddings" in name for name in changed)
    scores = json.loads((project.root / "build/default/evaluation/scores.json").read_text())
    assert [(probe["name"], probe["prompts"]) for probe in scores["probes"]] == [("identity", 1), ("leak", 1)]
    assert all(probe["base"] is not None and probe["merged"] is not None for probe in scores["probes"])


def test_epochs_accumulation_packing_and_a_linear_schedule(project):
    project.edit("steps = 4\nbatch_size = 2", 'epochs = 2\nbatch_size = 2\naccumulation = 2\nschedule = "linear"')
    project.edit("max_length = 200", "max_length = 200\npacking = true")
    project.edit("warmup = 0", "warmup = 0.25")
    project.built("train")
    lines = metrics(project)
    train = json.loads((project.root / "build/default/data/train.json").read_text())
    assert all(line["padded_tokens"] <= 400 for line in lines)
    assert lines[-1]["iteration"] == lines[-1]["iterations"] < len(train)  # packed: fewer rows than samples
    rates = [line["lr"] for line in lines]
    assert rates.index(max(rates)) in range(1, len(rates) // 2 + 1)
    assert rates[0] < max(rates) > rates[-1]
    checkpoint = (project.root / "build/default/train/last_checkpoint").read_text()
    assert checkpoint == f"iter_{lines[-1]['iterations']}.pth"


def test_prompts_are_answered_during_training_and_kept(project):
    answers = 'answers = { every = 2, prompts = ["Hello {name}?", "你是谁？"], max_new_tokens = 3 }'
    project.edit("warmup = 0", f"warmup = 0\n{answers}")
    done = project.built("train")
    told = (project.root / "build/default/train/answers.jsonl").read_text("utf-8").splitlines()
    kept = [json.loads(line) for line in told]
    assert [(line["iteration"], line["prompt"]) for line in kept] == [
        (iteration, prompt) for iteration in (2, 4) for prompt in ("Hello {name}?", "你是谁？")
    ]
    assert all(f"iteration {line['iteration']}  {line['prompt']} → " in done.err for line in kept)
    quiet = metrics(project)
    project.edit(answers, "")
    project.doit("forget", "train")
    project.built("train")
    assert [line["loss"] for line in metrics(project)] == [line["loss"] for line in quiet]


def test_one_step_trains_whatever_the_warm_up(project):
    project.edit("steps = 4", "steps = 1")
    project.edit("warmup = 0", "warmup = 0.5")
    project.built("train")
    assert [line["lr"] for line in metrics(project)] == [1e-3]


def test_a_models_name_is_no_code(project):
    name = 'm"""; open("it_ran", "w"); """'
    (project.root / "models/tiny").rename(project.root / "models" / name)
    project.edit('"models/tiny"', f"'models/{name}'")
    project.built("train")
    assert not (project.root / "it_ran").exists()


def test_an_epoch_of_one_iteration_is_trained_at_the_full_rate(project):
    project.edit("steps = 4\nbatch_size = 2", "epochs = 1\nbatch_size = 32")
    project.edit("warmup = 0\n", "")
    project.built("train")
    assert [line["lr"] for line in metrics(project)] == [1e-3]


def test_a_file_of_the_projects_named_as_a_library_hides_none(project):
    project.write("datasets.py", "raise SystemExit('the wrong one')\n")
    project.write("torch.py", "raise SystemExit('the wrong one')\n")
    project.built()


def test_the_check_beside_a_training_leaves_torch_to_the_training(built):
    code = """
import json, sys
from pathlib import Path
from tunemake.loading import load_builder
from tunemake.stages import Job, train
builder = load_builder(Path.cwd())
stage, state = builder.stages["train"], builder.state("train")
Path("work").mkdir()
train._check(Job(builder.root, Path("work"), stage.parameters, stage.runtime, state.taken.inputs))
print(json.dumps([name in sys.modules for name in ("transformers", "torch")]))
"""
    done = built.run(sys.executable, "-c", code)
    assert done.code == 0, done.told()
    assert json.loads(done.out.splitlines()[-1]) == [True, False]
