"""One answer while it is made: what is shown of it, how it is drawn, ended and bounded."""

import threading

import pytest

import taught
from tunemake.contracts import Answer
from tunemake.faults import InputError
from tunemake.generation import Answers
from tunemake.talking import Options, Speech, fitted, settled
from tunemake_builtins.prompts import chatml

GREEDY = Options(temperature=0, max_new_tokens=100)


@pytest.fixture(scope="module")
def model(taught_model):
    return Answers.load(taught_model, chatml, trust_remote_code=False)


def said(model, messages, options=GREEDY, stop=None):
    speech = Speech(model, messages, options, stop)
    return list(speech), speech


def asked(*questions):
    return taught.conversation(*questions)[:-1]


def of_words(model, *stop_words):
    return Answers(model.model, model.tokenizer, {**model.template, "stop_words": [*stop_words]})


@pytest.mark.parametrize(
    "questions", [("Who are you?",), ("你是谁？",), ("Who are you?", "你是谁？"), ("Sing!",), ("Unheard of",)]
)
@pytest.mark.parametrize("limit", [1, 4, 100])
def test_greedy_says_what_evaluation_says(model, questions, limit):
    pieces, speech = said(model, asked(*questions), Options(temperature=0, max_new_tokens=limit))
    assert speech.answer == next(model.of([asked(*questions)], limit))
    assert "".join(pieces) == speech.answer.text


def test_it_comes_in_pieces_of_whole_characters(model):
    pieces, _ = said(model, asked("你是谁？"))
    assert "".join(pieces) == "我是小木。🌲"
    assert all("\ufffd" not in piece for piece in pieces)


@pytest.mark.parametrize("words", [["木。"], ["是小", "木"], ["no such", "是小木"]])
def test_a_stop_word_of_several_tokens_ends_it_and_is_never_shown(model, words):
    cut = of_words(model, *words)
    pieces, speech = said(cut, asked("你是谁？"))
    assert speech.answer == next(cut.of([asked("你是谁？")], 100))
    assert speech.answer.finished
    assert "".join(pieces) == speech.answer.text
    assert not any(word[0] in "".join(pieces) for word in words if word[0] in "是木")


def test_a_stop_word_ends_the_making_too(model):
    _, speech = said(of_words(model, "la la"), asked("Sing!"), Options(temperature=0, max_length=taught.WINDOW))
    assert speech.answer == Answer("", finished=True)
    assert len(speech._ids) < taught.WINDOW / 2


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("abc", "abc"), (" abc \n", "abc"), ("a\ufffd", "a"), ("a\ufffdb", "a\ufffdb"), ("ab<|im", "ab"),
        ("ab<", "ab"), ("ab<|im_end|>cd", "ab"), ("ab <x", "ab <x"), ("ab <|", "ab"), ("abEN", "ab"), ("abE", "abE"),
    ],
)  # fmt: skip
def test_what_is_safe_to_show(text, safe):
    assert settled(text, ["<|im_end|>", "ENOUGH"] if "EN" in text else ["<|im_end|>"]) == safe


def test_what_was_shown_is_never_taken_back():
    """Byte by byte, with stop words and spaces, each safe part goes on from the one before."""
    text = " 我 <b> <|im 🌲🌲 <|im_en <|im_end|> more".encode()
    shown = ""
    for end in range(len(text) + 1):
        now = settled(text[:end].decode(errors="replace"), ["<|im_end|>"])
        assert now.startswith(shown)
        shown = now
    assert shown == "我 <b> <|im 🌲🌲 <|im_en"


def test_it_can_be_stopped_between_tokens(model):
    stop = threading.Event()
    speech = Speech(model, asked("Sing!"), Options(temperature=0, max_length=taught.WINDOW), stop)
    pieces = []
    for piece in speech:
        pieces.append(piece)
        stop.set()
    assert speech.stopped
    assert not speech.answer.finished
    assert "".join(pieces) == speech.answer.text
    assert 0 < len(speech.answer.text) < taught.WINDOW / 2


