import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemake import prompts

CHATML = {
    "system": "<|im_start|>system\n{system}<|im_end|>\n",
    "instruction": "<|im_start|>user\n{input}<|im_end|>\n<|im_start|>assistant\n",
    "suffix": "<|im_end|>", "suffix_as_eos": True, "separator": "\n", "stop_words": ["<|im_end|>"], "bos": True,
}  # fmt: skip
PLAIN = {
    "system": "{system}\n", "instruction": "{round}. {input}\nA: ", "suffix": "", "suffix_as_eos": False,
    "separator": "\n", "stop_words": [], "bos": True,
}  # fmt: skip
AWKWARD = {**PLAIN, "instruction": "{'{input}'} \\n}}{{ {% x %} {round}", "suffix": "{#'\\"}

texts = st.text(max_size=20) | st.sampled_from(["{input}", "{system}", "{round}", "{{ x }}"])
conversations = st.tuples(st.none() | texts, st.lists(st.tuples(texts, texts), min_size=1, max_size=3))


def messages_of(conversation):
    system, turns = conversation
    messages = [] if system is None else [{"role": "system", "content": system}]
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


@pytest.mark.parametrize("template", [CHATML, PLAIN, AWKWARD])
@pytest.mark.parametrize("bos", [None, "<s>"])
@given(conversation=conversations)
def test_the_chat_template_gives_the_text_of_training(template, bos, conversation):
    messages = messages_of(conversation)
    made = jinja2.Template(prompts.as_chat_template(template, bos=bos is not None))
    for asked in (messages, messages[:-1]):
        rendered = made.render(messages=asked, bos_token=bos, eos_token="</s>")
        assert rendered == prompts.text_of(template, asked, bos=bos, eos="</s>")


def test_an_end_of_sequence_token_follows_each_answer_and_a_beginning_comes_again():
    messages = messages_of(("sys", [("q", "a"), ("r", "b")]))
    assert prompts.text_of(PLAIN, messages, bos="<s>", eos="</s>") == "<s>sys\n1. q\nA: a</s>\n<s>2. r\nA: b</s>\n"
    assert prompts.text_of(CHATML, messages[:2], bos="<s>", eos="</s>") == (
        "<s><|im_start|>system\nsys<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    )


def test_an_empty_system_message_is_none():
    assert prompts.text_of(PLAIN, messages_of(("", [("q", "a")]))) == prompts.text_of(
        PLAIN, messages_of((None, [("q", "a")]))
    )


def test_xtuner_form():
    assert prompts.as_xtuner(CHATML) == {
        "SYSTEM": CHATML["system"], "INSTRUCTION": CHATML["instruction"], "SEP": "\n",
        "STOP_WORDS": ["<|im_end|>"], "SUFFIX": "<|im_end|>", "SUFFIX_AS_EOS": True,
    }  # fmt: skip
    assert "SUFFIX" not in prompts.as_xtuner(PLAIN)
    assert prompts.as_xtuner({**PLAIN, "bos": False})["BOS"] is False


@pytest.mark.parametrize("template", [CHATML, PLAIN, AWKWARD, {**CHATML, "bos": False}])
def test_xtuners_form_read_back_is_the_template(template):
    assert prompts.from_xtuner(prompts.as_xtuner(template)) == template


def test_a_field_that_xtuner_does_not_fill_is_refused():
    with pytest.raises(ValueError, match="bot_name"):
        prompts.from_xtuner({"INSTRUCTION": "{bot_name}{input}"})


def test_bos_comes_first_unless_the_text_begins_with_it_or_there_is_none():
    assert prompts.bos_of(CHATML, "<|im_start|>", "") is None
    assert prompts.bos_of(CHATML, None, "") is None
    assert prompts.bos_of(CHATML, "<s>", "Qwen2TokenizerFast") is None
    assert prompts.bos_of({**CHATML, "bos": False}, "<s>", "") is None
    assert prompts.bos_of(CHATML, "<s>", "") == "<s>"
