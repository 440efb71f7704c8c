import json
import tracemalloc
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from reading import Read, fault

from tunemake.contracts import Context, GeneratorError
from tunemake_builtins.messages import Messages


def talk(*contents, **more):
    roles = ("user", "assistant") * len(contents)
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return {"messages": messages, **more}


def read(tmp_path, text, name="a.jsonl", **more):
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return Read(Messages(), tmp_path, {"files": name, **more})


def refused(tmp_path, text, name="a.json", **more):
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return fault(Messages(), tmp_path, {"files": name, **more})


ROWS = [talk("你好", "hello"), talk("a", "b", "c", "d"), talk("x", 'quotes " \\ and\nlines')]


@pytest.mark.parametrize("indent", [None, 1, 4])
def test_a_list_and_lines_give_the_same(tmp_path, indent):
    listed = read(tmp_path, json.dumps(ROWS, indent=indent, ensure_ascii=indent is None), "a.json")
    lines = read(tmp_path, "\n\n".join(map(json.dumps, ROWS)))
    assert listed.samples == lines.samples == ROWS
    assert not listed.bad + lines.bad
    assert read(tmp_path, b"\xef\xbb\xbf" + json.dumps(ROWS).encode(), "a.json").samples == ROWS
    assert read(tmp_path, "\n".join(map(json.dumps, ROWS)), "lines.json").samples == ROWS
    assert read(tmp_path, json.dumps(ROWS, indent=indent), "list.jsonl").samples == (ROWS if indent else [])


def test_a_broken_line_is_a_bad_row_and_reading_goes_on(tmp_path):
    good = json.dumps(ROWS[0])
    made = read(tmp_path, f'{good}\n{{"messages": [\n{good}\n"text"\n\n[1]\n{good}')
    assert made.samples == [ROWS[0]] * 3
    assert [line.partition(": ")[0] for line in made.bad] == ["a.jsonl:2", "a.jsonl:4", "a.jsonl:6"]
    assert "not JSON" in made.bad[0]
    assert made.bad[1].endswith("str where an object is expected")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (talk(), "no turns"),
        (talk("a"), "ends with a turn of user"),
        (talk("a", ""), "turn 2 (assistant): empty"),
        (talk("a", " \n"), "turn 2 (assistant): empty"),
        (talk("a", 3), "turn 2 (assistant): a number where text"),
        (talk("a", None), "turn 2 (assistant): null where text"),
        (talk("a", ["b"]), "a part that is str"),
        (talk("a", [{"type": "image_url", "image_url": {}}]), 'a part of type "image_url"'),
        (talk("a", "\ud800"), " surrogate "),
        ({"messages": [{"role": "assistant", "content": "b"}]}, "turn 1 is of assistant, expected user"),
        ({"messages": [{"role": "narrator", "content": "b"}]}, 'role "narrator"'),
        ({"messages": [{"role": ["user"], "content": "b"}]}, "role a list"),
        ({"messages": [{"content": "b"}]}, "role null"),
        ({"messages": [{"role": "user"}]}, "no content"),
        ({"messages": [5]}, "a number where an object"),
        ({"messages": 5}, "a number where a list"),
        ({"messages": "x"}, "not JSON"),
        ({"mesages": []}, 'no "messages"; the row has mesages'),
        ({"messages": [*talk("a", "b")["messages"], {"role": "system", "content": "s"}]}, "turn 3 is of system"),
    ],
)
def test_a_wrong_row_is_bad_with_its_reason(tmp_path, row, reason):
    lines = read(tmp_path, f"{json.dumps(ROWS[0])}\n{json.dumps(row)}\n{json.dumps(ROWS[0])}")
    listed = read(tmp_path, json.dumps([ROWS[0], row, ROWS[0]], indent=2), "b.json")
    for made, place in ((lines, "a.jsonl:2: "), (listed, "b.json:14: row 2: ")):
        assert made.samples == [ROWS[0]] * 2
        (told,) = made.bad
        assert told.startswith(place)
        assert reason in told


def test_system_developer_and_parts_of_text(tmp_path):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    row = talk(parts, "c")
    row["messages"].insert(0, {"role": "developer", "content": "be kind"})
    made = read(tmp_path, json.dumps(row))
    assert made.pairs == [("be kind", "ab", "c")]
    assert made.samples[0]["messages"][0]["role"] == "system"
    row["messages"][0]["content"] = ""
    assert read(tmp_path, json.dumps(row)).pairs == [("ab", "c")]