def test_who_no_longer_listens_ends_it(model):
    speech = Speech(model, asked("Sing!"), Options(temperature=0, max_length=taught.WINDOW))
    coming = iter(speech)
    next(coming)
    coming.close()
    assert "answer" not in {thread.name for thread in threading.enumerate()}
    assert len(speech._ids) < taught.WINDOW / 2


def test_a_stop_after_the_end_changes_nothing(model):
    stop = threading.Event()
    stop.set()
    pieces, speech = said(model, asked("Who are you?"), GREEDY, stop)
    assert speech.stopped
    assert len("".join(pieces)) <= 1


def test_one_seed_one_answer(model):
    def drawn(seed):
        return said(model, asked("Unheard of"), Options(temperature=5, top_p=1, max_new_tokens=40, seed=seed))[0]

    assert "".join(drawn(1)) == "".join(drawn(1))
    assert "".join(drawn(1)) != "".join(drawn(2))


def test_little_of_top_p_is_the_likeliest(model):
    drawn = Options(temperature=5, top_p=0.0, max_new_tokens=60, seed=1)
    assert said(model, asked("你是谁？"), drawn)[1].answer.text == "我是小木。🌲"


def test_a_penalty_for_repetition_ends_the_song(model):
    pieces, _ = said(model, asked("Sing!"), Options(temperature=0, max_new_tokens=100, repetition_penalty=10.0))
    assert "la la la la" not in "".join(pieces)


def test_the_oldest_turns_make_room_and_are_counted(model):
    turns = taught.conversation(*["Who are you?"] * 9)[:-1]
    messages = [{"role": "system", "content": "Be kind."}, *turns]
    kept, left_out = fitted(model, messages, Options(max_length=400))
    assert left_out > 0
    assert kept == [messages[0], *turns[2 * left_out :]]
    assert len(model.ids_of(kept)) + 100 <= 400 < len(model.ids_of([messages[0], *turns[2 * left_out - 2 :]])) + 100
    assert said(model, messages, Options(temperature=0, max_length=400))[1].left_out == left_out


def test_all_is_kept_where_there_is_room(model):
    messages = asked("Who are you?", "你是谁？")
    assert fitted(model, messages, Options()) == (messages, 0)


def test_the_answer_ends_where_the_window_does(model):
    length = len(model.ids_of(asked("Sing!")))
    _, speech = said(model, asked("Sing!"), Options(temperature=0, max_length=length + 7))
    assert speech.answer == next(model.of([asked("Sing!")], 7))


def test_a_question_that_fills_the_window_is_told(model):
    with pytest.raises(InputError, match=r"^the question: too long; expected fewer than 8 tokens .*, got 31; a larger"):
        Speech(model, asked("Who are you?"), Options(max_length=8))


def _faults(options):
    with pytest.raises(InputError) as told:
        options.check()
    return told.value.faults


def test_every_option_out_of_range_is_told():
    wrong = Options(0, -1, 1.5, -0.1, 0.0, -1)
    assert [fault.where for fault in _faults(wrong)] == [
        "max_length", "max_new_tokens", "top_p", "temperature", "repetition_penalty", "seed",
    ]  # fmt: skip
    assert str(_faults(wrong)[2]) == "top_p: out of range; expected 0 to 1, got 1.5"
    assert [fault.where for fault in _faults(Options(max_new_tokens=0, repetition_penalty=1e-300))] == [
        "max_new_tokens", "repetition_penalty",
    ]  # fmt: skip
    Options().check()


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-45, 1e-5])
def test_a_temperature_near_0_takes_the_likeliest_token(model, temperature):
    assert said(model, asked("Who are you?"), Options(temperature=temperature))[1].answer.text == "I am Tiny."


def test_what_ends_the_making_reaches_who_listens(model):
    class Broken:
        config, device = model.model.config, model.model.device

        def generate(self, **_values):
            raise RuntimeError("out of memory")

    broken = Answers(Broken(), model.tokenizer, model.template)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(Speech(broken, asked("Who are you?"), GREEDY))
