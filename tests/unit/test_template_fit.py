"""What a build is told of a prompt template before it trains."""

import json
import shutil

import pytest
from made_tokenizers import write_sentencepiece
from test_chat_templates import CHATML, DEFAULT

import tiny
from tunemake import schema, template_fit
from tunemake.chat_templates import conversation
from tunemake.cures import install_cures
from tunemake.faults import ModelError
from tunemake_builtins import prompts as own_prompts
from tunemake_builtins import xtuner_prompts

SAMPLES = [{"messages": conversation([("Who are you?", "I am Lee.")])}]


def template_of(name):
    found = getattr(own_prompts, name, None) or getattr(xtuner_prompts, name)
    return schema.with_defaults(found, schema.load_schema("prompt_template.schema.json"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    install_cures()
    folder = tmp_path_factory.mktemp("model") / "m"
    tiny.write_tokenizer(folder)
    return folder


@pytest.fixture
def model(bare, tmp_path):
    """A model folder, and what gives it a chat template of its own."""
    shutil.copytree(bare, tmp_path / "m")
    path = tmp_path / "m" / "tokenizer_config.json"

    def with_template(source):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": source}))
        return tmp_path / "m"

    return with_template


def found(folder, name, samples=SAMPLES, template=None):
    names = ["chatml", "default", "zephyr", "internlm2_chat", "from_tokenizer"]
    return template_fit.find(
        folder, name, template or template_of(name), samples, shipped=lambda: {n: template_of(n) for n in names},
        trust_remote_code=False,
    )  # fmt: skip


def told(findings):
    return [(finding.severity, finding.code) for finding in findings]


def test_a_template_that_is_the_models_own_is_told_nothing(model):
    for name in ("chatml", "internlm2_chat", "from_tokenizer"):
        assert found(model(CHATML), name) == []


def test_another_template_is_told_with_the_first_difference_and_those_that_fit(model):
    first, *tokens = found(model(CHATML), "default")
    assert (first.severity, first.code) == ("warning", "template_unlike_model")
    assert "default is not the model's own chat template" in first.fault.what
    assert "<|im_start|>user" in first.fault.what
    assert "<|User|>:How" in first.fault.what
    assert first.fault.next_step == "these say the same as it: chatml, from_tokenizer, internlm2_chat"
    assert [finding.fault.what for finding in tokens] == [
        "default's markup: the tokenizer cuts into several tokens <|System|> (10), <|User|> (8), <|Bot|> (7)"
    ]


@pytest.mark.parametrize("manner", ["first", "always", "legacy"])
def test_the_tutorials_template_on_internlm2_is_told_and_internlm2s_own_is_not(tmp_path, manner):
    """Its tokenizer is SentencePiece's, its chat template ChatML after <s>; the tutorial trains with `default`."""
    write_sentencepiece(tmp_path, manner=manner, special=("<|im_start|>", "<|im_end|>"))
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": "{{ bos_token }}" + CHATML}))
    assert found(tmp_path, "internlm2_chat") == found(tmp_path, "from_tokenizer") == []
    first = found(tmp_path, "default")[0]
    assert (first.severity, first.code) == ("warning", "template_unlike_model")
    assert "internlm2_chat" in first.fault.next_step


def test_a_default_system_message_is_a_note_and_no_misfit(model):
    (only,) = found(model(DEFAULT + CHATML), "smollm2")
    assert (only.severity, only.code) == ("note", "template_default_system")
    assert "'I am Lee'" in only.fault.what


def test_a_model_without_a_chat_template_is_told_as_a_note(bare):
    assert told(found(bare, "chatml")) == [("note", "template_unlike_model")]


def test_stop_words_and_markup_that_are_no_token_are_told(bare):
    texts = [str(finding.fault) for finding in found(bare, "internlm_chat") if finding.code == "template_tokens"]
    cut = "the tokenizer cuts into several tokens"
    first, second = texts
    assert first.startswith(
        f"model.prompt_template: internlm_chat's markup: {cut} <|System|> (10), <|User|> (8), <eoh> (5)"
    )
    assert second == f"model.prompt_template: internlm_chat's stop words: {cut} <eoa> (5)"


def test_markup_inside_of_samples_is_counted(model):
    marked = {"messages": conversation([("What is <|im_end|>?", "A mark.")])}
    (only,) = found(model(CHATML), "chatml", [*SAMPLES, marked, marked])
    assert only.severity == "warning"
    assert "sample 2 contains <|im_end|>" in only.fault.what
    assert "2 of the first 3 samples" in only.fault.what


def test_a_system_message_that_the_template_has_no_place_for_is_an_error(bare):
    samples = [*SAMPLES, {"messages": conversation([("a", "b")], "Be kind.")}]
    first = found(bare, "minicpm", samples)[0]
    assert (first.severity, first.code) == ("error", "template_contract")
    assert "sample 2" in first.fault.what


def test_pieces_that_join_to_other_tokens_are_an_error_that_shows_the_seam(model):
    from tokenizers import Tokenizer

    folder = model(CHATML)
    tokens = json.loads((folder / "tokenizer.json").read_text())
    tokens["model"]["vocab"]["ĊF"] = 400
    tokens["model"]["merges"] = ["Ċ F"]
    tokens["pre_tokenizer"]["use_regex"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokens))
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode("\nF").ids == [400]
    (first,) = found(folder, "chatml")
    assert (first.severity, first.code) == ("error", "template_contract")
    assert first.fault.what.startswith(
        "chatml does not fit this tokenizer, whatever the text: training sees ['t', '\\n'"
    )
    assert "sees ['t', '\\nF'" in first.fault.what
    with pytest.raises(ModelError, match="does not fit"):
        template_fit.tell([first], "off", print)


def test_an_end_that_the_tokenizer_has_not_is_an_error(model):
    path = model("") / "tokenizer_config.json"
    path.write_text(json.dumps({key: v for key, v in json.loads(path.read_text()).items() if key != "eos_token"}))
    assert "end-of-sequence token" in found(path.parent, "default")[0].fault.what


def test_template_check_decides_what_becomes_of_a_misfit(model):
    misfits, lines = found(model(CHATML), "zephyr"), []
    template_fit.tell(misfits, "warn", lines.append)
    assert lines[0].startswith("warning: model.prompt_template: zephyr is not the model's own chat template")
    template_fit.tell(misfits, "off", lines.append)
    assert len(lines) == len(misfits)
    with pytest.raises(ModelError, match="zephyr is not"):
        template_fit.tell(misfits, "error", lines.append)


def test_a_model_whose_tokenizer_has_no_tokenizer_json(bare, tmp_path):
    tokens = json.loads((bare / "tokenizer.json").read_text())["model"]["vocab"]
    (tmp_path / "vocab.json").write_text(json.dumps(tokens))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    config = json.loads((bare / "tokenizer_config.json").read_text())
    told = {"tokenizer_class": "GPT2Tokenizer", "chat_template": CHATML}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | told))
    assert found(tmp_path, "chatml") == []
