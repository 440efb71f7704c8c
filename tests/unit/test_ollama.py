"""A Modelfile's template makes the text of the project's chat template, whatever the prompt template."""

import re
from itertools import product

import pytest
from go_template import rendered

from tunemake import prompts, schema
from tunemake.chat_templates import ChatTemplate, conversation
from tunemake.ollama import go_template, modelfile, stop_words
from tunemake_builtins import prompts as own_prompts
from tunemake_builtins import xtuner_prompts

TURNS = [('Who "are" {{you}}?', "I'm \\n 42 }} {input}."), ("  And\n\nwho? ", '"""'), ("好吗？", "好"), ("4", "5")]
CONVERSATIONS = [
    conversation(TURNS), conversation(TURNS[:1]), conversation(TURNS, "Be {kind}.\n"), conversation(TURNS[1:2], ""),
    conversation([*TURNS[:2], ("and?", "")], "Be kind."), conversation([("Hello", "")]),
]  # fmt: skip
NAMES = ["chatml", "smollm2", *xtuner_prompts._forms()]
ODD = {
    "system": 'Say "{system}"\t\\ ', "instruction": "[{round}] `{input}`\r\n{{ .X }}", "suffix": '"""', "bos": True,
    "suffix_as_eos": False, "separator": "\n", "stop_words": ['"""'[:1], "a\nb"],
}  # fmt: skip


def template_of(name):
    found = getattr(own_prompts, name, None) or getattr(xtuner_prompts, name)
    return schema.with_defaults(found, schema.load_schema("prompt_template.schema.json"))


@pytest.mark.parametrize("bos", [None, "<s>"])
@pytest.mark.parametrize("template", [*map(template_of, NAMES), ODD], ids=[*NAMES, "odd"])
def test_it_renders_what_the_chat_template_renders(template, bos):
    for spaces in product((False, True), repeat=4):
        gaps = prompts.Gaps(*spaces)
        source = prompts.as_chat_template(template, bos=bos is not None, gaps=gaps)
        chat = ChatTemplate(source, {"eos_token": "</s>", "bos_token": bos or ""})
        go = go_template(template, bos=bos, eos="</s>", gaps=gaps)
        for messages in CONVERSATIONS:
            assert (bos or "") + rendered(go, messages) == chat.render(messages)


def test_without_gaps_it_is_the_text_of_training():
    for name in NAMES:
        template = template_of(name)
        go = go_template(template, bos="<s>", eos="</s>")
        for messages in CONVERSATIONS:
            assert "<s>" + rendered(go, messages) == prompts.text_of(template, messages, bos="<s>", eos="</s>"), name


def test_the_modelfile_names_model_template_stops_and_parameters():
    template = template_of("chatml") | {"stop_words": ["<|im_end|>", 'a "b"']}
    go = go_template(template, bos=None, eos="<|im_end|>")
    text = modelfile("m-Q8_0.gguf", go, stop_words(template), {"temperature": 0.7, "num_ctx": 4096}, 'Say "hi"')
    lines = text.splitlines()
    assert lines[0] == "FROM ./m-Q8_0.gguf"
    assert re.fullmatch(r'TEMPLATE """(\{\{.*\}\})"""', lines[1])[1] == go
    assert lines[2:] == [
        'SYSTEM """Say "hi""""', 'PARAMETER stop "<|im_end|>"', 'PARAMETER stop """a "b""""',
        "PARAMETER temperature 0.7", "PARAMETER num_ctx 4096",
    ]  # fmt: skip


def test_a_suffix_that_ends_answers_is_a_stop_word_where_the_template_names_none():
    assert stop_words(template_of("chatml") | {"stop_words": []}) == ["<|im_end|>"]
    assert stop_words(ODD | {"stop_words": ["x", "x"]}) == ["x"]


def test_no_template_ends_a_modelfiles_quotes():
    for template in [ODD, *map(template_of, NAMES)]:
        assert '"""' not in go_template(template, bos='"""', eos='"""')


def test_what_a_modelfile_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="a Modelfile cannot hold three quotes in a row"):
        modelfile("m.gguf", "", ['"""'], {})


def test_the_interpreter_knows_only_what_is_used():
    with pytest.raises(ValueError, match="text outside"):
        rendered("a{{ .Messages }}", [])
    with pytest.raises(ValueError, match="declared twice"):
        rendered('{{ $a = "" }}', [])
    with pytest.raises((ValueError, KeyError)):
        rendered("{{ slice .Messages }}", [])
