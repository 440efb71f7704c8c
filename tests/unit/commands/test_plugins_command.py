"""tunemake plugins: probes are listed, shown and checked as generators and prompt templates are."""

import json

import pytest

from tunemake.commands.plugins import list_plugins, show_plugin

PROBE = """
class Loud:
    summary, version, unit, needs = "how loud", "1", "shouts", ["questions", "base"]
    parameters = {"type": "object", "properties": {"least": {"type": "integer", "default": 3, "description": "shouts"}}}

    def score(self, parameters, model):
        return parameters["least"]
"""
PROJECT = """
plugins = ["mine.py"]

[project]
name = "tiny"

[model]
source = "models/tiny"
prompt_template = "chatml"

[datasets.identity]
generator = "self_cognition"
parameters = { name = "Xiaomu", author = "a tester", samples = 4 }

[train]
steps = 2
"""
EVALUATED = '\n[[evaluate.probe]]\nname = "x"\nkind = "loud"\nprompts = ["?"]\n'
STOPPED = '\n[[train.early_stop.probe]]\nname = "x"\nkind = "loud"\nprompts = ["?"]\nat_least = 1\n'


@pytest.fixture
def project(tmp_path):
    (tmp_path / "mine.py").write_text(PROBE)
    (tmp_path / "project.toml").write_text(PROJECT)
    return tmp_path


def test_probes_are_listed_with_their_summaries(project):
    lines = list_plugins(project, check=True, machine=False).lines
    probes = lines[lines.index("probes (tunemake.probes)") :]
    assert "  loud           mine.py         how loud" in probes
    assert any(line.startswith("  contains ") for line in probes)
    rows = json.loads(list_plugins(project, check=False, machine=True).lines[0])
    assert {"name": "loud", "group": "tunemake.probes", "origin": "mine.py"} in rows


def test_a_probe_is_shown_with_unit_needs_and_parameters(project):
    assert show_plugin(project, "loud", machine=False).lines == [
        "probe loud (mine.py)",
        "  how loud",
        "  version 1; gives shouts; needs questions, base",
        "  name   type          default  description",
        "  least  whole number  3        shouts",
    ]
    (told,) = json.loads(show_plugin(project, "loud", machine=True).lines[0])
    assert (told["unit"], told["needs"]) == ("shouts", ["questions", "base"])


@pytest.mark.parametrize("used", ["", EVALUATED, STOPPED])
def test_a_broken_probe_is_a_fault_only_where_the_project_uses_it(project, used):
    (project / "mine.py").write_text(PROBE.replace('"shouts", [', '"shouts", ["loudness", '))
    (project / "project.toml").write_text(PROJECT + used)
    listing = list_plugins(project, check=True, machine=False)
    told = "probe loud (mine.py): needs: not known; expected a list of "
    assert [str(fault).startswith(told) for fault in listing.faults] == [True] * bool(used)
    assert [line.startswith(f"warning: {told}") for line in listing.warnings] == [True] * (not used)
