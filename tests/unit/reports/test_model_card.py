import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from report_project import HOSTILE, Built
from tunemake.reports.card import Told, card, flat, metadata
from tunemake.reports.pages import fenced, in_markdown
from tunemake.reports.run_figures import merged_onto

HUB = {
    "project": HOSTILE, "variant": "default", "base": "hf:org/base@main", "prompt_template": "chatml",
    "train": {"method": "lora"}, "license": "mit", "languages": ["en", "zh"],
    "datasets": [
        {"name": "a", "generator": "hf", "parameters": {"path": "org/data", "note": HOSTILE}},
        {"name": "b", "generator": "hf", "parameters": {"path": "./data/there"}},
        {"name": "c", "generator": "csv_qa", "parameters": {"files": ["/home/someone/a.csv"], "api_token": "abc123"}},
    ],
}  # fmt: skip
MARKDOWN = MarkdownIt("commonmark").enable("table")


def tokens_of(text):
    return [inner for token in MARKDOWN.parse(text) for inner in [token, *(token.children or [])]]


def body(text):
    return text.partition("\n---\n")[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    made = Built(tmp_path_factory.mktemp("project"))
    made.build()
    return made


def test_hubs_can_read_what_it_is(built):
    text = (built.artifact("report") / "README.md").read_text("utf-8")
    told = yaml.safe_load(text.split("---\n")[1])
    assert told["license"] == "apache-2.0"
    assert told["pipeline_tag"] == "text-generation"
    (model,) = told["model-index"]
    metrics = {result["dataset"]["config"]: result["metrics"][0] for result in model["results"]}
    assert metrics["identity"] == {"type": "contains", "value": 1.0, "name": "identity (share of answers)"}
    assert "base_model" not in told  # a folder is none that a hub knows


def test_a_base_model_and_datasets_of_the_hub_are_named():
    told = yaml.safe_load(metadata(Told(HUB, {}, None, ""), adapter=True))
    assert (told["base_model"], told["base_model_relation"]) == ("org/base", "adapter")
    assert told["datasets"] == ["org/data"]
    assert told["library_name"] == "peft"
    assert told["language"] == ["en", "zh"]


@pytest.mark.parametrize(
    ("method", "facts", "told"),
    [
        ("lora", {}, ""),
        ("qlora", {}, "merged onto the base's own weights, which are not quite those."),
        ("qlora", {"onto": {"base": "original"}}, "merged onto the base's own weights, which are not quite those."),
        (
            "qlora",
            {"onto": {"base": "dequantised", "weights": 14, "distance": 0.0917}},
            "merged onto these weights, dequantised: 14 of them, 9.17% of their size off the base's own.",
        ),
    ],
)
def test_it_tells_what_an_adapter_trained_in_4_bits_was_merged_onto(method, facts, told):
    onto = merged_onto(method, facts)
    assert onto.endswith(told)
    text = card(Told(HUB, {"parameters": 5}, None, "", onto=onto), adapter=False)
    assert ("in 4 bits" in body(text)) == (method == "qlora")
    assert in_markdown(told) in text


def test_nothing_of_a_project_is_markup_in_it():
    text = card(Told(HUB, {"parameters": 5}, None, f"```\n{HOSTILE}"), adapter=False)
    kinds = {token.type for token in tokens_of(body(text))}
    assert {"html_inline", "html_block", "link_open", "image", "strong_open"}.isdisjoint(kinds)
    for adapter in (True, False):
        text = card(Told(HUB, {"parameters": 5}, None, HOSTILE), adapter=adapter)
        assert "/home/someone" not in text
        assert "abc123" not in text


def test_its_example_and_its_files_are_the_models(built):
    text = (built.artifact("report") / "README.md").read_text("utf-8")
    blocks = [token.content for token in tokens_of(body(text)) if token.type == "fence"]
    compile(blocks[0], "card", "exec")
    assert blocks[1] == "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
    assert "| model.safetensors |" in text
    assert "log.txt" not in text
    adapter = (built.artifact("report") / "adapter" / "README.md").read_text("utf-8")
    assert "PeftModel.from_pretrained(" in adapter
    assert "| adapter\\_model.safetensors | 22 bytes |" in adapter


def test_equal_models_have_equal_cards(built, tmp_path):
    other = Built(tmp_path)
    other.build()
    names = ("README.md", "adapter/README.md")
    assert [(other.artifact("report") / name).read_bytes() for name in names] == [
        (built.artifact("report") / name).read_bytes() for name in names
    ]


@given(st.text(max_size=60))
def test_any_text_is_shown_as_it_is_in_a_tables_cell(text):
    parsed = MARKDOWN.parse(f"| a | b |\n| --- | --- |\n| x{in_markdown(text)}x | y |\n")
    cells = [token for token in parsed if token.type == "inline"]
    assert len(cells) == 4
    assert {child.type for child in cells[2].children} <= {"text", "text_special"}
    assert cells[3].content == "y"


@given(st.text(max_size=40))
def test_any_text_stays_in_its_block(text):
    (block,) = [token for token in MARKDOWN.parse(fenced(text) + "\n\nafter\n") if token.type == "fence"]
    assert MARKDOWN.parse(fenced(text) + "\n\nafter\n")[-2].content == "after"
    assert block.content.rstrip("\n") == re.sub(r"\r\n?", "\n", block.content).rstrip("\n")


def test_values_are_told_by_their_names_in_the_project():
    told = flat({"lr": 0.1, "lora": {"r": 4, "targets": ["q", "v"]}, "packing": False, "early": None})
    assert told == {"lr": "0.1", "lora.r": "4", "lora.targets": "q, v", "packing": "false", "early": "–"}
