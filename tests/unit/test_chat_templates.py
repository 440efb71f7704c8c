"""What a chat template renders, told as a prompt template, or refused with the reason."""

import json

import pytest

from tunemake import prompts
from tunemake.chat_templates import ChatTemplate, conversation, derived, read_chat_template, resolved
from tunemake.faults import ModelError
from tunemake.template_fit import default_system, difference

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
EACH = "{% for m in messages %}"
CHATML = (
    EACH
    + "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    + ("{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
)
INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %}{{ m.content + eos_token }}"
    "{% else %}{{ raise_exception('no system') }}{% endif %}{% endfor %}"
)
EVERY = EACH + (
    "{% if m.role == 'user' %}{{ bos_token }}Q {{ m.content }} A {% elif m.role == 'assistant' %}"
    "{{ m.content + eos_token + '\n\n' }}{% endif %}{% endfor %}"
)
DEFAULT = "{% if messages[0].role != 'system' %}<|im_start|>system\nI am Lee<|im_end|>\n{% endif %}"
TEXTS = [conversation([("a b", "c "), (" d", "e")]), conversation([("a", "b"), ("c", "")])]


def made(source, **tokens):
    return ChatTemplate(source, TOKENS | tokens)


def text(own, template, messages):
    bos = prompts.bos_of(template, own.tokens["bos_token"], "")
    return prompts.text_of(template, messages, bos=bos, eos=own.tokens["eos_token"])


@pytest.mark.parametrize(
    ("source", "bos"),
    [
        (CHATML, "<s>"),
        (CHATML, "<|im_start|>"),
        ("{{ bos_token }}" + CHATML, "<s>"),
        (INSTRUCT, "<s>"),
        (INSTRUCT.removeprefix("{{ bos_token }}"), "<s>"),
        (EVERY, "<s>"),
    ],
)
def test_the_prompt_template_says_what_the_chat_template_says(source, bos):
    own = made(source, bos_token=bos)
    template = derived(own)
    for messages in TEXTS:
        assert text(own, template, messages) == own.render(messages, ask=messages[-1]["role"] == "user")
    assert difference(template, own) is None


def test_the_parts_are_found():
    assert derived(made(CHATML)) == {
        "system": "<|im_start|>system\n{system}<|im_end|>\n",
        "instruction": "<|im_start|>user\n{input}<|im_end|>\n<|im_start|>assistant\n",
        "suffix": "<|im_end|>", "suffix_as_eos": True, "separator": "\n", "stop_words": ["<|im_end|>", "</s>"],
        "bos": False,
    }  # fmt: skip
    found = derived(made(INSTRUCT))
    assert (found["system"], found["suffix"], found["suffix_as_eos"]) == ("", "</s>", True)


def test_a_default_system_message_is_left_out_and_known():
    own = made(DEFAULT + CHATML)
    template = derived(own)
    assert template == derived(made(CHATML))
    assert default_system(template, own) == "I am Lee"


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (CHATML.replace("m.content", "m.content.strip()"), "strips the spaces"),
        (CHATML.replace("assistant\n'", "assistant\n<think>'"), "asks with .*<think>"),
        (EACH + "{{ m.content }}{% endfor %}", "no end that could be learnt"),
        ("x" + CHATML, "begins with 'x"),
        (
            CHATML.replace("'<|im_end|>\n'", "('</s>' if loop.last or m.role == 'user' else ';')"),
            "depends on the place",
        ),
        ("{{ messages[-1].content }}", "leaves a message out"),
        (EACH, "cannot be rendered: TemplateSyntaxError"),
        ("{{ messages.clear() }}" + CHATML, "cannot be rendered: SecurityError"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}" + CHATML, "cannot be rendered: SecurityError"),
        ("{{ strftime_now('%d %b %Y') }}" + CHATML, "tells the date"),
        ("", "no chat template of its own"),
    ],
)
def test_what_a_prompt_template_cannot_say_is_refused_with_the_reason(source, why, tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**TOKENS, "chat_template": source}))
    with pytest.raises(ModelError, match=why):
        resolved({"from_tokenizer": True}, tmp_path)


def test_where_a_folder_keeps_its_chat_template(tmp_path):
    config = {"bos_token": {"content": "<s>"}, "eos_token": None, "tokenizer_class": "X"}
    several = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": several}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "</e>", "pad_token": "</p>"}))
    own = read_chat_template(tmp_path)
    assert (own.source, own.tokenizer_class) == ("a", "X")
    assert own.tokens == {"bos_token": "<s>", "pad_token": "</p>"}
    (tmp_path / "chat_template.jinja").write_text("c")
    assert read_chat_template(tmp_path).source == "c"


def test_the_block_that_marks_answers_changes_no_text():
    assert made("{% generation %}{{ 1 + 1 }}{% endgeneration %}").render([]) == "2"


def test_a_prompt_template_is_resolved_to_itself(tmp_path):
    assert resolved({"instruction": "{input}"}, tmp_path) == {"instruction": "{input}"}
