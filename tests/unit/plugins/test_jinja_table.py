import json

import pytest
from reading import Read, fault

from tunemake_builtins.jinja_table import JinjaTable

CSV = 'city,country,问题,two words\nParis,France,哪里?,x\n"{{ 7 * 7 }}",,,\n'


def parameters(tmp_path, user="{{ city }}?", assistant="{{ country or 'none' }}", **more):
    (tmp_path / "a.csv").write_text(CSV, "utf-8")
    return {"files": "a.csv", "user": user, "assistant": assistant, **more}


def test_columns_are_names_and_values_are_never_templates(tmp_path):
    told = parameters(tmp_path, "{{ city }} {{ 问题 }}{{ row['two words'] }}", system="{% if country %}S{% endif %}")
    assert Read(JinjaTable(), tmp_path, told).pairs == [("S", "Paris 哪里?x", "France"), ("{{ 7 * 7 }} ", "none")]


def test_a_column_named_row_does_not_hide_the_row(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"row": "r", "two words": "x"}')
    told = {"files": "a.jsonl", "user": "{{ row['row'] }}", "assistant": "{{ row['two words'] }}"}
    assert Read(JinjaTable(), tmp_path, told).pairs == [("r", "x")]


def test_an_empty_turn_is_a_bad_row(tmp_path):
    made = Read(JinjaTable(), tmp_path, parameters(tmp_path, assistant=" {{ country }} "))
    assert made.pairs == [("Paris?", " France ")]
    assert made.bad == ["a.csv:3: assistant: empty"]


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ citi }}", "user: 'citi' is undefined; did you mean \"city\"?"),
        ("a\n{{ city", "user: line 2 of the template: unexpected end of template"),
        ("{% include 'x' %}", "user: no loader"),
        ("{{ city.__class__.__mro__ }}", "user: not allowed in a template: access to attribute '__class__'"),
        ("{{ namespace(x=1) }}", "user: 'namespace' is undefined"),
        ("{{ cycler }}", "user: 'cycler' is undefined"),
        ("{{ joiner }}", "user: 'joiner' is undefined"),
        ("{{ ''|random }}", "user: line 1 of the template: No filter named 'random'"),
    ],
)
def test_a_wrong_template_ends_with_its_name(tmp_path, template, told):
    if "include" in template:
        made = Read(JinjaTable(), tmp_path, parameters(tmp_path, template))
        assert len(made.bad) == 2
    else:
        assert told in fault(JinjaTable(), tmp_path, parameters(tmp_path, template))


def test_json_rows_lack_names_one_by_one(tmp_path):
    rows = [{"q": "a", "n": {"x": 1}}, {"n": 2}, {"q": "b", "n": "z"}, 5]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    told = {"files": "a.jsonl", "user": "{{ q }}", "assistant": "{{ n.x + 1 }}"}
    made = Read(JinjaTable(), tmp_path, told)
    assert made.pairs == [("a", "2")]
    assert [line.partition(" ")[0] for line in made.bad] == ["a.jsonl:2:", "a.jsonl:3:", "a.jsonl:4:"]
    assert "'q' is undefined" in made.bad[0]
