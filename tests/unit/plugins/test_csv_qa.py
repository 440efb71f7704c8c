import csv
import io
import zipfile
from datetime import datetime
from itertools import islice
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import Read, fault

from tunemake.contracts import Context, GeneratorError
from tunemake_builtins.csv_qa import CsvQa

DATA = Path(__file__).parents[2] / "examples" / "data"
CLINIC = {"question": ["标题", "提问"], "answer": "回答"}
QA = {"question": "q", "answer": "a"}


def write(tmp_path, text, name="qa.csv", encoding="utf-8"):
    (tmp_path / name).write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return {"files": name, **QA}


def read(tmp_path, text, name="qa.csv", **more):
    return Read(CsvQa(), tmp_path, write(tmp_path, text, name) | more)


def refused(tmp_path, text, name="qa.csv", **more):
    return fault(CsvQa(), tmp_path, write(tmp_path, text, name) | more)


@pytest.mark.parametrize(
    ("name", "more"), [("clinic_gb18030.csv", {"encoding": "GB18030"}), ("clinic_utf8_bom.csv", {})]
)
def test_chinese_tables_of_real_encodings_with_awkward_cells(name, more):
    for encoding in (more, {"encoding": "auto"}):
        made = Read(CsvQa(), DATA, {"files": name, **CLINIC, **encoding})
        asked, answered = zip(*made.pairs, strict=True)
        assert not made.bad
        assert asked[1] == '骨折, 愈合\n他说"疼"怎么办？'
        assert asked[3] == "用药\n阿托品㐂䶮𠮷怎么用？"
        assert answered[0].replace("\r", "") == "高血压病人可以口服党参的。\n党参有降血脂，降血压的作用。"
        assert answered[2] == "多喝水, 及时就医。"


ENCODINGS = [
    ("gb18030", "问：𠮷"), ("gbk", "问"), ("big5", "問"), ("shift_jis", "質問"), ("euc_kr", "질문"), ("utf-16", "问𠮷"),
    ("utf-16-le", "问"), ("utf-8", "问"), ("utf-8-sig", "问"), ("cp1251", "вопрос"), ("latin-1", "é"), ("utf-32", "问"),
]  # fmt: skip


@pytest.mark.parametrize(("encoding", "text"), ENCODINGS)
def test_each_encoding_that_is_named(tmp_path, encoding, text):
    parameters = write(tmp_path, f'q,a\n"{text}\n{text}",{text}\n', encoding=encoding)
    assert Read(CsvQa(), tmp_path, parameters | {"encoding": encoding}).pairs == [(f"{text}\n{text}", text)]


@pytest.mark.parametrize(("mark", "asked"), [("utf-8-sig", "gb18030"), ("utf-16", "utf-8"), ("utf-16", "cp1252")])
def test_a_byte_order_mark_goes_before_what_is_asked_for(tmp_path, mark, asked):
    parameters = write(tmp_path, "q,a\n问,答\n", encoding=mark)
    made = Read(CsvQa(), tmp_path, parameters | {"encoding": asked})
    assert (made.pairs, made.said) == ([("问", "答")], [f"qa.csv: read as {mark}"])


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "\ufeffSEP=;\r"])
def test_the_first_line_in_which_excel_says_the_delimiter(tmp_path, first):
    made = read(tmp_path, f"{first}\nq;a\nb;c,d\ne;\n")
    assert (made.pairs, made.bad, made.said) == ([("b", "c,d")], ["qa.csv:4: a: empty"], [])
    assert read(tmp_path, f"{first}\nq|a\nb|c;d\n", delimiter="|").pairs == [("b", "c;d")]


def test_a_wrong_encoding_is_told_with_place_and_cure(tmp_path):
    told = fault(CsvQa(), DATA, {"files": "clinic_gb18030.csv", **CLINIC})
    assert told == 'clinic_gb18030.csv:1: not utf-8 at byte 1 of the file; it may be gb18030: set encoding = "gb18030"'
    late = "q,a\n" + "how?,so\n" * 300_000
    told = refused(tmp_path, late.encode() + "高血压患者能吃党参吗,可以口服党参的\n".encode("gb18030") * 20)
    assert told.startswith(f"qa.csv:300002: not utf-8 at byte {len(late) + 1} of the file; it may be gb18030")
    told = refused(tmp_path, "q,a\n", encoding="gb1803")
    assert told == 'encoding: "gb1803" is no encoding of text; did you mean "gb18030"?'
    assert '"base64" is no encoding of text' in refused(tmp_path, "q,a\n", encoding="base64")
    assert "not utf-16 at byte" in refused(tmp_path, "q,a\nb,c", encoding="utf-16")


