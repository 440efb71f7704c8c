import string
import tomllib

from hypothesis import given
from hypothesis import strategies as st

from tunemake.toml_places import places

TEXT = """\
name = "x"
[train]
lr = 1e-4
lora = { r = 8, targets = ["q", "v"] }
a.b = 1
[[probe]]
kind = "one"
[[probe]]
kind = "two"
[probe.sub]
"quoted key" = 1
"""


def test_keys_of_every_form_are_found():
    found = places(TEXT)
    assert found[("name",)] == (1, 1)
    assert found[("train",)] == (2, 2)
    assert found[("train", "lora", "r")] == (4, 10)
    assert found[("train", "lora", "targets", 1)] == (4, 33)
    assert found[("train", "a", "b")] == (5, 1)
    assert found[("probe", 1, "kind")] == (9, 1)
    assert found[("probe", 1, "sub", "quoted key")] == (11, 1)


def test_columns_count_characters_not_bytes():
    assert places('a = { "é" = 1, b = 2 }')[("a", "b")] == (1, 16)


def test_a_comment_behind_a_value_hides_nothing_in_it():
    found = places("a = ['x', 'y'] # A\nb = { c = 1 } # B\n")
    assert (found[("a", 1)], found[("b", "c")]) == ((1, 11), (2, 7))


keys = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=8)
tables = st.dictionaries(keys, st.dictionaries(keys, st.integers() | st.text(max_size=5), max_size=4), max_size=4)


@given(tables)
def test_every_key_that_tomllib_reads_has_a_place(value):
    import json

    lines = []
    for table, entries in value.items():
        lines += [f"[{table}]", *(f"{key} = {json.dumps(entry)}" for key, entry in entries.items())]
    text = "\n".join(lines).replace("\\ud", "d")
    try:
        read = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return  # JSON escapes that TOML has not
    found = places(text)
    for table, entries in read.items():
        assert (table,) in found
        assert all((table, key) in found for key in entries)
