import tracemalloc
from datetime import date

import pyarrow as pa
import pytest
from pyarrow import parquet
from reading import Read, fault

from tunemake import schema
from tunemake.contracts import Context
from tunemake_builtins.hubs import HuggingFace, ModelScope
from tunemake_builtins.parquet import Parquet

TALK = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "hello"}]


def write(tmp_path, rows, name="a.parquet", **more):
    parquet.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows), tmp_path / name)
    return {"files": name, **more}


def test_messages(tmp_path):
    rows = [{"messages": TALK, "id": 1}, {"messages": None, "id": 2}, {"messages": TALK[:1], "id": 3}]
    made = Read(Parquet(), tmp_path, write(tmp_path, rows))
    assert made.samples == [{"messages": TALK}]
    assert [line.partition(": ")[2].partition(":")[0] for line in made.bad] == ["row 2", "row 3"]
    text = '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]'
    rows = [{"talk": text}, {"talk": "{"}]
    made = Read(Parquet(), tmp_path, write(tmp_path, rows, messages="talk"))
    assert made.pairs == [("a", "b")]
    assert len(made.bad) == 1


def test_numbers_and_dates_of_cells_become_text(tmp_path):
    rows = [
        {"q": 1, "a": 2.5, "d": date(2024, 5, 6)}, {"q": 2, "a": 3.0, "d": None},
        {"q": 3, "a": float("nan"), "d": None}, {"q": None, "a": 1.0, "d": None},
    ]  # fmt: skip
    told = write(tmp_path, rows, format="qa", question="q", answer="a")
    made = Read(Parquet(), tmp_path, told)
    assert made.pairs == [("1", "2.5"), ("2", "3")]
    assert made.bad == ["a.parquet: row 3: a: empty", "a.parquet: row 4: q: empty"]
    assert Read(Parquet(), tmp_path, told | {"answer": "d", "limit": 1}).pairs == [("1", "2024-05-06")]


def test_alpaca_and_sharegpt(tmp_path):
    told = write(tmp_path, [{"instruction": "a", "input": "b", "output": 3}], format="alpaca")
    assert Read(Parquet(), tmp_path, told).pairs == [("a\nb", "3")]
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    told = write(tmp_path, [{"conversations": turns}], format="sharegpt")
    assert Read(Parquet(), tmp_path, told).pairs == [("a", "b")]


@pytest.mark.parametrize("generator", [Parquet(), HuggingFace(), ModelScope()])
@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        ({"format": "sharegpt", "system": "s"}, ["system: of format qa"]),
        (
            {"format": "alpaca", "messages": "m", "answer": "a"},
            ["answer: of format qa", "messages: of format messages"],
        ),
        ({"question": "q"}, ["question: of format qa"]),
        ({"format": "messages", "alpaca": {}}, ["alpaca: of format alpaca"]),
        ({"format": "qa", "conversations": "c"}, ["conversations: of format sharegpt"]),
        ({"format": "qa", "question": "q", "system": "s"}, []),
        ({"messages": "m"}, []),
    ],
)
def test_what_belongs_to_another_format_is_refused(generator, told, wrong):
    told = {generator.parameters["required"][0]: "x", **told}
    faults = [str(fault) for _, fault in schema.schema_faults(told, generator.parameters, "test")]
    names = [line.rpartition(" ")[2] for line in wrong]
    assert faults == [
        f'test: {line} alone; expected format = "{name}" beside it' for line, name in zip(wrong, names, strict=True)
    ]


def test_faults(tmp_path):
    told = write(tmp_path, [{"mesages": TALK}])
    assert fault(Parquet(), tmp_path, told) == 'a.parquet: no column "messages"; did you mean "mesages"?'
    whole = (tmp_path / "a.parquet").read_bytes()
    for cut in (0, 10, len(whole) - 8):
        (tmp_path / "a.parquet").write_bytes(whole[:cut])
        assert fault(Parquet(), tmp_path, told).startswith("a.parquet: cannot be read as Parquet: ")


def test_text_that_is_not_utf8_is_a_bad_row(tmp_path):
    texts = pa.array([b"good", b"b\xff", b"good"]).view(pa.string())
    told = write(tmp_path, pa.table({"q": texts, "a": ["x", "y", "z"]}), format="qa", question="q", answer="a")
    made = Read(Parquet(), tmp_path, told)
    assert made.pairs == [("good", "x"), ("good", "z")]
    assert "a.parquet: row 2: a value that cannot be read: 'utf-8' codec" in made.bad[0]


@pytest.mark.parametrize("row_group", [5_000, 40_000])
def test_batches_not_the_whole(tmp_path, row_group):
    count = 40_000
    table = pa.table({"question": [f"{number}" * 20 for number in range(count)], "answer": ["x" * 500] * count})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=row_group)
    told = {"files": "a.parquet", "format": "qa"}
    tracemalloc.start()
    assert sum(1 for _ in Parquet().samples(told, Context(tmp_path, 1))) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < table.nbytes / 4