def test_bad_rows_with_the_line_where_they_start(tmp_path):
    text = 'q,a,x\n"two\nlines",b,\n\n,b,\nq,,\nq,b\n"q\nq",b,c,d\nq,"b"c,x\nq,b\0,\nq, ,\ngood,row,\n'
    made = read(tmp_path, text)
    assert made.pairs == [("two\nlines", "b"), ("good", "row")]
    assert made.bad == [
        "qa.csv:5: q: empty",
        "qa.csv:6: a: empty",
        "qa.csv:7: 2 cells, expected 3 (q, a, x)",
        "qa.csv:8: 4 cells, expected 3 (q, a, x)",
        "qa.csv:10: quotes that do not fit: ',' expected after '\"'",
        "qa.csv:11: a NUL byte; is it a table of text?",
        "qa.csv:12: a: empty",
    ]


def test_a_quote_that_is_never_closed(tmp_path):
    assert refused(tmp_path, 'q,a\nb,c\nb,"c\nd,e\n') == "qa.csv:3: a quote opened in this row is never closed"


@pytest.mark.parametrize("row", ['"x\nx"y,"z\nw",v', '"x"y,"z\nw,v\nu",v', 'x,"y"z,"', '"x\nx"y,z', '"x,y\nb,c\n"d",e'])
def test_a_misquoted_row_that_may_go_on_ends_reading(tmp_path, row):
    told = refused(tmp_path, f"q,a\nb,c\n{row}\nd,e\n")
    assert told.startswith("qa.csv:3: quotes that do not fit: ',' expected after '\"'; where this row ends cannot be")


def test_columns_and_delimiters(tmp_path):
    assert refused(tmp_path, "q,b\n", answer="answr") == 'qa.csv: no column "answr"; known: q, b'
    assert refused(tmp_path, "q,answer\n", answer="answr") == 'qa.csv: no column "answr"; did you mean "answer"?'
    assert refused(tmp_path, "q;a\n") == 'qa.csv: no column "q"; set delimiter = ";"'
    assert refused(tmp_path, "q,a,a\n") == 'qa.csv: two columns are named "a"; rename one'
    assert refused(tmp_path, "\n") == "qa.csv: empty; expected a first row with the names of the columns"
    assert read(tmp_path, "q;a\nb;c\n", delimiter=";").pairs == [("b", "c")]
    assert read(tmp_path, "q\ta\nb,\tc\n", "qa.tsv").pairs == [("b,", "c")]
    assert read(tmp_path, "a, q ,z\nc,b,1\n").pairs == [("b", "c")]
    assert read(tmp_path, "q,a\rb,c\r").pairs == [("b", "c")]


def test_system_prompt_long_cells_and_empty_parts_of_a_question(tmp_path):
    long = "x" * 300_000
    made = read(tmp_path, f"t,q,a\n,b,{long}\nt,b,c\n", question=["t", "q"], system="be kind")
    assert made.pairs == [("be kind", "b", long), ("be kind", "t\nb", "c")]


def test_reading_is_lazy(tmp_path):
    (tmp_path / "qa.csv").write_bytes(b"q,a\n" + b"how?,so\n" * 500_000 + b"\xff")
    first = list(islice(CsvQa().samples({"files": "qa.csv", **QA}, Context(tmp_path, 1)), 3))
    assert len(first) == 3
    assert read(tmp_path, (tmp_path / "qa.csv").read_bytes(), limit=5).pairs == [("how?", "so")] * 5


def workbook(path, *rows, title="Sheet1"):
    book = openpyxl.Workbook()
    book.active.title = title
    for row in rows:
        book.active.append(row)
    book.create_sheet("other").append(["q", "a"])
    book.save(path)


def test_xlsx_cells_become_text(tmp_path):
    rows = [
        ("q", "a", "date"), ("how\nmany?", 3), ("pi", 3.25), ("when?", datetime(2024, 5, 6)),  # noqa: DTZ001
        ("at", datetime(2024, 5, 6, 7, 8)), ("true?", True), (None, None, None), ("none", None), (None, "x"),  # noqa: DTZ001
        ("q", "a", "b", "too many"), ("n/a", "#N/A"), (7, "七"),
    ]  # fmt: skip
    workbook(tmp_path / "qa.xlsx", *rows)
    made = Read(CsvQa(), tmp_path, {"files": "qa.xlsx", **QA})
    assert made.pairs == [
        ("how\nmany?", "3"), ("pi", "3.25"), ("when?", "2024-05-06"), ("at", "2024-05-06 07:08:00"), ("true?", "TRUE"),
        ("7", "七"),
    ]  # fmt: skip
    assert made.bad == [
        "qa.xlsx: row 8: a: empty",
        "qa.xlsx: row 9: q: empty",
        "qa.xlsx: row 10: 4 cells, expected 3 (q, a, date)",
        "qa.xlsx: row 11: #N/A, a formula's error",
    ]
    assert Read(CsvQa(), tmp_path, {"files": "qa.xlsx", **QA, "sheet": "other"}).samples == []
    told = fault(CsvQa(), tmp_path, {"files": "qa.xlsx", **QA, "sheet": "othr"})
    assert told == 'qa.xlsx: no sheet "othr"; did you mean "other"?'


