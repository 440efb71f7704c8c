"""Whatever is in project.toml, a CSV or a JSON lines file: a TunemakeError or a result, and no row lost in silence."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import PROJECT
from tunemake.faults import TunemakeError
from tunemake.loading import load_builder
from tunemake.stages import Job, dataset

MANY = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
FEW = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
VALUES = tomllib.loads(PROJECT)
ABSENT = [("plugins",), ("merge",), ("variants",), ("matrix",)]  # what the tiny project leaves out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A project's folder, in which each example takes the place of the one before."""
    made = tmp_path_factory.mktemp("fuzz")
    (made / "models/tiny").mkdir(parents=True)
    return made


def loads_or_tells(folder: Path, content: bytes) -> None:
    """Read a project; any error but a TunemakeError with lines to read fails the test."""
    (folder / "project.toml").write_bytes(content)
    try:
        stages = load_builder(folder).stages
    except TunemakeError as error:
        check_told(error)
    else:
        assert stages


def check_told(error: TunemakeError) -> None:
    assert error.faults
    assert all(str(fault) and "\n" not in str(fault) for fault in error.faults)


def paths(value, at=()):
    """Give the paths to all values of a table."""
    for key, item in value.items():
        yield (*at, key)
        if isinstance(item, dict):
            yield from paths(item, (*at, key))


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.dates(), st.times(),
    st.sampled_from(["chatml", "self_cognition", "models/tiny", "xtuner:", "../..", "/", "hf:a/b@c", "pypi:x==1", ""]),
)  # fmt: skip
ANY = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def toml(value) -> str:
    """Write a value as TOML; tables inside a table are written inline. None leaves a key out."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key_of(k)} = {toml(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value if item is not None) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, float):
        return repr(value) if value == value else "nan"  # noqa: PLR0124 - nan is unlike itself
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def key_of(name: str) -> str:
    return json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")


def replaced(path, new):
    """Give the project's values with one of them replaced, or left out where new is None."""
    made = json.loads(json.dumps(VALUES))
    table = made
    for step in path[:-1]:
        table = table[step]
    table[path[-1]] = new
    return made


@MANY
@given(st.sampled_from([*paths(VALUES), *ABSENT]), ANY, st.booleans())
def test_any_value_in_any_place_of_project_toml(folder, path, value, other_key):
    if other_key:
        path = (*path[:-1], f"{path[-1]}s")
    text = "".join(f"{key_of(key)} = {toml(item)}\n" for key, item in replaced(path, value).items() if item is not None)
    loads_or_tells(folder, text.encode("utf-8", "surrogatepass"))


@MANY
@given(st.data())
def test_any_damage_to_the_text_of_project_toml(folder, data):
    text = bytearray(PROJECT.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        piece = data.draw(
            st.sampled_from(list(b'"[]{}=\n\0#.')).map(lambda byte: bytes([byte])) | st.binary(max_size=4)
        )
        text[start:end] = piece
    loads_or_tells(folder, bytes(text))


def made(folder: Path, generator: str, content: bytes, name: str, on_bad: str, **parameters) -> tuple[list, list, dict]:
    """Run the dataset stage on a file; give its samples, the rows that it rejected, and its counts."""
    (folder / name).write_bytes(content)
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    values = {"generator": generator, "parameters": {"files": name, **parameters}, "on_bad": on_bad, "seed": 1}
    counts = dataset.run(Job(folder, work, values, {"name": "fuzz", "plugins": []}, {}))
    kept = [work / dataset.SAMPLES, work / dataset.REJECTS]
    samples, rejects = (
        [json.loads(line) for line in path.read_text("utf-8").split("\n") if line] if path.exists() else []
        for path in kept
    )
    assert (len(samples), len(rejects)) == (counts["samples"], counts["rejected"])
    return samples, rejects, counts


CELL = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["", " ", "a", 'say "hi"', "a,b", "line\nline", "\r\n", "外科", "\ufeff", "=1+1", "\x85", "\u2028"]
)
ROWS = st.lists(st.lists(CELL, min_size=1, max_size=4), max_size=6)


def csv_text(rows) -> str:
    """Write rows with every cell quoted, so that what is in a cell ends no row."""
    return "".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\n" for row in rows)


@FEW
@given(ROWS, st.sampled_from(["utf-8", "utf-8-sig", "gb18030", "utf-16"]))
def test_every_row_of_a_csv_is_a_sample_or_a_reject(folder, rows, encoding):
    content = csv_text([["question", "answer"], *rows]).encode(encoding)
    asked = encoding.removesuffix("-sig")
    try:
        samples, rejects, _ = made(folder, "csv_qa", content, "rows.csv", "skip", encoding=asked)
    except TunemakeError as error:
        check_told(error)
        good = [row for row in rows if len(row) == 2 and row[0].strip() and row[1].strip() and "\0" not in "".join(row)]
        assert not good, f"lost: {good}"
        return
    assert len(samples) + len(rejects) == len(rows)
    pairs = {(row[0], row[1]) for row in rows if len(row) == 2}
    assert {tuple(turn["content"] for turn in sample["messages"]) for sample in samples} <= pairs


@FEW
@given(
    st.binary(max_size=80),
    st.sampled_from(["csv", "tsv", "jsonl", "json", "xlsx", "parquet"]),
    st.sampled_from(["csv_qa", "messages", "alpaca", "sharegpt", "parquet"]),
    st.sampled_from(["error", "skip"]),
)
def test_any_bytes_by_any_name(folder, content, kind, generator, on_bad):
    try:
        made(folder, generator, content, f"any.{kind}", on_bad)
    except TunemakeError as error:
        check_told(error)


TURN = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "system", "tool", "human"])
        | SCALARS.filter(lambda v: not hasattr(v, "isoformat")),
        "content": st.text(max_size=5) | st.none() | st.integers(),
        "name": st.text(max_size=3),
    },
)
GOOD = st.just([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
LINE = st.one_of(
    st.fixed_dictionaries({"messages": GOOD | st.lists(TURN, max_size=4)}).map(json.dumps),
    st.fixed_dictionaries({"messages": GOOD}).map(lambda row: json.dumps(row)[:-3]),
    st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(["[]", "{}", "null", "1e999", "NaN", '{"messages": "[]"}', "[" * 50]),
)


@FEW
@given(st.lists(LINE, min_size=1, max_size=6))
def test_every_line_of_json_lines_is_a_sample_or_a_reject(folder, lines):
    lines = ['{"messages": []}', *lines]  # the first tells that it is no list
    content = "".join(f"{line}\n" for line in lines).encode()
    rows = [line for line in content.split(b"\n") if line and not line.isspace()]
    try:
        samples, rejects, _ = made(folder, "messages", content, "rows.jsonl", "skip")
    except TunemakeError as error:
        check_told(error)
        good = '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]'
        assert f'{{"messages": {good}}}' not in lines
        return
    assert len(samples) + len(rejects) == len(rows)
