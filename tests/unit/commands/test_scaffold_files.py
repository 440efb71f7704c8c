"""Files of scaffolds: written whole or not at all; values written as TOML; names that plugins find again."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemake.commands import scaffolds
from tunemake.faults import InputError
from tunemake.plugin_files import own_generators

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(text | st.integers(-9, 9) | st.booleans(),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3))  # fmt: skip


@given(values)
def test_a_value_is_read_as_it_was_written(value):
    assert tomllib.loads(f"x = {scaffolds.toml(value)}\n") == {"x": value}


@given(st.from_regex(r"[a-z0-9_]{1,12}", fullmatch=True))
def test_a_name_that_may_be_given_is_that_of_its_class(tmp_path_factory, name):
    try:
        scaffolds.check_plugin_name(name)
    except InputError:
        return
    file = tmp_path_factory.mktemp("own") / "own.py"
    file.write_text(f"class {scaffolds.class_name(name)}:\n    samples = None\n")
    assert list(own_generators(file)) == [name]


def test_nothing_is_left_where_a_folder_cannot_be_finished(tmp_path):
    with pytest.raises(InputError, match="x: cannot be written: No such file or directory"):
        scaffolds.write_folder(tmp_path / "x", {"a": "1", "b": tmp_path / "nowhere"})
    with pytest.raises(InputError, match="x: cannot be written: No such file or directory"):
        scaffolds.write_folder(tmp_path / "nowhere" / "x", {"a": "1"})
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_one_left_is_told(tmp_path):
    (tmp_path / ".x.new").mkdir()
    with pytest.raises(InputError, match=r"x: cannot be written: File exists; remove .*/\.x\.new"):
        scaffolds.write_folder(tmp_path / "x", {"a": "1"})


def test_a_file_is_never_overwritten(tmp_path):
    (tmp_path / "a").write_text("kept")
    (tmp_path / "b").symlink_to("nowhere")
    for name in ("a", "b"):
        with pytest.raises(InputError, match=f"{name}: the file is there already"):
            scaffolds.write_new(tmp_path / name, "new", name)
    with pytest.raises(InputError, match=r"a/c: cannot be written: (Not a directory|File exists)"):
        scaffolds.write_new(tmp_path / "a" / "c", "new", "a/c")
    assert (tmp_path / "a").read_text() == "kept"
