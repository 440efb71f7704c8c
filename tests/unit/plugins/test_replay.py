from pathlib import Path

import pytest
from checked import checked
from jsonschema import Draft202012Validator

from tunemake.contracts import Answer, Context, Generator, GeneratorError, ReadsFiles
from tunemake_builtins.replay import LANGUAGES, Replay, shipped


class Echo:
    """A base model that answers with the prompt, and to some prompts with nothing."""

    def __init__(self):
        self.asked = []

    def answer(self, conversations, max_new_tokens):
        self.asked.append(max_new_tokens)
        for (message,) in conversations:
            text = message["content"]
            yield (
                Answer({"silence": "", "space": " \n"}[text], finished=True)
                if text in {"silence", "space"}
                else Answer(text.upper(), finished="…" not in text)
            )


def made(parameters, root=Path(), seed=1, base=None):
    Draft202012Validator.check_schema(Replay.parameters)
    assert Draft202012Validator(Replay.parameters).is_valid(parameters)
    told = []
    context = Context(root, seed, base or Echo(), lambda done, total: told.append((done, total)))
    samples = checked(Replay().samples(parameters, context))
    assert told[-1] == (parameters["samples"], parameters["samples"])
    return samples


def test_shipped_prompts_are_many_and_the_languages_have_equal_shares():
    samples = made({"samples": 160})
    asked = [sample["messages"][0]["content"] for sample in samples]
    assert len(set(asked)) == 160
    assert sum(any(ord(letter) > 0x4E00 for letter in text) for text in asked) == 80
    english = made({"samples": 100, "languages": ["en"]})
    assert all(sample["messages"][0]["content"].isascii() for sample in english)


def test_one_language_goes_on_where_the_other_has_no_more_prompts():
    there = {language: len(shipped(language)) for language in LANGUAGES}
    samples = made({"samples": sum(there.values())})
    assert sum(sample["messages"][0]["content"].isascii() for sample in samples) == there["en"]


def test_the_seed_decides():
    assert made({"samples": 20}) == made({"samples": 20})
    assert made({"samples": 20}) != made({"samples": 20}, seed=2)


def test_prompts_of_a_file_or_a_list_and_the_length_that_is_asked_for(tmp_path):
    (tmp_path / "p.txt").write_text("one\n\ntwo\none\n", "utf-8")
    base = Echo()
    samples = made({"samples": 2, "prompts": "p.txt", "max_new_tokens": 7}, tmp_path, base=base)
    assert sorted(sample["messages"][1]["content"] for sample in samples) == ["ONE", "TWO"]
    assert base.asked == [7]
    assert Replay().inputs({"samples": 2, "prompts": "p.txt"}) == [Path("p.txt")]
    assert Replay().inputs({"samples": 2, "prompts": ["a"]}) == []
    assert len(made({"samples": 1, "prompts": ["a"]})) == 1


def test_a_prompt_without_a_usable_answer_gives_no_sample_and_is_counted():
    told = []
    context = Context(Path(), 1, Echo(), say=told.append)
    prompts = ["silence", "space", "not even one sentence…", "b"]
    assert len(list(Replay().samples({"samples": 4, "prompts": prompts}, context))) == 1
    assert told == [
        "replay: 3 prompts left out, since the base model's answers hold no whole sentence",
        "replay: 1 samples instead of 4: there are no more prompts",
    ]


def test_the_next_prompt_serves_instead():
    samples = made({"samples": 1, "prompts": ["silence", "b"]})
    assert samples[0]["messages"][1]["content"] == "B"


@pytest.mark.parametrize(
    ("cut", "kept"),
    [
        ("One. Two! Thr…", "ONE. TWO!"),
        ("One.\n\nTwo…", "ONE."),
        ("It is 3.5 m. An…", "IT IS 3.5 M."),
        ("你好！我是…", "你好！"),
        ("1. One\n2. Tw…", None),
        ("no end…", None),
    ],
)
def test_an_answer_that_was_cut_ends_after_its_last_whole_sentence(cut, kept):
    context = Context(Path(), 1, Echo())
    samples = list(Replay().samples({"samples": 1, "prompts": [cut]}, context))
    assert [sample["messages"][1]["content"] for sample in samples] == ([kept] if kept else [])


def test_few_sentences():
    samples = made({"samples": 2, "prompts": ["One. Two! Three", "你好。我是谁？"], "sentences": 1})
    assert sorted(sample["messages"][1]["content"] for sample in samples) == ["ONE.", "你好。"]
    (sample,) = made({"samples": 1, "prompts": ["One. Two! Three"], "sentences": 2})
    assert sample["messages"][1]["content"] == "ONE. TWO!"
    (sample,) = made({"samples": 1, "prompts": ["One. Two! Three"], "sentences": 3})
    assert sample["messages"][1]["content"] == "ONE. TWO! THREE"


def test_more_samples_than_prompts_is_an_error():
    with pytest.raises(GeneratorError, match="samples: more than there are prompts; expected at most 2, got 3"):
        list(Replay().samples({"samples": 3, "prompts": ["a", "b"]}, Context(Path(), 1, Echo())))


def test_a_file_of_prompts_in_utf8_with_and_without_a_mark_and_in_nothing_else(tmp_path):
    (tmp_path / "p.txt").write_text("one\n", "utf-8-sig")
    (sample,) = made({"samples": 1, "prompts": "p.txt"}, tmp_path)
    assert sample["messages"][0]["content"] == "one"
    (tmp_path / "p.txt").write_bytes("a 问".encode("gb18030"))
    with pytest.raises(GeneratorError, match=r"p\.txt: not UTF-8 at byte 3 of the file; save it as UTF-8"):
        made({"samples": 1, "prompts": "p.txt"}, tmp_path)
    with pytest.raises(GeneratorError, match=r"\.: cannot be read: Is a directory"):
        made({"samples": 1, "prompts": "."}, tmp_path)


def test_it_keeps_its_contract():
    assert isinstance(Replay(), Generator)
    assert isinstance(Replay(), ReadsFiles)
    assert Replay.needs == ("base",)
