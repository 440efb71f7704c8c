import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import Read, fault

from tunemake_builtins.alpaca import Alpaca
from tunemake_builtins.sharegpt import ShareGPT


def read(generator, tmp_path, rows, name="a.json", **more):
    (tmp_path / name).write_text(json.dumps(rows), "utf-8")
    return Read(generator, tmp_path, {"files": name, **more})


def ask(instruction, output, **more):
    return {"instruction": instruction, "output": output, **more}


def test_alpaca_rows(tmp_path):
    rows = [
        ask("add", "3", input="1 and 2"), ask("sing", "la", input=""), ask("", "b", input="a"),
        ask("more?", "no", system="be short", history=[["hi", "hello"], ["a", "b"]], input=None, id=1),
        ask("x", "y", system="", history=[]),
    ]  # fmt: skip
    made = read(Alpaca(), tmp_path, rows)
    assert not made.bad
    assert made.pairs == [
        ("add\n1 and 2", "3"), ("sing", "la"), ("a", "b"),
        ("be short", "hi", "hello", "a", "b", "more?", "no"), ("x", "y"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (ask("", "b"), "turn 2 (user): empty"),
        (ask("a", ""), "turn 3 (assistant): empty"),
        (ask("a", 4), "turn 3 (assistant): a number where text is expected"),
        (ask(5, "b"), "instruction: a number where text is expected"),
        (ask("a", "b", history=5), "history: a number where a list of pairs"),
        (ask("a", "b", history=["x"]), "history: entry 1 is no pair"),
        (ask("a", "b", history=[["x", None]]), "turn 3 (assistant): null where text is expected"),
        ({"instruction": "a"}, 'no "output"; the row has instruction'),
        ([], "a list where an object is expected"),
        (None, "null where an object is expected"),
    ],
)
def test_bad_alpaca_rows(tmp_path, row, reason):
    (told,) = read(Alpaca(), tmp_path, [row]).bad
    assert told.startswith("a.json:1: row 1: ")
    assert reason in told


def test_alpaca_columns_and_tables(tmp_path):
    columns = {"instruction": "prompt", "output": "response"}
    assert read(Alpaca(), tmp_path, [{"prompt": "a", "response": "b"}], columns=columns).pairs == [("a", "b")]
    (tmp_path / "a.csv").write_text("instruction,input,output\na,b,c\n")
    assert Read(Alpaca(), tmp_path, {"files": ["a.csv", "a.json"], "limit": 1}).pairs == [("a\nb", "c")]
    assert fault(Alpaca(), tmp_path, {"files": "no.csv"}) == "no.csv: no such file"


def talk(*turns, **more):
    return {"conversations": [{"from": speaker, "value": value} for speaker, value in turns], **more}


def test_sharegpt_rows(tmp_path):
    rows = [
        talk(("human", "a"), ("gpt", "b")),
        talk(("system", "s"), ("user", "a"), ("assistant", "b"), ("Human", "c"), ("GPT", "d"), id=4),
        talk(("human", "a"), ("gpt", "b"), system="s"),
    ]
    made = read(ShareGPT(), tmp_path, rows)
    assert not made.bad
    assert made.pairs == [("a", "b"), ("s", "a", "b", "c", "d"), ("s", "a", "b")]
    renamed = [{"talk": [{"role": "human", "text": "a"}, {"role": "gpt", "text": "b"}]}]
    keys = {"conversations": "talk", "from": "role", "value": "text"}
    assert read(ShareGPT(), tmp_path, renamed, **keys).pairs == [("a", "b")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (talk(("gpt", "b"), ("human", "a"), ("gpt", "b")), "turn 1 is of assistant, expected user"),
        (talk(("human", "a")), "ends with a turn of user"),
        (talk(("human", "a"), ("human", "b"), ("gpt", "c")), "turn 2 is of user, expected assistant: user, user"),
        (talk(("system", "s"), ("gpt", "c")), "turn 2 is of assistant, expected user"),
        (talk(("human", "a"), ("gpt", " ")), "turn 2 (assistant): empty"),
        (talk(("human", "a"), ("alien", "b")), 'turn 2: from "alien"; expected human, gpt or system'),
        (talk(("human", "a"), ("tool", "b")), 'turn 2: from "tool", a turn of a tool'),
        (talk(("human", "a"), (3, "b")), "turn 2: from a number"),
        (talk(("system", "a"), ("human", "b"), ("gpt", "c"), system="z"), "turn 2 is of system"),
        (talk(), "no turns"),
        ({"conversations": [{"from": "human"}]}, 'turn 1: no "value"'),
        ({"conversations": ["x"]}, "turn 1: str where an object"),
        ({"conversations": {}}, "an object where a list"),
        ({"conversation": []}, 'no "conversations"'),
    ],
)
def test_bad_sharegpt_rows(tmp_path, row, reason):
    (told,) = read(ShareGPT(), tmp_path, [row]).bad
    assert reason in told


VALUES = st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3))
KEYS = st.sampled_from(["instruction", "input", "output", "history", "system", "conversations", "from", "value"])


TURNS = st.dictionaries(KEYS, VALUES)
ROWS = VALUES | TURNS | st.builds(lambda turn: {"conversations": [turn]}, TURNS)


@given(st.lists(ROWS, max_size=6))
def test_every_row_is_a_sample_or_a_bad_row(tmp_path_factory, rows):
    for generator in (Alpaca(), ShareGPT()):
        made = read(generator, tmp_path_factory.mktemp("rows"), rows)
        assert len(made.samples) + len(made.bad) == len(rows)
