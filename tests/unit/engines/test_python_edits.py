"""Edits of Python source: what is edited changes, comments and all else stay byte for byte."""

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemake.engines.python_edits import PythonText

SOURCE = """\
# 注释 first
import os
from a.b import one, two

名 = "é"  # a comment
lr = 2e-4  # peak
data = dict(
    type=one,  # kept
    path="x",
    more=dict(deep=lr, gone=[1,
                             2]),
)
rest = [dict(n=1), dict(n=2), dict(n=3)]
"""


def test_values_are_replaced_in_place_and_comments_stay():
    text = PythonText(SOURCE)
    assert text.set_name("lr", "1e-3")
    assert text.set_keyword(text.at("data.more"), "gone", "None")
    assert not text.set_name("nothing", "1")
    assert text.edited() == SOURCE.replace("2e-4", "1e-3").replace("[1,\n                             2]", "None")


def test_a_value_that_is_there_already_is_left_as_it_is_written():
    text = PythonText(SOURCE)
    text.set_name("名", "'é'")
    text.set_name("lr", "0.0002")
    assert text.edited() == SOURCE


def test_new_keywords_come_after_the_others_in_their_order():
    text = PythonText(SOURCE)
    text.set_keyword(text.assigned("data"), "p", "1")
    text.set_keyword(text.assigned("data"), "q", "2")
    text.set_keyword(text.at("data.more"), "r", "3")
    assert "2], r=3),\n    p=1,\n    q=2,\n)\n" in text.edited()


@pytest.mark.parametrize("gone", [["type"], ["path"], ["more"], ["type", "path"], ["path", "more"], ["type", "more"]])
def test_keywords_go_with_their_commas_wherever_they_stand(gone):
    text = PythonText(SOURCE)
    assert all(text.drop_keyword(text.assigned("data"), name) for name in gone)
    assert not text.drop_keyword(text.assigned("data"), "nothing")
    left = [entry.arg for entry in PythonText(text.edited()).assigned("data").keywords]
    assert left == [name for name in ("type", "path", "more") if name not in gone]


@given(st.sets(st.integers(0, 2), max_size=2))
def test_items_go_with_their_commas(gone):
    text = PythonText(SOURCE)
    for number in gone:
        text.drop_item(text.assigned("rest"), text.assigned("rest").elts[number])
    left = ast.unparse(PythonText(text.edited()).assigned("rest"))
    assert left == "[" + ", ".join(f"dict(n={n + 1})" for n in range(3) if n not in gone) + "]"


def test_the_last_keyword_goes_and_another_comes():
    text = PythonText("a = dict(one=1, two=2)\n")
    text.drop_keyword(text.assigned("a"), "two")
    text.set_keyword(text.assigned("a"), "three", "3")
    assert text.edited() == "a = dict(one=1, three=3)\n"


def test_an_import_takes_the_place_of_one_that_nothing_uses_any_more():
    text = PythonText(SOURCE)
    text.set_keyword(text.assigned("data"), "type", "three")
    text.imports("a.b", "three")
    text.imports("c", "four")
    text.imports("os")
    text.imports("torch")
    assert text.edited().startswith(
        "# 注释 first\nimport torch\nimport os\nfrom a.b import three, two\nfrom c import four\n"
    )


def test_an_import_that_is_used_stays_beside_the_new_one():
    text = PythonText("from a import (\n    one,\n    two,\n)\n\nx = one(two)\n")
    text.imports("a", "three")
    text.imports("a", "one")
    assert text.edited() == "from a import (\n    one,\n    two,\n    three,\n)\n\nx = one(two)\n"


def test_names_are_renamed_everywhere_but_in_what_is_replaced():
    text = PythonText("n = 1\na = dict(n=n, m=n * 2)\n")
    text.rename("n", "k")
    text.set_keyword(text.assigned("a"), "m", "7")
    assert text.edited() == "k = 1\na = dict(n=k, m=7)\n"


def test_what_a_keyword_comes_to_is_set_where_it_is_kept():
    text = PythonText("n = 1\na = dict(n=n, m=3)\n")
    assert text.set_where_kept(text.assigned("a"), "n", "2")
    assert text.set_where_kept(text.assigned("a"), "m", "4")
    assert text.set_where_kept(text.assigned("a"), "new", "5")
    assert not text.set_where_kept(None, "n", "2")
    assert text.edited() == "n = 2\na = dict(n=n, m=4, new=5)\n"
