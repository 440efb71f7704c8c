"""What the READMEs show is so: their code runs, their files exist, both languages show the same."""

import json
import re
import shutil
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
READMES = [REPOSITORY / "README.md", REPOSITORY / "README.zh-CN.md"]


def blocks(readme, language):
    """Give the fenced blocks of a language; prose and blocks alternate between the fences."""
    parts = re.split(r"^```(.*)\n", readme.read_text("utf-8"), flags=re.MULTILINE)
    return [text for told, text in zip(parts[1::4], parts[2::4], strict=True) if told == language]


@pytest.mark.parametrize("language", ["sh", "toml", "python", ""])
def test_both_languages_show_the_same(language):
    assert blocks(READMES[0], language) == blocks(READMES[1], language)


def test_the_project_shown_is_this_repositorys_own():
    assert blocks(READMES[0], "toml")[0] == (REPOSITORY / "project.toml").read_text("utf-8")


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(readme):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", readme.read_text("utf-8"))
    assert links
    assert all((REPOSITORY / link).exists() for link in links)


def test_the_project_of_ones_own_builds(project):
    way_in, dataset = blocks(READMES[0], "python")
    project.write("dodo.py", way_in)
    project.write("my_data.py", dataset)
    project.write("project.toml", blocks(READMES[0], "toml")[1])
    project.edit("hf:HuggingFaceTB/SmolLM2-135M-Instruct@main", "models/tiny")  # a hub is not at hand
    project.edit("times = 100", "times = 4")
    project.built()
    samples = [
        json.loads(line)
        for line in (project.root / "build/default/datasets/greetings/samples.jsonl").read_text().splitlines()
    ]
    assert [sample["messages"][1]["content"] for sample in samples] == [f"Hello to you {number}" for number in range(4)]
    assert (project.root / "build/default/merged/config.json").exists()


def test_the_faults_shown_are_told_so(project):
    shutil.copytree(REPOSITORY / "prompts", project.root / "prompts")
    project.write("project.toml", re.sub("^steps = ", "step = ", blocks(READMES[0], "toml")[0], flags=re.MULTILINE))
    shown = next(block for block in blocks(READMES[0], "") if "did you mean" in block)
    assert project.doit().told() == f"ERROR: {shown}"
