"""docs/first-project.md is so: its commands and its code, one after another, on a tiny model."""

import re
import shlex
from pathlib import Path

import pytest
from test_scaffolds import home, small  # noqa: F401 - home is a fixture

PAGE = (Path(__file__).parents[2] / "docs/first-project.md").read_text("utf-8")
BLOCKS = re.findall(r"<!-- (.+?) -->\n```\w*\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
INSTEAD = "in project.toml, instead of: "


def test_every_block_is_run():
    assert len(BLOCKS) == PAGE.count("\n```") // 2


@pytest.mark.train
def test_the_page_from_beginning_to_end(home):  # noqa: F811
    told = [follow(home, mark, text) for mark, text in BLOCKS]
    out = "\n".join(filter(None, told))
    assert "merged model: build/default/merged" in out
    why = out[out.index("dataset:identity: will run") :]
    assert 'parameters.name.en: "Xiaomu" → "Greta"' in why
    assert not re.search(r"dataset:(samples|general): (will|may)", why.partition("museum/ made")[0])
    assert "Can I bring my dog?" in out
    assert re.search(r"What is \d+ plus \d+\?", out)
    config = (home.root / "build/default/config/train.py").read_text("utf-8")
    assert "### User:\\n{input}" in config
    assert out.count("ready to build") == 2  # both checks


def follow(project, mark, text):
    """Do what a block says; give what its commands print."""
    if mark == "commands":
        return "\n".join(command(project, line) for line in text.splitlines())
    if mark.startswith("file: "):
        (project.root / mark.removeprefix("file: ")).write_text(text, "utf-8")
    elif mark.startswith(INSTEAD):
        old = mark.removeprefix(INSTEAD)
        # The tiny model has no chat template, where the page's own has SmolLM2's.
        project.edit(old.replace("smollm2", "chatml"), text.rstrip("\n"))
    else:
        assert text in (project.root / "project.toml").read_text("utf-8")
    return ""


def command(project, line):
    name, *arguments = shlex.split(line)
    if name == "cd":
        project.root = (project.root / arguments[0]).resolve()
        return ""
    begins = arguments[0] == "init" if arguments else False
    done = project.run(name, *arguments, *(["--model", "models/tiny"] if begins else []))
    assert done.code == 0, line + "\n" + done.told()
    if arguments == ["init", "greeter"]:
        project.root /= "greeter"
        small(project)
        project.root = project.root.parent
    return done.told()
