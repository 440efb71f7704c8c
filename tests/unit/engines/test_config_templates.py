"""Jinja templates of training configs: which files they are made of, and where their faults are told to be."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_xtuner import values

from tunemake.engines import config_templates, xtuner
from tunemake.faults import InputError


@pytest.fixture
def own(tmp_path):
    """Write a template of the project's own; render it, or the one of another name."""
    folder = tmp_path / "templates" / "xtuner"
    folder.mkdir(parents=True)

    def write(text, name="mine"):
        (folder / f"{name}.py.jinja").write_text(text, "utf-8")

    def render(name="mine", **train):
        return xtuner.render_config(values(template=name, **train), tmp_path)

    write.root, write.render = tmp_path, render
    return write


def told(own, name="mine", **train):
    with pytest.raises(InputError) as error:
        own.render(name, **train)
    return str(error.value)


def test_the_ones_that_ship_are_made_of_one_base(tmp_path):
    files = {name: config_templates.template_files(name, tmp_path) for name in ("full", "lora", "qlora")}
    assert files == {
        "full": ["xtuner/full.py.jinja", "xtuner/base.py.jinja"],
        "lora": ["xtuner/lora.py.jinja", "xtuner/base.py.jinja"],
        "qlora": ["xtuner/qlora.py.jinja", "xtuner/lora.py.jinja", "xtuner/base.py.jinja"],
    }


def test_a_project_s_own_takes_the_place_of_one_that_ships(own):
    own("lr = {{ train.lr }}\n", name="lora")
    assert own.render("lora", lr=0.5) == "lr = 0.5\n"
    own("a = 1\n")
    own('lora = "mine"\n{% block settings %}{% endblock %}\n', name="base")
    assert own.render("full").startswith('lora = "mine"\n')
    assert config_templates.template_names(own.root) == {"lora": True, "mine": True, "full": False, "qlora": False}


def test_a_block_is_replaced_and_the_rest_is_what_ships(own):
    own('{% extends "xtuner/lora.py.jinja" %}\n{% block runtime %}\n{{ super() }}log_level = "DEBUG"\n{% endblock %}\n')
    assert own.render() == own.render("lora") + 'log_level = "DEBUG"\n'


def test_a_block_of_one_s_own_finds_mmengine_s_names_in_every_precision(own):
    own(
        '{% extends "xtuner/lora.py.jinja" %}\n{% block optimizer %}\noptim_wrapper = dict(type=OptimWrapper)\n'
        "{% endblock %}\n{% block runtime %}\ndefault_hooks = dict(logger=dict(type=LoggerHook))\n{% endblock %}\n"
    )
    for precision in ("float32", "bfloat16"):
        found = ast.walk(ast.parse(own.render(precision=precision)))
        imported = {alias.name for node in found if isinstance(node, ast.ImportFrom) for alias in node.names}
        assert {"OptimWrapper", "LoggerHook"} <= imported


DATA = """
train_dataset = dict(
    type=process_hf_dataset, dataset=dict(type=load_dataset, path="json", data_files=dict(train={{ data_path | py }})),
    tokenizer=tokenizer, max_length={{ data.max_length }}, dataset_map_fn=openai_map_fn, max_dataset_length=9,
    template_map_fn=dict(type=template_map_fn_factory, template=prompt_template), pack_to_max_length=False,
)
train_dataloader = dict(batch_size=batch_size, dataset=train_dataset)
"""


@pytest.mark.parametrize(
    ("block", "text", "why"),
    [
        ("data", DATA, "its template has data of its own"),
        ("data", "{{ super() }}", None),
        ("data", '{{ super() }}train_dataset = dict(type=token_rows, path="other.arrow")', "has data of its own"),
        ("settings", "{{ super() }}max_length = 5", "its template sets max_length by itself"),
        ("settings", "{{ super() }}prompt_template = dict()", "tokenizer has prompt_template = prompt_template"),
        ("model", "{{ super() }}tokenizer = dict(type=print)", "its template's tokenizer has type = print"),
        ("model", "{{ super() }}tokenizer = mine()", "its template has a tokenizer of its own"),
        ("model", "{{ super() }}tokenizer = mine", "its template has a tokenizer of its own"),
        ("model", "{{ super() }}model['llm'] = 3", None),
    ],
)
def test_a_template_reads_the_tokens_only_where_it_would_make_the_same(own, block, text, why):
    own(f'{{% extends "xtuner/lora.py.jinja" %}}\n{{% block {block} %}}\n{text}\n{{% endblock %}}\n')
    told = values(template="mine")
    made, found = xtuner.training_config(told, own.root)
    assert (found is None) == (why is None)
    assert why is None or why in found
    assert made == xtuner.render_config(told if why is None else {**told, "tokens_path": ""}, own.root)


def test_a_template_that_knows_no_tokens_makes_them(own):
    own("a = {{ data_path | py }}\n")
    assert xtuner.makes_tokens("mine", own.root) == "templates/xtuner/mine.py.jinja names no tokens_path"
    assert [xtuner.makes_tokens(name, own.root) for name in ("full", "lora", "qlora")] == [None] * 3


