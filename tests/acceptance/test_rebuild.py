"""What is rebuilt after a change, and what is not; on a tiny model that the real XTuner really trained."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch

import tiny
from conftest import wait_for
from tunemake.engines import xtuner

pytestmark = pytest.mark.train

EVERYTHING = [
    "dataset:identity", "base", "config", "data", "tokens", "baseline", "train", "adapter", "merge", "evaluate",
    "report", "gate",
]  # fmt: skip


def test_a_second_build_does_nothing_and_imports_nothing_heavy(built):
    assert built.built().ran == []
    done = built.run("python", "-X", "importtime", "-m", "doit")
    assert done.code == 0
    loaded = {line.rpartition("|")[2].strip() for line in done.err.splitlines() if line.startswith("import time:")}
    assert "tunemake.tasks" in loaded
    assert not loaded & {"torch", "transformers", "xtuner", "datasets", "jsonschema", "numpy", "rich", "jinja2"}


def test_the_build_made_everything_and_recorded_it(built):
    record = built.record("default/train")
    assert record["parameters"]["lr"] == 1e-3
    assert "checkpoints" not in record["parameters"]
    assert record["runtime"]["checkpoints"] == {"every": 2, "keep": 2}
    assert record["facts"]["iterations"] == 4
    assert record["environment"]["xtuner"] == "0.2.0"
    assert record["seconds"] > 0
    log = [json.loads(line) for line in (built.root / "build" / "log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in log] == EVERYTHING
    assert (built.root / "build/default/train/last_checkpoint").read_text() == "iter_4.pth"
    assert (built.root / "build/default/merged/config.json").exists()


def test_a_changed_learning_rate_keeps_data_tokens_and_base(built):
    built.edit("lr = 1e-3", "lr = 2e-3")
    done = built.built()
    assert done.ran == [
        "config",
        "train",
        "adapter",
        "merge",
        "evaluate",
        "report",
    ]  # evaluate's files are as before: no gate
    assert done.why("train") == "train.lr: 0.001 → 0.002"
    assert built.built().ran == []
    # and back: the artifacts of the old setting are still there
    built.edit("lr = 2e-3", "lr = 1e-3")
    back = built.built()
    assert "made in" not in back.out
    assert "(made before)" in back.why("train")
    # a link that is gone is told so, not as something that was never made
    built.doit("clean", "merge")
    assert "merge: made before; its link moves to it\n  └─ no link shows it\n" in built.doit("plan", "merge").out
    assert built.built().why("merge") == "no link shows it (made before)"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("max_length = 200", "max_length = 150", "data.max_length: 200 → 150"),
        ("max_length = 200", "max_length = 200\npacking = true", "data.packing: false → true; project.seed: none → 7"),
        ('prompt_template = "chatml"', 'prompt_template = "vicuna"', "model.prompt_template.system"),
    ],
)
def test_what_decides_the_tokens_makes_them_anew(built, old, new, why):
    built.edit(old, new)
    done = built.doit("tokens")
    assert done.ran == ["tokens"]
    assert done.why("tokens").startswith(why)
    assert built.doit("tokens").ran == []


def test_another_tokenizer_makes_the_tokens_anew_and_other_weights_do_not(built):
    built.edit('"model_max_length": 256', '"model_max_length": 255', "models/tiny/tokenizer_config.json")
    done = built.doit("tokens")
    assert done.ran == ["base", "tokens"]
    assert done.why("tokens") == "base/model/tokenizer_config.json changed"
    tiny.write_llama(built.root / "models/other", seed=5)
    shutil.copy(built.root / "models/other/model.safetensors", built.root / "models/tiny/model.safetensors")
    assert built.doit("tokens").ran == ["base"]


def test_a_training_from_before_there_were_tokens_is_fresh(built):
    """Its record holds what the tokens are made of; they are made, and nothing is trained."""
    assert not [name for name in built.record("default/train")["inputs"] if name.startswith("tokens")]
    shutil.rmtree((built.root / "build/default/tokens").resolve())
    (built.root / "build/default/tokens").unlink()
    plan = built.run("tunemake", "plan").out
    assert "tokens: will run" in plan
    assert "train: up to date" in plan
    assert built.built().ran == ["tokens"]


def test_tokens_changed_by_hand_are_made_anew_and_nothing_else(built):
    path = built.root / "build/default/tokens/tokens.arrow"
    path.chmod(0o644)
    path.write_bytes(b"mine")
    assert built.built().ran == ["tokens"]


def test_only_evaluate_depends_on_its_prompts(built):
    built.edit('["count to three for me"]', '["count to four for me"]')
    done = built.built()
    assert done.ran == ["baseline", "evaluate", "report", "gate"]
    assert 'evaluate.probe.leak.prompts: ["count to three for me"] → [' in done.why("evaluate")


def test_what_only_decides_how_training_runs_changes_the_config_alone(built):
    built.edit("every = 2, keep = 2", "every = 3, keep = 2")
    assert built.built().ran == ["config"]


def test_another_name_of_the_project_trains_and_asks_nothing_anew(built):
    built.edit('name = "tiny"', 'name = "other"')
    assert built.built().ran == ["config", "merge", "report"]  # the merged model's record names the project


def test_the_same_model_under_another_path_retrains_nothing(built):
    shutil.copytree(built.root / "models/tiny", built.root / "models/copy")
    built.edit("models/tiny", "models/copy")
    done = built.built()
    # The adapter names its base, and evaluate holds the merged model against the adapter.
    assert done.ran == ["base", "config", "adapter", "merge", "evaluate", "report"]
    config = (built.root / "build/default/config/train.py").read_text()
    assert "build/base/copy/model" in config


def test_scores_of_a_former_model_are_not_shown_beside_a_new_one(built):
    built.edit("lr = 1e-3", "lr = 2e-3")
    done = built.built("merge")
    assert "merged model: build/default/merged" in done.out
    assert not re.search("^identity ", done.out, re.MULTILINE)
    assert re.search("^identity +0.00 ", built.built().out, re.MULTILINE)


def test_regenerated_but_equal_data_stops_the_wave(built):
    assert built.doit("forget", "dataset:identity").code == 0
    assert built.built().ran == ["dataset:identity"]


def test_a_changed_name_rebuilds_data_and_what_follows(built):
    built.edit('author = "a tester"', 'author = "somebody"')
    done = built.built()
    assert done.ran == [
        "dataset:identity", "data", "tokens", "baseline", "train", "adapter", "merge", "evaluate", "report",
    ]  # fmt: skip
    assert 'datasets.identity.parameters.author: "a tester" → "somebody"' in done.why("dataset:identity")
    assert "data/train.json changed" in done.why("train")


def test_a_base_model_edited_in_place_is_seen(built):
    built.edit('"max_position_embeddings": 256', '"max_position_embeddings": 255', "models/tiny/config.json")
    done = built.built()
    assert "models/tiny/config.json changed" in done.why("base")
    assert "train" in done.ran


@pytest.mark.parametrize("damage", ["lost", "cut", "garbage"])
def test_doits_own_notes_may_be_lost_or_damaged(built, damage):
    notes = built.root / ".doit.db.tunemake"
    notes.write_text("" if damage == "cut" else "\0garbage")
    if damage == "lost":
        notes.unlink()
    assert built.built().ran == []


def test_the_digest_cache_may_be_lost(built):
    shutil.rmtree(built.root / "build" / ".cache")
    assert built.built().ran == []


def test_an_output_changed_by_hand_is_kept_and_made_anew(built):
    config = built.root / "build/default/config/train.py"
    config.chmod(0o644)
    config.write_text("# mine\n")
    done = built.built()
    assert done.ran == ["config"]
    assert "build/default/config/train.py was changed by hand" in done.why("config")
    assert config.read_text() != "# mine\n"
    kept = list((built.root / "build" / ".edited").rglob("train.py.edited-*"))
    assert [path.read_text() for path in kept] == ["# mine\n"]
    assert str(kept[0].relative_to(built.root)) in done.told()


def test_a_deleted_output_in_the_middle_is_made_anew(built):
    (built.root / "build/default/data/train.json").unlink()
    done = built.built()
    assert done.ran == ["data"]
    assert "train.json is gone" in done.why("data")


def test_clean_removes_links_and_forget_makes_anew(built):
    assert built.doit("clean", "train").code == 0
    assert not (built.root / "build/default/train").exists()
    done = built.built("train")
    assert done.ran == ["train"]
    assert "made in" not in done.out
    assert built.doit("forget", "adapter").code == 0
    again = built.built()
    assert again.ran == ["adapter"]
    assert again.why("adapter") == "forgotten on request"
    assert built.built().ran == []


def test_forget_holds_for_the_next_build_whatever_that_is_made_from(built):
    built.edit("lr = 1e-3", "lr = 2e-3")
    built.built()
    built.edit("lr = 2e-3", "lr = 1e-3")
    assert built.doit("forget", "merge").code == 0
    done = built.built()
    assert "   merge made in " in done.out
    assert "   train made in " not in done.out


def test_forget_without_a_task_means_all(built):
    assert built.doit("forget").code == 0
    assert built.built("config").ran == ["base", "config"]


def test_doits_own_commands_show_the_graph(built):
    listed = built.doit("list", "--all", "--deps").out
    assert "build/default/data/train.json" in listed
    assert "the samples of every dataset" in listed
    info = built.doit("info", "merge").out
    assert "up-to-date" in info
    assert "build/default/merged/config.json" in info


def test_always_and_single_keep_their_meaning(built):
    assert built.built("-a", "-s", "config").ran == ["config"]
    built.edit("lr = 1e-3", "lr = 2e-3")
    assert built.built("-s", "config").ran == ["config"]


def test_two_processes(built):
    built.edit("lr = 1e-3", "lr = 2e-3")
    done = built.built("-n", "2")
    assert sorted(done.ran) == ["adapter", "config", "evaluate", "merge", "report", "train"]


def test_a_dataset_of_the_projects_own_file(built):
    built.write(
        "my_data.py",
        '''
        """Two samples of my own."""

        class MyData:
            summary = "mine"
            version = "1"
            parameters = {"type": "object", "additionalProperties": False, "properties": {}}

            def samples(self, parameters, context):
                for number in range(8):
                    question = {"role": "user", "content": f"q{number}"}
                    yield {"messages": [question, {"role": "assistant", "content": "Xiaomu"}]}
        ''',
    )
    built.edit("[project]\n", 'plugins = ["my_data.py"]\n\n[project]\n')
    built.edit("[data]", '[datasets.mine]\ngenerator = "my_data"\n\n[data]')
    assert built.built("data").ran == ["dataset:mine", "data"]
    samples = [
        json.loads(line) for line in (built.root / "build/default/datasets/mine/samples.jsonl").read_text().splitlines()
    ]
    assert len(samples) == 8
    built.edit("range(8)", "range(9)", "my_data.py")
    done = built.built("data")
    assert "my_data.py code changed" in done.why("dataset:mine")


def test_the_rendered_config_runs_by_hand(built):
    done = built.run("tunemake", "xtuner", "train", "build/default/config/train.py", "--work-dir", "by-hand")
    assert done.code == 0, done.told()
    assert (built.root / "by-hand" / "iter_4.pth").exists()
    assert losses(built.root / "by-hand") == losses(built.root / "build/default/train")


def test_the_weights_are_those_of_a_training_that_makes_its_tokens_itself(built):
    """By XTuner's own function, with packing: bit by bit."""
    built.edit("max_length = 200", "max_length = 200\npacking = true")
    built.built("train")
    values = built.record("default/config")["parameters"]
    text = xtuner.render_config({**values, "tokens_path": ""}, built.root)
    assert "type=process_hf_dataset" in text
    (built.root / "itself.py").write_text(text, "utf-8")
    done = built.run("tunemake", "xtuner", "train", "itself.py", "--work-dir", "itself")
    assert done.code == 0, done.told()
    folders = built.root / "build/default/train", built.root / "itself"
    ours, theirs = (torch.load(folder / "iter_4.pth", weights_only=False)["state_dict"] for folder in folders)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_training_and_chat_see_the_same_token_ids(built):
    """XTuner's training ids are those of the merged model's chat template, with bos where it belongs and once."""
    code = """
import json, sys
from tunemake.cures import install_cures
install_cures()
from mmengine.config import Config
from xtuner.registry import BUILDER
from transformers import AutoTokenizer
config = Config.fromfile("build/default/config/train.py")
trained = BUILDER.build(config.train_dataset)
tokenizer = AutoTokenizer.from_pretrained("build/default/merged")
samples = json.load(open("build/default/data/train.json"))
for row, sample in zip(trained, samples, strict=True):
    assert row["input_ids"] == tokenizer.apply_chat_template(sample["messages"])[: len(row["input_ids"])]
    answer = [i for i, label in zip(row["input_ids"], row["labels"]) if label >= 0]
    assert tokenizer.decode(answer) == sample["messages"][-1]["content"] + "<|im_end|>"
print("same", len(samples))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=built.root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "same 22" in done.stdout


def test_a_training_finished_but_not_yet_in_place_is_not_made_again(built):
    entry = (built.root / "build/default/train").resolve()
    entry.rename(built.root / "build/.work" / entry.name)  # as a kill between record and rename leaves it
    done = built.built()
    assert done.ran == ["train"]
    assert "train made in" not in done.out
    assert entry.is_dir()


def test_a_module_that_the_projects_own_file_imports_counts_as_its_code(built):
    built.write("words.py", "ANSWER = 'I am Xiaomu.'\n")
    built.write(
        "mine.py",
        """
        from words import ANSWER

        class Mine:
            summary = "one answer"
            version = "1"
            parameters = {"type": "object"}

            def samples(self, parameters, context):
                for number in range(4):
                    question = {"role": "user", "content": f"q{number}"}
                    yield {"messages": [question, {"role": "assistant", "content": ANSWER}]}
        """,
    )
    built.edit("[project]\n", 'plugins = ["mine.py"]\n\n[project]\n')
    built.edit("[data]", '[datasets.mine]\ngenerator = "mine"\n\n[data]')
    built.built("data")
    built.edit("Xiaomu", "another", "words.py")
    assert "words.py code changed" in built.built("data").why("dataset:mine")
    assert "I am another." in (built.root / "build/default/data/train.json").read_text()


def test_a_licence_beside_the_model_retrains_nothing(built):
    built.write("models/tiny/LICENSE", "do as you like\n")
    assert built.built().ran == ["base", "merge", "evaluate", "report"]
    assert (built.root / "build/default/merged/LICENSE").read_text() == "do as you like\n"


def test_what_another_build_shows_meanwhile_is_not_trained_on(built):
    tokens = built.record("default/train")["facts"]["tokens"]
    assert built.doit("forget", "train").code == 0
    process = built.start("doit", "train")
    wait_for(lambda: any((work / ".job.json").exists() for work in built.work("train")))
    built.edit("a tester", "somebody with a much longer name")
    built.built("data")
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 0, out
    built.edit("somebody with a much longer name", "a tester")
    built.built()
    assert built.record("default/train")["facts"]["tokens"] == tokens


def test_an_adapter_in_the_models_folder_is_left_out_and_said(built):
    built.write("models/tiny/adapter_config.json", '{"base_model_name_or_path": "somewhere/else"}')
    assert built.built().ran == []
    assert built.doit("forget", "base").code == 0
    assert "left out: adapter_config.json" in built.built().told()
    assert not list((built.root / "build/base/tiny/model").glob("adapter_*"))
