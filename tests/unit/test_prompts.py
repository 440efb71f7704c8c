import jinja2
from hypothesis import given
from hypothesis import strategies as st

from tunemake import prompts

CHATML = {
    "system": "<|im_start|>system\n{system}<|im_end|>\n",
    "instruction": "<|im_start|>user\n{input}<|im_end|>\n<|im_start|>assistant\n",
    "suffix": "<|im_end|>", "suffix_as_eos": True, "separator": "\n", "stop_words": ["<|im_end|>"],
}  # fmt: skip
PLAIN = {
    "system": "", "instruction": "Q: {input}\nA: ", "suffix": "", "suffix_as_eos": False, "separator": "\n",
    "stop_words": [],
}  # fmt: skip

texts = st.text(max_size=20)
conversations = st.tuples(st.none() | texts, st.lists(st.tuples(texts, texts), min_size=1, max_size=3))


def messages_of(conversation):
    system, turns = conversation
    messages = [] if system is None else [{"role": "system", "content": system}]
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


@given(conversations)
def test_the_chat_template_gives_the_text_of_training(conversation):
    messages = messages_of(conversation)
    made = jinja2.Template(prompts.as_chat_template(CHATML, starts_with_bos=False)).render(messages=messages)
    assert made == prompts.text_of(CHATML, messages)


def test_where_the_suffix_is_not_the_end_the_end_of_sequence_token_follows_the_answer():
    messages = messages_of((None, [("q", "a")]))
    template = jinja2.Template(prompts.as_chat_template(PLAIN, starts_with_bos=True))
    assert template.render(messages=messages, bos_token="<s>", eos_token="</s>") == "<s>Q: q\nA: a</s>\n"


def test_xtuner_form():
    assert prompts.as_xtuner(CHATML) == {
        "SYSTEM": CHATML["system"], "INSTRUCTION": CHATML["instruction"], "SEP": "\n",
        "STOP_WORDS": ["<|im_end|>"], "SUFFIX": "<|im_end|>", "SUFFIX_AS_EOS": True,
    }  # fmt: skip
    assert "SUFFIX" not in prompts.as_xtuner(PLAIN)


def test_bos_comes_first_unless_the_text_begins_with_it_or_there_is_none():
    assert not prompts.bos_comes_first(CHATML, "<|im_start|>")
    assert not prompts.bos_comes_first(CHATML, None)
    assert prompts.bos_comes_first(CHATML, "<s>")