def test_a_formula_without_a_result_is_a_bad_row(tmp_path):
    workbook(
        tmp_path / "qa.xlsx", ("q", "a"), ("x", "y"), ("x", '=UPPER("y")'), (None, "=A1"), ("x", "z"), (None, "=A3")
    )
    made = Read(CsvQa(), tmp_path, {"files": "qa.xlsx", **QA})
    assert made.pairs == [("x", "y"), ("x", "z")]
    told = "a formula whose result the file does not hold; open and save it in Excel"
    assert made.bad == [f"qa.xlsx: row {row}: B{row}: {told}" for row in (3, 4, 6)]
    workbook(tmp_path / "qa.xlsx", ("q", "=A9"), ("x", "y"))
    assert fault(CsvQa(), tmp_path, {"files": "qa.xlsx", **QA}) == f"qa.xlsx: row 1: B1: {told}"


def rewritten(path, old, new):
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    assert any(old in data for data in parts.values())
    with zipfile.ZipFile(path, "w") as book:
        for name, data in parts.items():
            book.writestr(name, data.replace(old, new))


def test_a_formula_with_a_result_is_that(tmp_path):
    workbook(tmp_path / "qa.xlsx", ("q", "a", "x"), ("x", "=A2", "=A3"))
    rewritten(tmp_path / "qa.xlsx", b"<f>A2</f><v />", b"<f>A2</f><v>5</v>")
    rewritten(tmp_path / "qa.xlsx", b'<c r="C2"><f>A3</f><v />', b'<c r="C2" t="str"><f>A3</f><v />')
    made = Read(CsvQa(), tmp_path, {"files": "qa.xlsx", **QA})
    assert (made.pairs, made.bad) == ([("x", "5")], [])


def test_what_excel_escapes_in_text_is_decoded(tmp_path):
    workbook(tmp_path / "qa.xlsx", ("q", "a"), ("a_x000D_\nb", "snake_xylophone_"))
    assert Read(CsvQa(), tmp_path, {"files": "qa.xlsx", **QA}).pairs == [("a\r\nb", "snake_xylophone_")]


@pytest.mark.parametrize("cut", [0, 1, 100, 3000])
def test_a_broken_workbook_is_one_line(tmp_path, cut):
    workbook(tmp_path / "whole.xlsx", ("q", "a"))
    told = refused(tmp_path, (tmp_path / "whole.xlsx").read_bytes()[:cut], "qa.xlsx")
    assert told.startswith("qa.xlsx: cannot be read as XLSX: ")


CELLS = st.text("ab\"',;\n\r\t 问\0", max_size=5)


@given(st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=8))
def test_every_written_row_is_a_sample_or_a_bad_row(tmp_path_factory, rows):
    written = io.StringIO()
    csv.writer(written, quoting=csv.QUOTE_ALL).writerows([["q", "a"], *rows])
    made = read(tmp_path_factory.mktemp("rows"), written.getvalue())
    assert len(made.samples) + len(made.bad) == len(rows)
    whole = [tuple(row) for row in rows if len(row) == 2 and all(cell.strip() for cell in row)]
    assert made.pairs == [row for row in whole if "\0" not in "".join(row)]


PIECES = [b"q,a\n", b'"', b",", b"\n", b"\r", b"\0", b"x", b"\xff", "问".encode("gb18030")]
NAMED = st.sampled_from(["utf-8", "auto", "gb18030", "utf-16", "utf-7"])


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.binary(max_size=6), NAMED)
def test_whatever_bytes_end_in_samples_bad_rows_or_one_error(tmp_path_factory, pieces, noise, encoding):
    folder = tmp_path_factory.mktemp("fuzz")
    for name, data in (("a.csv", b"q,a\n" + b"".join(pieces) + noise), ("b.csv", noise + b"".join(pieces))):
        try:
            made = read(folder, data, name, encoding=encoding)
        except GeneratorError as error:
            assert "\n" not in str(error)  # noqa: PT017 - any other error is the failure
            continue
        text = data.decode("gb18030" if encoding == "auto" else encoding, "replace")
        if '"' not in text and name == "a.csv" and encoding != "utf-16":
            lines = [line for line in io.StringIO(text, newline=None) if line.strip("\n")]
            assert len(made.samples) + len(made.bad) == len(lines) - 1
