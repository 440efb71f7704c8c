"""A copied training template is one file, which renders what the copied one does."""

import pytest
from test_config_templates import own  # noqa: F401 - a fixture
from test_xtuner import values

from tunemake.commands.template_copy import flat
from tunemake.engines import config_templates, xtuner
from tunemake.faults import InputError


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize(
    "train",
    [
        {},
        {"precision": "float16", "schedule": "linear"},
        {"precision": "bfloat16", "schedule": "constant", "warmup": 0},
    ],
)
def test_a_copy_renders_the_same(own, method, train):  # noqa: F811
    own(flat(f"xtuner/{method}.py.jinja", own.root))
    assert config_templates.template_files("mine", own.root) == ["xtuner/mine.py.jinja"]
    given = values(template=method, method=method, **train)
    for told in (given, {**given, "tokens_path": ""}):
        assert xtuner.render_config({**told, "template": "mine"}, own.root) == xtuner.render_config(told, own.root)


def test_a_copy_of_one_s_own_holds_its_blocks(own):  # noqa: F811
    own(
        '{# mine #}\n{% extends "xtuner/qlora.py.jinja" %}\n{% block weights %}\n{{ super() }}{{- super() }}\n'
        '{% endblock %}{% block optimizer %}\nlr = 1\n{% endblock %}{% block nowhere %}{% endblock %}\n'
    )  # fmt: skip
    expected = own.render("mine", method="qlora")
    assert expected.count("BitsAndBytesConfig,") == 2
    own(flat("xtuner/mine.py.jinja", own.root), name="copy")
    assert own.render("copy", method="qlora") == expected


def test_what_stands_beside_blocks_is_refused(own):  # noqa: F811
    own(
        '{% extends "xtuner/lora.py.jinja" %}\n{% set lr = 3 %}\n{% block optimizer %}\nlr = {{ lr }}\n{% endblock %}\n'
    )
    with pytest.raises(InputError, match=r"mine\.py\.jinja: has more than blocks; copy its file by hand"):
        flat("xtuner/mine.py.jinja", own.root)
