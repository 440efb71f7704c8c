"""What docs/plugins.md shows is so: its files, laid into one project, build; its tests pass; its words are told."""

import json
import re
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
GUIDE = (REPOSITORY / "docs/plugins.md").read_text("utf-8")
BLOCKS = re.findall(r"<!-- (.+?) -->\n```\w*\n(.*?)^```$", GUIDE, flags=re.MULTILINE | re.DOTALL)


def block(told):
    return next(text for mark, text in BLOCKS if mark == told)


@pytest.fixture
def guided(project):
    """A project with every file of the guide, and all that it adds to project.toml."""
    top, tables = "", ""
    for mark, text in BLOCKS:
        if mark.startswith("file: "):
            (project.root / mark.removeprefix("file: ")).write_text(text, "utf-8")
        elif mark == "add to project.toml":
            above, bracket, below = f"\n{text}".partition("\n[")
            top, tables = top + above, tables + bracket + below
    files = [mark.removeprefix("file: ") for mark, _ in BLOCKS if mark.startswith("file: ")]
    own = [file for file in files if file.endswith(".py") and not file.startswith("test_")]
    top = top.replace('["my_data.py"]', json.dumps(own))  # each section adds its own
    project.edit("\n[project]", f"{top}\n[project]")
    project.edit("[data]", f"{tables}\n[data]")
    project.edit('"chatml"', '"visitor"')
    return project


def samples(project, name):
    path = project.root / f"build/default/datasets/{name}/samples.jsonl"
    return [json.loads(line)["messages"] for line in path.read_text("utf-8").splitlines()]


def test_every_block_is_run_or_held_against_a_file():
    fences = GUIDE.count("\n```") // 2
    assert fences == len(BLOCKS)
    assert block("same as tests/example_plugin/pyproject.toml") == (
        REPOSITORY / "tests/example_plugin/pyproject.toml"
    ).read_text("utf-8")


@pytest.mark.train
def test_the_datasets_of_the_guide_build(guided):
    done = guided.built("data", "config")
    greeted = [turns[-1]["content"] for turns in samples(guided, "greetings")]
    assert greeted == ["Hello Ada!", "Hello 小木!"] * 2
    assert [turns[0]["content"] for turns in samples(guided, "qa")] == ["Open on Monday?", "Where are you?"]
    assert [turn["role"] for turn in samples(guided, "polite")[0]] == ["system", "user", "assistant"]
    assert len(samples(guided, "own_words")) == 1
    assert "of 1 answers were cut" in done.told()
    assert "Visitor: {input}" in (guided.root / "build/default/config/train.py").read_text("utf-8")
    guided.write("my_data.py", (guided.root / "my_data.py").read_text("utf-8") + "# changed\n")
    again = guided.built("data")
    assert again.ran == ["dataset:greetings", "dataset:polite"]


def test_bad_rows_are_told_as_the_guide_says(guided):
    guided.edit('on_bad = "skip" # or "error", the default\n', "")
    place = r"project\.toml:\d+:\d+"
    told = re.sub(place, "", block("told where on_bad is left out"))
    assert told in re.sub(place, "", guided.doit("dataset:qa").told())
    assert not list((guided.root / "build/.store").glob("dataset-*"))


def test_the_tests_of_the_guide_pass(guided):
    done = guided.run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_data.py")
    assert (done.code, "3 passed" in done.out) == (0, True), done.told()


def test_the_guides_plugins_are_listed(guided):
    listed = guided.run("tunemake", "plugins", "--check")
    assert listed.code == 0, listed.told()
    for name, file in (("greetings", "my_data.py"), ("visitor", "my_prompts.py"), ("brief", "my_probes.py")):
        assert re.search(rf"^  {name} +{file} +\w", listed.out, flags=re.MULTILINE)
