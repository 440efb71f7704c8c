"""A stranger's plugins: a package of its own builds a project; `tunemake plugins` tells what there is."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tunemake.prompts import text_of
from tunemake.schema import load_schema, with_defaults

EXAMPLE = Path(__file__).parents[1] / "example_plugin"
IDENTITY = """\
generator = "self_cognition"
parameters = { name = "Xiaomu", author = "a tester", samples = 24, languages = ["en"] }
"""
HOURS = 'generator = "opening_hours"\nparameters = { file = "hours.txt" }\non_bad = "skip"\n'


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The example's package, installed away from the environment that all tests share."""
    source, site = tmp_path_factory.mktemp("source") / "p", tmp_path_factory.mktemp("site")
    shutil.copytree(EXAMPLE, source)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return site


@pytest.mark.train
def test_a_package_brings_a_generator_a_prompt_template_and_a_probe(site, project):
    project.write("hours.txt", "Monday 8-12\nTuesday\nWednesday 9-17\n" + "Thursday 10-11\n" * 10)
    project.edit(IDENTITY, HOURS)
    project.edit("[datasets.identity]", "[datasets.hours]")
    project.edit('"chatml"', '"front_desk"')
    asked = 'name = "hours"\nkind = "tells_hours"\nprompts = ["When is the clinic open on a Sunday?"]\n'
    project.write("project.toml", f"{(project.root / 'project.toml').read_text()}\n[[evaluate.probe]]\n{asked}")
    done = project.doit(PYTHONPATH=str(site))
    assert done.code == 0, done.told()
    hours = project.root / "build/default/datasets/hours"
    samples = [json.loads(line) for line in (hours / "samples.jsonl").read_text("utf-8").splitlines()]
    assert samples[1]["messages"][1]["content"] == "On Wednesday the clinic is open 9-17."
    rejected = [json.loads(line) for line in (hours / "rejects.jsonl").read_text("utf-8").splitlines()]
    assert rejected == [{"reasons": ["datasets.hours: hours.txt:2: no hours"], "row": "Tuesday"}]
    facts = project.record("default/datasets/hours")["facts"]
    assert (facts["samples"], facts["rejected"]) == (12, 1)

    scores = json.loads((project.root / "build/default/evaluation/scores.json").read_text())["probes"]
    assert [(one["name"], one["kind"], one["prompts"]) for one in scores][2:] == [("hours", "tells_hours", 1)]
    assert scores[2]["merged"] == 0
    assert shown(project, "tells_hours", site)["needs"] == ["questions"]

    template = shown(project, "front_desk", site)["values"]
    filled = with_defaults({"summary": "", **template}, load_schema("prompt_template.schema.json"))
    assert text_of(filled, samples[0]["messages"][:1]) == "Visitor: When is the clinic open on Monday?\nFront desk: "
    trained = (project.root / "build/default/config/train.py").read_text("utf-8")
    assert "Visitor: {input}\\nFront desk: " in trained

    again = project.doit(PYTHONPATH=str(site))
    assert again.ran == []
    assert "\n.  " not in again.out
    code = site / "clinic_plugin/hours.py"
    code.write_text(code.read_text("utf-8") + "\n# a change of the plugin's code\n", "utf-8")
    assert "clinic_plugin/hours.py code changed" in project.doit("dataset:hours", PYTHONPATH=str(site)).why(
        "dataset:hours"
    )


def shown(project, name, site):
    done = project.run("tunemake", "plugins", name, "--json", PYTHONPATH=str(site))
    assert done.code == 0, done.told()
    (one,) = json.loads(done.out)
    return one


def test_a_generator_is_shown_with_its_parameters(site, project):
    done = project.run("tunemake", "plugins", "opening_hours", PYTHONPATH=str(site))
    assert done.out.splitlines() == [
        "dataset generator opening_hours (clinic-plugin 1.0)",
        "  questions about opening hours, from a file of lines such as: Monday 8-12",
        "  version 1",
        "  name   type  default       description",
        "  file   text  (required)    a text file, UTF-8",
        '  place  text  "the clinic"  what is open',
    ]
    told = shown(project, "opening_hours", site)
    assert (told["group"], told["origin"], told["needs"]) == ("tunemake.datasets", "clinic-plugin 1.0", [])


def test_the_list_names_every_plugin_and_where_it_comes_from(site, project):
    project.write("mine.py", OWN)
    project.edit("[project]", 'plugins = ["mine.py"]\n[project]')
    listed = json.loads(project.run("tunemake", "plugins", "--json", PYTHONPATH=str(site)).out)
    origins = {(row["group"], row["name"]): row["origin"] for row in listed}
    assert origins["tunemake.datasets", "opening_hours"] == "clinic-plugin 1.0"
    assert origins["tunemake.prompts", "front_desk"] == "clinic-plugin 1.0"
    assert origins["tunemake.probes", "tells_hours"] == "clinic-plugin 1.0"
    assert origins["tunemake.datasets", "csv_qa"].startswith("tunemake ")
    assert origins["tunemake.datasets", "ones_own"] == "mine.py"