def test_what_it_includes_and_imports_counts_as_a_source(own):
    own('{% include "xtuner/a.py.jinja" %}\n{%- from "macros.jinja" import rate %}\nlr = {{ rate(train) }}\n')
    own("a = 1\n{# {% include 'xtuner/not_this.py.jinja' %} #}\n", name="a")
    (own.root / "templates" / "macros.jinja").write_text("{% macro rate(t) %}{{ t.lr }}{% endmacro %}")
    files = xtuner.config_sources("mine", own.root)
    assert files == ["templates/xtuner/mine.py.jinja", "templates/xtuner/a.py.jinja", "templates/macros.jinja"]
    assert own.render(lr=0.25) == "a = 1\nlr = 0.25\n"


def test_a_template_that_a_value_names_is_refused_for_it_could_not_be_followed(own):
    own("a = 1\n{% include train.method ~ '.jinja' %}\n")
    assert told(own) == (
        "templates/xtuner/mine.py.jinja:2:1: include of what only a value names; expected a name in quotes"
    )
    own("a = 1\n{% include 'xtuner/' ~ train.method ~ '.py.jinja' %}\n")
    assert told(own).startswith("templates/xtuner/mine.py.jinja:2:1: names a template that is not there: xtuner/lora")


def test_a_file_outside_of_templates_is_no_template(own):
    (own.root / "secret").write_text("secret = 1\n")
    own('{% include "../secret" %}\n')
    assert "names a template that is not there: ../secret" in told(own)


def test_names_that_are_none_are_told(own):
    own("a = 1\n")
    assert told(own, "loar") == 'templates/xtuner/loar.py.jinja: no such file; did you mean "lora"?'
    own('\n{% extends "xtuner/mine.py.jinja" %}\n')
    assert told(own).startswith("templates/xtuner/mine.py.jinja:2:1: extends itself; give it a name of its own")


def test_a_template_of_another_method_is_refused():
    with pytest.raises(InputError) as error:
        xtuner.config_template({"method": "lora", "template": "full"})
    assert str(error.value) == "train.template: the template of another method; expected lora, got full"


def test_an_undefined_name_is_told_with_template_line_and_name(own):
    own("a = 1\n\nlr = {{ train.nothing }}\n")
    assert told(own) == "templates/xtuner/mine.py.jinja:3:1: 'dict object' has no attribute 'nothing'"
    own("a = 1\n{% include 'xtuner/part.py.jinja' %}\n")
    own("b = 1\nc = {{ learning_rate }}\n", name="part")
    assert told(own) == "templates/xtuner/part.py.jinja:2:1: 'learning_rate' is undefined"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a = 1\nlr = {% if %}\n", ":2:1: Expected an expression, got 'end of statement block'"),
        ("a = 1\nlr = {{ 1 / 0 }}\n", ":2:1: ZeroDivisionError: division by zero"),
        ("\n{{ ''.__class__.__mro__ }}\n", ":2:1: access to attribute '__class__' of 'str' object is unsafe."),
        ("a = 1\nlr = = 3\n", ":2:1: gives Python that does not parse: invalid syntax; got lr = = 3"),
        ("{% if true %}\na = (\n{% endif %}\n", ":2:1: gives Python that does not parse: '(' was never closed"),
        ("a = '\0'\n", ":1:1: gives Python that does not parse: source code string cannot contain null bytes"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line_and_nothing_is_written(own, text, fault):
    own(text)
    assert told(own).startswith(f"templates/xtuner/mine.py.jinja{fault}")


def test_python_that_does_not_parse_is_placed_in_the_template_that_it_comes_from(own):
    own("a = 1\n{% for n in [1, 2, 3] %}\nb{{ n }} = {{ n }}\n{% endfor %}\n{% include 'xtuner/part.py.jinja' %}\n")
    own(
        "{# one\ntwo #}\nc = 1\n{% if train.lr %}\nd = {{ train.schedule }} {{ train.method }}\n{% endif %}\n",
        name="part",
    )
    assert told(own) == (
        "templates/xtuner/part.py.jinja:5:1: gives Python that does not parse: invalid syntax; got d = cosine lora"
    )
    own('{% extends "xtuner/lora.py.jinja" %}\n\n{% block runtime %}\n{{ super() }}\nx = = 1\n{% endblock %}\n')
    assert told(own).startswith("templates/xtuner/mine.py.jinja:5:1: gives Python")


def test_finding_what_a_template_is_made_of_needs_no_jinja(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tunemake.engines import xtuner;"
        "xtuner.config_sources('qlora', Path.cwd()); xtuner.own_values('xtuner:internlm2_1_8b_qlora_alpaca_e3');"
        "print('jinja2' in sys.modules, 'xtuner' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_page_names_every_block_there_is():
    root = Path(__file__).parents[3]
    page = (root / "docs" / "templates.md").read_text("utf-8")
    blocks = re.findall(r"\{% block (\w+) %\}", (root / "templates" / "xtuner" / "base.py.jinja").read_text("utf-8"))
    assert len(blocks) == len(set(blocks)) == 9
    assert all(f"`{name}`" in page for name in blocks)
    example = page.split("```jinja\n")[1].split("```")[0]
    assert 'extends "xtuner/lora.py.jinja"' in example
