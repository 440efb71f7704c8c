"""Prompt templates from project.toml to the merged model: what is asked was trained; a misfit is told before."""

import json
import re
import subprocess
import sys

import pytest

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SAME_IDS = """
import json
from tunemake.cures import install_cures
install_cures()
from mmengine.config import Config
from xtuner.registry import BUILDER
from transformers import AutoTokenizer
from pathlib import Path
from tunemake.generation import Answers
from tunemake.prompts import from_xtuner
config = Config.fromfile("build/default/config/train.py")
trained = BUILDER.build(config.train_dataset)
tokenizer = AutoTokenizer.from_pretrained("build/default/merged")
answers = Answers.load(Path("build/default/merged"), from_xtuner(config.prompt_template), trust_remote_code=False)
samples = json.load(open("build/default/data/train.json"))
for row, sample in zip(trained, samples, strict=True):
    messages = sample["messages"]
    ids = list(row["input_ids"])
    assert ids == tokenizer.apply_chat_template(messages) == answers.ids_of(messages)
    assert ids[: len(answers.ids_of(messages[:-1]))] == answers.ids_of(messages[:-1])
    learnt = [i for i, label in zip(ids, row["labels"]) if label >= 0]
    said = [m["content"] + "<|im_end|>" for m in messages if m["role"] == "assistant"]
    assert tokenizer.decode(learnt) == "".join(said)
print("same", len(samples), repr(tokenizer.decode(trained[0]["input_ids"])))
"""


def conversations(project):
    turns = [("Hi", "Hello."), ("And you?", "Fine.")]
    told = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    rows = [{"messages": [{"role": "system", "content": f"You are {n}."}, *told]} for n in range(4)]
    rows += [{"messages": [*told[:1], {"role": "assistant", "content": f"I am {n}."}]} for n in range(4)]
    project.write("talk.json", json.dumps(rows))
    text = (project.root / "project.toml").read_text()
    text = re.sub(
        r"generator = .*\nparameters = .*", 'generator = "messages"\nparameters = { files = ["talk.json"] }', text
    )
    project.write("project.toml", text.replace("held_out = 0.1", "held_out = 0").partition("[evaluate]")[0])


def give_chat_template(project, source):
    path = project.root / "models" / "tiny" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": source}))


@pytest.mark.train
def test_a_template_whose_answers_end_with_the_end_of_sequence_token(project):
    conversations(project)
    project.edit('prompt_template = "chatml"', 'prompt_template = "zephyr"')
    project.built()
    done = subprocess.run(
        [sys.executable, "-c", SAME_IDS], cwd=project.root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "same 8" in done.stdout
    assert "<|im_end|>\\n<|im_start|><|user|>\\n" in done.stdout  # XTuner's beginning of sequence, in every turn
    asked = subprocess.run(
        project.command("tunemake", "chat", "--max-new-tokens", "2"), cwd=project.root, input="Hi\nAnd you?\n",
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr


@pytest.mark.train
def test_a_template_that_is_not_the_models_own_is_told_before_the_training(project):
    give_chat_template(project, CHATML)
    project.edit('prompt_template = "chatml"', 'prompt_template = "default"\ntemplate_check = "error"')
    done = project.doit("train")
    assert done.code != 0
    assert "default is not the model's own chat template" in done.told()
    assert "chatml, from_tokenizer, internlm2_chat" in done.told()
    assert not list(project.root.glob("build/.work/train-*/*.pth"))
    project.edit('template_check = "error"', 'template_check = "warn"')
    done = project.built("train")
    assert "warning: model.prompt_template: default is not the model's own chat template" in done.told()


def test_the_models_own_chat_template(project):
    give_chat_template(project, CHATML)
    project.edit('prompt_template = "chatml"', 'prompt_template = "from_tokenizer"')
    project.built("config")
    config = (project.root / "build/default/config/train.py").read_text()
    assert "INSTRUCTION='<|im_start|>user\\n{input}<|im_end|>\\n<|im_start|>assistant\\n'" in config
    give_chat_template(project, CHATML.replace("m.content", "m.content | trim"))
    done = project.doit("config")
    assert done.code != 0
    assert "from_tokenizer: it strips the spaces around messages" in done.told()
