"""What a conversation keeps, and the sample that it makes."""

from threading import Event

import pytest

import taught
from tunemake.conversation import Conversation, add_sample, harmless
from tunemake.faults import InputError
from tunemake.generation import Answers
from tunemake.talking import Options
from tunemake_builtins.messages import Messages
from tunemake_builtins.prompts import chatml

GREEDY = Options(temperature=0, max_new_tokens=40)


@pytest.fixture(scope="module")
def model(taught_model):
    return Answers.load(taught_model, chatml, trust_remote_code=False)


def test_turns_follow_each_other(model):
    talk = Conversation()
    for question, answer in taught.SAYS.items():
        assert "".join(talk.ask(model, question, GREEDY, Event())) == answer
    assert talk.turns == list(taught.SAYS.items())
    assert talk.messages("And?") == [*taught.conversation(*taught.SAYS), {"role": "user", "content": "And?"}]
    talk.reset()
    assert talk.messages() == []


def test_the_last_answer_is_made_anew_from_what_came_before(model):
    talk = Conversation(turns=[(taught.ENGLISH, "kept"), (taught.CHINESE, "wrong")])
    assert "".join(talk.ask_again(model, GREEDY, Event())) == taught.SAYS[taught.CHINESE]
    assert talk.turns == [(taught.ENGLISH, "kept"), (taught.CHINESE, taught.SAYS[taught.CHINESE])]


def test_each_time_anew_draws_by_another_seed(model):
    drawn = Options(temperature=9, top_p=1, max_new_tokens=20, seed=3)

    def four():
        talk = Conversation()
        first = "".join(talk.ask(model, "Unheard of", drawn, Event()))
        return [first, *("".join(talk.ask_again(model, drawn, Event())) for _ in range(3))]

    answers = four()
    assert len(set(answers)) == 4
    assert four() == answers


def test_nothing_can_be_answered_anew_before_the_first_question(model):
    with pytest.raises(InputError, match=r"^/regenerate: nothing was asked yet$"):
        Conversation().ask_again(model, GREEDY, Event())


def test_a_stopped_answer_is_a_turn(model):
    talk, stop = Conversation(), Event()
    stop.set()
    list(talk.ask(model, taught.ENDLESS, GREEDY, stop))
    assert [question for question, _ in talk.turns] == [taught.ENDLESS]


def test_what_was_heard_before_one_left_is_the_answer(model):
    talk = Conversation(turns=[("a", "b")])
    for ask in (
        lambda: talk.ask(model, taught.ENDLESS, GREEDY, Event()),
        lambda: talk.ask_again(model, GREEDY, Event()),
    ):
        coming = iter(ask())
        first = next(coming)
        coming.close()
        assert talk.turns == [("a", "b"), (taught.ENDLESS, first)]


def test_the_sample_leaves_out_turns_without_an_answer_and_counts_them():
    talk = Conversation("Be kind.", [("a", "b"), ("c", ""), ("d", "e")])
    sample, empty = talk.sample()
    assert empty == 1
    assert [message["content"] for message in sample["messages"]] == ["Be kind.", "a", "b", "d", "e"]
    assert Conversation(turns=[("c", "")]).sample() == (None, 1)


class Context:
    """What a generator is given, as far as `messages` asks."""

    def __init__(self, root):
        self.root, self.seed, self.told = root, 1, []

    def bad(self, place, what, row):
        raise AssertionError((place, what, row))

    def note(self, text):
        self.told.append(text)


def test_what_is_saved_the_messages_generator_reads(tmp_path):
    talks = [Conversation("系统", [("你是谁？", "我是小木。\n🌲"), ("a", "b")]), Conversation(turns=[("x", "y")])]
    for talk in talks:
        add_sample(tmp_path / "said.jsonl", talk.sample()[0])
    parameters = {"files": ["said.jsonl"]}
    read = list(Messages().samples(parameters, Context(tmp_path)))
    assert read == [talk.sample()[0] for talk in talks]


def test_no_other_file_is_added_to(tmp_path):
    other = tmp_path / "project.toml"
    other.write_text("kept")
    with pytest.raises(InputError, match=r"project.toml: not a name for samples; expected a file that ends in .jsonl"):
        add_sample(other, {"messages": []})
    assert other.read_text() == "kept"
    with pytest.raises(InputError, match="cannot be written: No such file"):
        add_sample(tmp_path / "no" / "said.jsonl", {"messages": []})


def test_an_answer_steers_no_terminal():
    assert harmless("a\x1b[31mb\r\nc\td\x9b") == "a\\x1b[31mb\\r\nc\td\\x9b"
    assert harmless("你好 🌲\n") == "你好 🌲\n"