OWN = """
class OnesOwn:
    summary, version, parameters = "the project's own", "1", {"type": "object"}

    def samples(self, parameters, context):
        yield from ()
"""


def install(folder, distribution, module, code, entries):
    """Put a distribution on a folder as pip would: a module and its metadata."""
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entries)


@pytest.fixture
def broken(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    code = "raise RuntimeError('imported')"
    install(folder, "broken", "broken_module", code, "[tunemake.datasets]\nlost = broken_module:Lost\n")
    return folder


def test_a_broken_plugin_is_no_hindrance_where_it_is_not_used(broken, project):
    listed = project.run("tunemake", "plugins", PYTHONPATH=str(broken))
    assert (listed.code, listed.err) == (0, "")
    assert "  lost            broken 1.0" in listed.out
    checked = project.run("tunemake", "plugins", "--check", PYTHONPATH=str(broken))
    told = "dataset generator lost (broken 1.0): cannot be imported: RuntimeError: imported"
    assert checked.code == 0
    assert f"warning: {told}" in checked.err.splitlines()
    assert "the assistant says who it is" in checked.out
    assert project.doit("dataset:identity", PYTHONPATH=str(broken)).code == 0


def test_a_broken_plugin_is_a_fault_where_the_project_uses_it(broken, project):
    project.edit(IDENTITY, 'generator = "lost"\n')
    checked = project.run("tunemake", "plugins", "--check", PYTHONPATH=str(broken))
    told = "dataset generator lost (broken 1.0): cannot be imported: RuntimeError: imported"
    assert checked.code == 2
    assert told in checked.err.splitlines()
    shown = project.run("tunemake", "plugins", "lost", PYTHONPATH=str(broken))
    assert (shown.code, shown.err) == (2, told + "\n")
    built = project.doit(PYTHONPATH=str(broken))
    assert built.code != 0
    assert told in built.told()


def test_a_broken_file_of_the_project_is_told_beside_the_list(project):
    project.write("mine.py", "def x(:\n")
    project.edit("[project]", 'plugins = ["mine.py", "nowhere.py"]\n[project]')
    listed = project.run("tunemake", "plugins")
    assert listed.code == 2
    assert listed.err.splitlines() == [
        "mine.py:1: cannot be imported: SyntaxError: invalid syntax",
        "nowhere.py: no such file",
    ]
    assert "  csv_qa " in listed.out


def test_files_of_the_project_may_import_each_other(project):
    project.write("words/__init__.py", "SUMMARY = 'from another file'\n")
    project.write("mine.py", "from words import SUMMARY\n" + OWN.replace('"the project\'s own"', "SUMMARY"))
    project.edit("[project]", 'plugins = ["mine.py"]\n[project]')
    shown = project.run("tunemake", "plugins", "ones_own")
    assert shown.code == 0, shown.told()
    assert "  from another file" in shown.out.splitlines()


def test_two_plugins_of_one_name_are_listed_as_project_toml_chooses_them(tmp_path, project):
    for name in ("one", "two"):
        install(tmp_path, name, f"stranger_{name}", OWN, f"[tunemake.datasets]\nsame = stranger_{name}:OnesOwn\n")
    listed = project.run("tunemake", "plugins", PYTHONPATH=str(tmp_path))
    assert "  one:same        one 1.0" in listed.out
    assert "  two:same        two 1.0" in listed.out
    shown = project.run("tunemake", "plugins", "same", PYTHONPATH=str(tmp_path))
    assert shown.code == 2
    assert shown.err.endswith('choose by "one:same" or "two:same"\n')
    assert "dataset generator two:same (two 1.0)" in project.run(
        "tunemake", "plugins", "two:same", PYTHONPATH=str(tmp_path)
    ).out.splitlines()  # fmt: skip


def test_without_a_project_and_with_a_faulty_one(tmp_path, project):
    project.root = tmp_path
    assert project.run("tunemake", "plugins").code == 0
    assert not (tmp_path / "build").exists()
    unknown = project.run("tunemake", "plugins", "csv_q")
    assert (unknown.code, unknown.err) == (
        2, 'csv_q: no such dataset generator, prompt template or probe; did you mean "csv_qa"?\n',
    )  # fmt: skip
    project.write("project.toml", "[project]\nname = 'x'\n")
    faulty = project.run("tunemake", "plugins", "csv_qa")
    assert faulty.code == 2
    assert "dataset generator csv_qa" in faulty.out
    assert "project.toml:1:1: model: missing" in faulty.err
