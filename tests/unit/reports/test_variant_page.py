import re
from html.parser import HTMLParser

import pytest

from report_project import HOSTILE, PROJECT, Built
from tunemake.reports.pages import visible
from tunemake.reports.variant_page import verdict


class Read(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    made = Built(tmp_path_factory.mktemp("project"))
    made.build()
    return made


@pytest.fixture(scope="module")
def text(built):
    return (built.artifact("report") / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Read(text)


def test_what_a_model_says_is_text(page):
    assert visible(HOSTILE) in page.text
    assert {"script", "img", "iframe", "link", "object", "form", "base"}.isdisjoint(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not [value for _, value in page.attributes if value and "b.example" in value]
    assert "\u202e" not in page.text


def test_it_asks_for_nothing(text, page):
    assert not [value for name, value in page.attributes if name in {"src", "href", "action"} and value[0] != "#"]
    assert not re.findall(r"(?:url\((?!#)|@import|xmlns)", text)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes


def test_it_names_no_place_of_the_machine(text, built):
    assert str(built.root) not in text
    assert str(built.root.parent) not in text


def test_it_shows_what_was_built(page):
    for told in (
        "Passed", "The model keeps to 1 of its 2 bounds.", "kept: expected at most 0.1, got 1", "iter_40.pth: the",
        "held-out loss", "tokens a second", "learning rate", "peak memory", "self_cognition", "Latin 22",
        "22 to train on, 2 held out", "identity: prompts in the training",
        "tokens a second200", "I am a base model.", "Answers during training", "History of this project's builds",
    ):  # fmt: skip
        assert told in page.text
    drawn = page.tags.count("svg")
    assert drawn == 6  # loss, rate, speed, memory, the one probe that has scores, lengths
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_every_artifact_stands_after_those_that_it_was_made_from(page):
    part = page.text.partition("What it was made from")[2].partition("History of")[0]
    names = [
        "base",
        "dataset:identity",
        "data",
        "config",
        "tokens",
        "train",
        "baseline",
        "select",
        "adapter",
        "merge",
        "evaluate",
    ]
    at = {name: re.search(rf"^{name}[0-9a-f]{{12}}", part, re.MULTILINE).start() for name in names}
    for made, of in (("data", "dataset:identity"), ("train", "data"), ("adapter", "train"), ("merge", "adapter")):
        assert at[of] < at[made]
    assert re.search(r"^adapter[0-9a-f]{12}train, select", part, re.MULTILINE)


def test_a_report_is_made_anew_when_what_it_tells_changes_and_not_else(tmp_path):
    made = Built(tmp_path)
    made.build()
    made.ran.clear()
    made.build()
    assert made.ran == []
    (tmp_path / "project.toml").write_text(
        (tmp_path / "project.toml").read_text().replace("at_least = 0.5", "at_least = 0.9")
    )
    made.build()
    assert made.ran == ["select", "report", "gate"]


def test_a_failure_is_told_with_what_was_expected():
    probe = {"name": "leak", "expected": "at most 0.05", "score": 0.5, "base": 0.0, "failed": 30, "prompts": 60,
             "passed": False, "required": True}  # fmt: skip
    told = verdict({"passed": False, "probes": [probe]})
    assert told["state"] == "failed"
    line = "leak: expected at most 0.05, got 0.5 (the base model: 0); 30 of 60 answers are beyond it."
    assert told["lines"] == [line]
    assert verdict(None)["state"] == "none"
    assert verdict({"passed": True, "probes": [{**probe, "expected": ""}]})["lines"] == ["No probe has a bound."]


def test_a_project_without_probes_has_a_page_too(tmp_path):
    made = Built(tmp_path, text=PROJECT.partition("[[evaluate")[0])
    made.build()
    page = Read((made.artifact("report") / "report.html").read_text("utf-8"))
    assert "Not judged" in page.text
    assert "None: the project asks no probes." in (made.artifact("report") / "README.md").read_text("utf-8")
