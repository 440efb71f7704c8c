"""tunemake init and new, driven as a user drives them: what they make builds, is clean, and is never in the way."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from conftest import BIN, TinyProject

REPOSITORY = Path(__file__).parents[2]
NEXT = "next: cd x && doit" if shutil.which("doit") == str(BIN / "doit") else f"next: cd x && {BIN / 'doit'}"
# Rules that exclude each other, or ask for what only the author can give: a licence, heavier types, a test's words.
NOT_ASKED = "COM812,CPY001,D203,D213,DOC,INP001,ISC001,S101,TC"


@pytest.fixture
def home(tmp_path, tiny_llama):
    """A folder with a tiny model in models/tiny, and no project."""
    made = TinyProject.__new__(TinyProject)
    made.root = tmp_path / "home"
    shutil.copytree(tiny_llama, made.root / "models" / "tiny")
    return made


@pytest.fixture
def begun(home):
    """The project that init makes on the tiny model."""
    return begin(home)


def begin(home, *options):
    done = home.run("tunemake", "init", "x", "--model", "models/tiny", *options)
    assert done.code == 0, done.told()
    assert done.out.splitlines()[-2] == NEXT
    made = TinyProject.__new__(TinyProject)
    made.root = home.root / "x"
    return made


def clean(folder):
    """Say what ruff finds: by its own defaults, and by all rules; and whether the formatter would change anything."""
    command = [BIN / "ruff", "check", "-q", "--no-cache"]
    for options in ([], ["--isolated", "--line-length=120", "--select=ALL", f"--ignore={NOT_ASKED}"]):
        done = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    formatted = [BIN / "ruff", "format", "-q", "--no-cache", "--isolated", "--line-length=120", "--check"]
    return subprocess.run(formatted, cwd=folder, check=False).returncode == 0


def small(project):
    """Make the training a matter of seconds."""
    for old, new in (("samples = 150", "samples = 12"), ("epochs = 3", "steps = 2"), ("every = 40", "every = 2"),
                     ("max_new_tokens = 24", "max_new_tokens = 4"), ("at_least = 0.8", "at_least = 0")):  # fmt: skip
        project.edit(old, new)
    text = (project.root / "project.toml").read_text("utf-8")
    # Of random weights, the base says no whole sentence.
    project.write("project.toml", re.sub(r"\[datasets\.general\].*?\n\n", "", text, flags=re.DOTALL))
    for kind in ("identity", "unrelated"):
        project.write(f"prompts/{kind}.txt", "who are you?\n")


@pytest.mark.train
def test_from_nothing_to_a_merged_model_with_a_dataset_of_one_s_own(begun):
    small(begun)
    made = begun.run("tunemake", "new", "dataset", "my_words")
    assert made.code == 0, made.told()
    assert "next: put your samples into plugins/my_words.py, then doit base dataset:my_words" in made.out
    begun.edit("f'How is \"{word}\" spelt?'", 'f"Spell {word}."', "plugins/my_words.py")
    begun.edit('"window"]', '"树"]')
    done = begun.built()
    assert "dataset:my_words" in done.ran
    assert (begun.root / "build/default/merged/model.safetensors").is_file()
    assert (begun.root / "build/default/evaluation/scores.json").is_file()
    samples = (begun.root / "build/default/datasets/my_words/samples.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["messages"][0]["content"] for line in samples] == [
        "Spell apple.", "Spell river.", "Spell 树.",
    ]  # fmt: skip
    assert begun.built().ran == []


def test_all_that_new_makes_in_a_project_is_clean_and_checked_at_once(begun):
    for what, name in (("dataset", "spelling"), ("prompt", "plain"), ("template", "mine"), ("dataset", "qa2")):
        made = begun.run("tunemake", "new", what, name)
        assert (made.code, "\nnext: " in made.out) == (0, True), made.told()
    begun.edit('prompt_template = "chatml"', 'prompt_template = "plain"')
    begun.edit("[train]\n", '[train]\ntemplate = "mine"\n')
    values = tomllib.loads((begun.root / "project.toml").read_text("utf-8"))
    assert values["plugins"] == ["plugins/spelling.py", "plugins/plain.py", "plugins/qa2.py"]
    assert list(values["datasets"]) == ["identity", "general", "samples", "spelling", "qa2"]
    checked = begun.run("tunemake", "check")
    assert checked.code == 0, checked.told()
    assert "dataset   qa2: 3 samples" in checked.out
    listed = begun.run("tunemake", "plugins", "--check")
    assert (listed.code, listed.err) == (0, "")
    assert re.search(r"^  plain +plugins/plain\.py +headings of plain words$", listed.out, flags=re.MULTILINE)
    assert clean(begun.root)


@pytest.mark.train
def test_a_prompt_template_and_a_training_template_of_one_s_own_train(begun):
    small(begun)
    for what, name in (("prompt", "plain"), ("template", "mine")):
        assert begun.run("tunemake", "new", what, name).code == 0
    begun.edit('prompt_template = "chatml"', 'prompt_template = "plain"')
    begun.edit("[train]\n", '[train]\ntemplate = "mine"\n')
    begun.edit("betas = (0.9, 0.999)", "betas = (0.9, 0.95)", "templates/xtuner/mine.py.jinja")
    begun.built("merge")
    config = (begun.root / "build/default/config/train.py").read_text("utf-8")
    assert "betas = (0.9, 0.95)" in config
    assert "### User:\\n{input}" in config


def test_a_copied_template_changes_nothing_until_it_is_edited(begun):
    begun.built("config")
    before = (begun.root / "build/default/config/train.py").read_text("utf-8")
    assert begun.run("tunemake", "new", "template", "mine").code == 0
    begun.edit("[train]\n", '[train]\ntemplate = "mine"\n')
    begun.built("config")
    assert (begun.root / "build/default/config/train.py").read_text("utf-8") == before


@pytest.mark.parametrize(("what", "name"), [("dataset", "my_words"), ("prompt", "plain")])
def test_a_package_is_clean_tested_installed_and_used(home, what, name):
    made = home.run("tunemake", "new", what, name)
    folder = f"tunemake-{name.replace('_', '-')}"
    assert made.code == 0, made.told()
    assert made.out.startswith("no project here, so it is a package of its own\n")
    assert made.out.endswith(f"next: cd {folder} && pip install -e '.[test]' && pytest\n")
    package = TinyProject.__new__(TinyProject)
    package.root = home.root / folder
    assert clean(package.root)
    tested = package.run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert (tested.code, "1 passed" in tested.out) == (0, True), tested.told()

    site = home.root / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, package.root]
    subprocess.run(install, check=True, capture_output=True)
    project = begin(home)
    shown = project.run("tunemake", "plugins", name, PYTHONPATH=str(site))
    assert shown.code == 0, shown.told()
    assert f"{name} ({folder} 0.1.0)" in shown.out
    use = re.search(r"```toml\n(.*?)```", (package.root / "README.md").read_text("utf-8"), flags=re.DOTALL)[1]
    if what == "dataset":
        project.edit("[data]\n", f"{use}\n[data]\n")
    else:
        project.edit('prompt_template = "chatml"', use.removeprefix("[model]\n").rstrip())
    checked = project.run("tunemake", "check", PYTHONPATH=str(site))
    assert checked.code == 0, checked.told()
    again = project.run("tunemake", "new", what, name, PYTHONPATH=str(site))
    assert (again.code, again.err) == (
        2, (f"{name}: a {'dataset generator' if what == 'dataset' else 'prompt template'} of this name is there "
        f"({folder} 0.1.0); choose another name\n"),
    )  # fmt: skip


def test_a_package_is_made_beside_a_project_on_request(begun):
    assert begun.run("tunemake", "new", "dataset", "words", "--package").code == 0
    assert (begun.root / "tunemake-words/src/tunemake_words/__init__.py").is_file()
    assert "plugins" not in tomllib.loads((begun.root / "project.toml").read_text("utf-8"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("dataset My-Words", ('My-Words: no such name can be given; expected words of two or more small letters and '
         'digits, with _ between them, such as my_data; did you mean "my_words"?')),
        ("dataset a_b", "a_b: no such name can be given"),
        ("dataset ../x", "../x: no such name can be given"),
        ("dataset class", "class: a word of Python's own; choose another name"),
        ("dataset csv_qa", "csv_qa: a dataset generator of this name is there (tunemake 0.1.0); choose another name"),
        ("dataset samples", "samples: project.toml has a dataset of this name; choose another name"),
        ("prompt chatml", "chatml: a prompt template of this name is there (tunemake 0.1.0); choose another name"),
        ("prompt taken", "plugins/taken.py: the file is there already; choose another name"),
        ("template lora", "lora: a training template of this name is there; choose another"),
        ("template a/b", ("a/b: no such name can be given; expected letters, digits, dot, dash and underscore; "
         'did you mean "a-b"?')),
        ("template mine --from qlra", ('--from: unknown; expected full or lora or qlora, got "qlra"; '
         'did you mean "qlora"?')),
        ("template mine --package", "--package: a training template lies in a project; leave it out"),
        ("prompt mine --from lora", "--from: a prompt is no copy; leave it out"),
        ("dataset builtins --package", "builtins: a package tunemake-builtins is installed; choose another name"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_told_and_nothing_is_changed(begun, arguments, told):
    begun.write("plugins/taken.py", "")
    before = {path: path.read_bytes() for path in begun.root.rglob("*") if path.is_file()}
    done = begun.run("tunemake", "new", *arguments.split())
    assert (done.code, done.out, done.err.startswith(told), done.err.count("\n")) == (2, "", True, 1), done.told()
    made = {path for path in begun.root.rglob("*") if path.is_file() and "build" not in path.parts}
    assert made == set(before)
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_template_needs_a_project_and_a_project_that_is_wrong_is_told(home):
    done = home.run("tunemake", "new", "template", "mine")
    assert (done.code, "project.toml: not found; expected a project file in this folder" in done.err) == (2, True)
    home.write("project.toml", "[project]\nname = 1\n")
    done = home.run("tunemake", "new", "dataset", "words")
    assert (done.code, "project.toml:2:1: project.name" in done.err) == (2, True)
    assert not (home.root / "plugins").exists()


def test_init_tells_what_cannot_be(home):
    done = home.run("tunemake", "init", "my project", "--model", "models/tiny")
    assert (done.code, done.err) == (
        2,
        (
            "my project: no such name can be given; expected letters, digits, dot, dash and underscore; "
            'did you mean "my-project"?\n'
        ),
    )
    home.write("x/notes.txt", "mine")
    done = home.run("tunemake", "init", "x")
    assert (done.code, done.err) == (
        2, "x: the folder is there already, and is not empty; choose another name; nothing was changed\n",
    )  # fmt: skip
    assert [path.name for path in (home.root / "x").iterdir()] == ["notes.txt"]


def test_questions_are_asked_at_a_terminal_only(home):
    answers = "models/tiny\n\nen\nAda\n\n\n"
    told, code = at_a_terminal(home, ["init", "x"], answers)
    assert code == 0, told
    assert "Base model: a folder, hf:org/name" in told
    assert NEXT in told
    values = tomllib.loads((home.root / "x/project.toml").read_text("utf-8"))
    assert values["model"]["source"] == "../models/tiny"
    assert values["datasets"]["identity"]["parameters"]["name"] == "Ada"
    told, code = at_a_terminal(home, ["init", "y", "--yes"], "")
    assert (code, "?" in told) == (0, False), told
    told, code = at_a_terminal(home, ["init", "z"], "\x04")
    assert code == 2
    assert "init: no answer, so nothing was made; --yes takes the defaults" in told
    assert not (home.root / "z").exists()


def at_a_terminal(home, arguments, typed):
    ours, theirs = pty.openpty()
    os.write(ours, typed.encode())
    command = [BIN / "tunemake", *arguments]
    done = subprocess.run(command, cwd=home.root, stdin=theirs, capture_output=True, text=True, check=False, timeout=60)
    os.close(ours)
    os.close(theirs)
    return done.stdout + done.stderr, done.returncode


@pytest.mark.nightly
def test_the_default_project_learns_who_it_is(tmp_path):
    home = TinyProject.__new__(TinyProject)
    home.root = tmp_path
    assert home.run("tunemake", "init", "x").code == 0
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([BIN / "doit"], cwd=tmp_path / "x", env=environment, capture_output=True, text=True,
                          check=False, stdin=subprocess.DEVNULL, timeout=1800)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    scores = json.loads((tmp_path / "x/build/default/evaluation/scores.json").read_text())
    identity, leak = scores["probes"]
    assert identity["base"] == 0
    # Measured 0.94 and 0.08; of 16 and 24 prompts one is 0.06 and 0.04, and the project's own name is trained too.
    assert identity["merged"] >= 0.8
    assert leak["merged"] <= 0.15