def test_tool_turns_and_other_keys_are_ignored_and_counted(tmp_path):
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    result = {"role": "tool", "content": "20", "tool_call_id": "1"}
    question, answer = talk("how warm?", "20 degrees")["messages"]
    good = {"messages": [question, called, result, {**answer, "weight": 1, "name": None}], "tools": [], "id": 7}
    torn = {"messages": [question, called, result]}
    made = read(tmp_path, "\n".join(map(json.dumps, [good, torn, ROWS[0]])))
    assert made.pairs == [("how warm?", "20 degrees"), ("你好", "hello")]
    assert made.bad == ["a.jsonl:2: without its tool turns: it ends with a turn of user, expected assistant: user"]
    turns, keys = made.said
    assert turns == "messages: 2 tool turns ignored in 1 conversations"
    counted = "tools (1), id (1), messages[].tool_call_id (1), messages[].weight (1)"
    assert keys == f"messages: ignored keys: {counted}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[", "a.json:1: not JSON at column 2: Expecting value"),
        ('[\n {"messages": [}\n]', "a.json:2: not JSON at column 16: Expecting value"),
        ("[{}", "the end of the file before the list's"),
        ("[{}] 5", "more after the end"),
        ("[{} {}]", "expected , or ]"),
        ('["' + "a" * 50, "Unterminated string"),
        ("[" * 100_000, "nested too deeply"),
        ("[" + "1" * 5000 + "]", "digits"),
        (json.dumps(ROWS).encode("utf-16"), "UTF-16, by its first bytes"),
    ],
)
def test_a_list_that_breaks_ends_with_the_place(tmp_path, text, told):
    assert told in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "empty; expected a list of objects, or one on each line"),
        ("\ufeff \n\n", "empty; expected a list of objects, or one on each line"),
        (json.dumps(ROWS[0], indent=1), "one object, expected a list of them"),
        ("\ufeff\n" + json.dumps(ROWS[0], indent=1), "one object, expected a list of them"),
        (json.dumps({"n": [1], "data": ROWS}, indent=1),
         'one object, expected a list of them; the list lies under "data": make it the whole file'),
        (json.dumps(ROWS[0], indent=1) + "\n" + json.dumps(ROWS[1], indent=1),
         "objects of several lines each, expected a list of them, or each on one line"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_what_is_neither_a_list_nor_lines_is_told_as_what_it_is(tmp_path, text, told, name):
    assert refused(tmp_path, text, name) == f"{name}: {told}"


def test_a_list_that_lies_in_an_object(tmp_path):
    made = read(tmp_path, json.dumps({"tools": [{"x": 1}], "data": ROWS}), "a.json")
    told = 'no "messages"; the row has tools, data; the list lies under "data": make it the whole file'
    assert made.bad == [f"a.json:1: {told}"]
    assert read(tmp_path, json.dumps({"data": [{"x": 1}]})).bad == ['a.jsonl:1: no "messages"; the row has data']


def test_a_long_first_line_that_is_malformed_is_a_bad_row(tmp_path):
    long = json.dumps(talk("a" * 3_000_000, "b")).encode().replace(b"aaa", b"a\xff", 1)
    made = read(tmp_path, long + b"\n" + json.dumps(ROWS[0]).encode())
    assert (made.samples, len(made.bad)) == ([ROWS[0]], 1)


def test_malformed_utf8_and_depth_are_bad_rows(tmp_path):
    good, bad = json.dumps(ROWS[0]).encode(), b'{"messages": [{"role": "user", "content": "a\xff"}]}'
    deep = b'{"messages": ' + b"[" * 5000 + b"]" * 5000 + b"}"
    nan = b'{"messages": [{"role": "user", "content": NaN}]}'
    made = read(tmp_path, b"\n".join([bad, deep, nan, good]))
    assert (len(made.samples), len(made.bad)) == (1, 3)
    listed = read(tmp_path, b"[" + b",\n".join([bad, nan, good]) + b"]", "b.json")
    assert (len(listed.samples), len(listed.bad)) == (1, 2)
    assert "malformed UTF-8 at character 2" in listed.bad[0]


@pytest.mark.parametrize("depth", [300, 600, 900])
def test_a_deep_row_can_be_kept(tmp_path, depth):
    deep = '{"messages": ' + "[" * depth + "]" * depth + "}"
    for name, text in (("a.jsonl", deep), ("a.json", f"[{deep}]")):
        made = read(tmp_path, text, name)
        assert made.bad[0].endswith("turn 1: a list where an object is expected")


def test_files_by_pattern_key_limit_and_sample(tmp_path):
    (tmp_path / "d").mkdir()
    for name in "ba":
        rows = [{"talk": talk(f"{name}{number}", "x")["messages"]} for number in range(50)]
        (tmp_path / "d" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    one = {"files": "d/*.jsonl", "key": "talk"}
    everything = [asked for asked, _ in Read(Messages(), tmp_path, one).pairs]
    assert everything == [f"{name}{number}" for name in "ab" for number in range(50)]
    assert Read(Messages(), tmp_path, one | {"limit": 60}).pairs[-1] == ("b9", "x")
    drawn = [asked for asked, _ in Read(Messages(), tmp_path, one | {"sample": 20}).pairs]
    assert len(set(drawn)) == 20
    assert drawn == sorted(drawn, key=everything.index)
    assert drawn != everything[:20]
    assert drawn != [asked for asked, _ in Read(Messages(), tmp_path, one | {"sample": 20}, seed=2).pairs]
    few = Read(Messages(), tmp_path, one | {"sample": 200})
    assert few.said == ["100 samples instead of 200: there are no more"]
    assert fault(Messages(), tmp_path, {"files": ["e/*.json"]}) == "e/*.json: no file matches"
    assert fault(Messages(), tmp_path, {"files": ["e.json"]}) == "e.json: no such file"
    assert fault(Messages(), tmp_path, {"files": "d/"}) == "d/: is a folder; write d/*.jsonl"
    (tmp_path / "d" / "x.csv").touch()
    assert fault(Messages(), tmp_path, {"files": ["d"]}) == "d: is a folder; write d/*.csv or d/*.jsonl"
    assert "unknown kind of file; expected" in refused(tmp_path, "", "x.doc")


def test_inputs_are_the_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text("[]")
    assert list(Messages().inputs({"files": ["*.json", "other.jsonl"]})) == [Path("a.json"), Path("other.jsonl")]


@pytest.mark.parametrize("name", ["a.json", "one_line.json", "a.jsonl"])
def test_memory_does_not_grow_with_rows(tmp_path, name):
    rows = [json.dumps(talk(f"{number}", "x" * 1000)) for number in range(20_000)]
    text = "\n".join(rows) if name == "a.jsonl" else "[" + ("," if "one" in name else ",\n").join(rows) + "]"
    (tmp_path / name).write_text(text)
    size = (tmp_path / name).stat().st_size
    del rows, text
    context = Context(tmp_path, 1)
    next(islice(Messages().samples({"files": name}, context), 10, None))  # what is imported once
    tracemalloc.start()
    count = sum(1 for _ in Messages().samples({"files": name}, context))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < size / 3


PIECES = [
    "{", "}", "[", "]", ",", ":", '"', '"messages"', '"role"', '"content"', '"user"', "null", "1", "-", "NaN", "\\",
    "\n", " ", "é", '"\\ud800"', json.dumps(ROWS[0]), json.dumps(ROWS[1]),
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12), st.binary(max_size=4), st.integers(0, 50))
def test_whatever_bytes_end_in_samples_bad_rows_or_one_error(tmp_path_factory, pieces, noise, at):
    text = "".join(pieces).encode(errors="surrogatepass")
    path = tmp_path_factory.mktemp("fuzz") / "a.jsonl"
    path.write_bytes(text[:at] + noise + text[at:])
    for name in ("a.jsonl", "a.json"):
        path = path.rename(path.with_name(name))
        try:
            made = Read(Messages(), path.parent, {"files": name})
        except GeneratorError as error:
            assert "\n" not in str(error)  # noqa: PT017 - any other error is the failure
            continue
        if not path.read_bytes().lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            lines = [line for line in path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
            assert len(made.samples) + len(made.bad) == len(lines)


@given(st.lists(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists), max_size=5), st.booleans())
def test_every_row_is_a_sample_or_a_bad_row(tmp_path_factory, values, listed):
    assume(values or listed)  # a file of no lines is an error
    rows = [*values, *[talk("a", value) for value in values], *[{"messages": value} for value in values]]
    path = tmp_path_factory.mktemp("rows") / ("a.json" if listed else "a.jsonl")
    path.write_text(json.dumps(rows) if listed else "".join(json.dumps(row) + "\n" for row in rows))
    made = Read(Messages(), path.parent, {"files": path.name})
    assert len(made.samples) + len(made.bad) == len(rows)
