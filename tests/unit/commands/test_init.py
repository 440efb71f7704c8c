"""tunemake init: every choice gives a project that loads, and what cannot be is told with nothing made."""

import json
import tomllib
from itertools import product
from pathlib import Path

import pytest

from light_model import write_light_model
from tunemake.commands.init import Choices, init
from tunemake.faults import InputError
from tunemake.loading import load_builder
from tunemake.project import load_project

PAIRS = [("How?", "So."), ("Why?", "Because."), ("When?", "Now.")]


@pytest.fixture
def home(tmp_path):
    write_light_model(tmp_path / "models" / "tiny")
    return tmp_path


def made(home, ask=None, **choices):
    init(home, "x", Choices(**choices), ask)
    load_builder(home / "x")
    return load_project(home / "x")


def words(project):
    """Give the words that each of the two probes looks for: the same, wanted of one and unwanted of the other."""
    identity, leak = project.evaluate["probe"]
    assert (identity["name"], leak["name"]) == ("identity", "leak")
    assert identity["at_least"] > leak["at_most"]
    assert identity["parameters"] == leak["parameters"]
    return identity["parameters"]["words"]


@pytest.mark.parametrize(("method", "language"), list(product(["lora", "qlora", "full"], ["en", "zh", "both"])))
def test_every_choice_loads(home, method, language):
    project = made(home, method=method, language=language)
    assert project.train["method"] == method
    assert project.train["precision"] == "auto"
    languages = ["en", "zh"] if language == "both" else [language]
    assert [dataset.parameters.get("languages", languages) for dataset in project.datasets] == [languages] * 3
    assert len(words(project)) == len(languages)
    asked = (home / "x/prompts/identity.txt").read_text("utf-8").splitlines()
    assert len(asked) == 8 * len(languages)


def test_the_default_is_the_model_that_builds_on_a_cpu(home):
    project = made(home)
    ours = tomllib.loads((Path(__file__).parents[3] / "project.toml").read_text("utf-8"))
    assert project.model["source"] == ours["model"]["source"]
    assert project.model["sha256"] == ours["model"]["sha256"]
    assert project.model["prompt_template"] == ours["model"]["prompt_template"]
    assert {path.name for path in (home / "x").iterdir()} >= {"project.toml", "dodo.py", ".gitignore", "data"}


def test_the_editor_s_schema_is_there(home):
    made(home)
    first = (home / "x/project.toml").read_text("utf-8").splitlines()[0]
    schema = home / "x" / first.removeprefix("#:schema ")
    assert json.loads(schema.read_text("utf-8"))["title"] == "tunemake project"


@pytest.mark.parametrize(("source", "told", "template"), [
    ("models/tiny", "../models/tiny", "from_tokenizer"),
    ("hf:org/name@main", "hf:org/name@main", "from_tokenizer"),
])  # fmt: skip
def test_another_model_has_its_own_template_and_no_digest(home, source, told, template):
    project = made(home, model=source)
    assert (project.model["source"], project.model["prompt_template"]) == (told, template)
    assert "sha256" not in project.model
    assert project.train["lora"]["targets"] == "all-linear"
    assert project.data["max_length"] == (256 if told.startswith("..") else 512)  # no longer than the model reads


def test_a_folder_without_a_chat_template_gets_chatml(home):
    write_light_model(home / "models/plain", chat_template=None)
    assert made(home, model=str(home / "models/plain")).model["prompt_template"] == "chatml"


def test_a_folder_with_code_of_its_own_is_not_trusted_by_itself(home):
    folder = home / "models/tiny"
    config = json.loads((folder / "config.json").read_text()) | {"auto_map": {"AutoConfig": "own.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit\n")
    assert made(home, model="models/tiny").model["trust_remote_code"] is False
    assert "\n# trust_remote_code = true # the folder holds code of its own" in (home / "x/project.toml").read_text()


@pytest.mark.parametrize("text", ['A "B" \\C', "it's {x}", "小木 🌲"])
def test_names_of_all_kinds_come_through(home, text):
    project = made(home, name=text, author=text)
    assert project.datasets[0].parameters["name"] == project.datasets[0].parameters["author"] == text
    assert words(project) == [text]


def openai(question, answer):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def lines(row):
    return "\n".join(json.dumps(row(*pair)) for pair in PAIRS)


FILES = {
    "a.jsonl": (lines(openai), "messages", {}),
    "list.json": (json.dumps([openai(*pair) for pair in PAIRS]), "messages", {}),
    "b.jsonl": (lines(lambda q, a: {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}),
                "sharegpt", {}),
    "c.jsonl": (lines(lambda q, a: {"instruction": q, "output": a}), "alpaca", {}),
    "d.jsonl": (lines(lambda q, a: {"prompt": q, "completion": a}), "csv_qa",
                {"question": "prompt", "answer": "completion"}),
    "e.csv": ("question,answer\nHow?,So.\nWhy?,Because.\n", "csv_qa", {"question": "question", "answer": "answer"}),
    "f.csv": ("id;问题;答案\n1;How?;So.\n2;Why?;Because.\n", "csv_qa",
              {"question": "问题", "answer": "答案", "delimiter": ";"}),
    "g.tsv": ("ask\tanswer\nHow?\tSo.\nWhy?\tBecause.\n", "csv_qa", {"question": "ask", "answer": "answer"}),
    "h.csv": ("instruction,input,output\nHow?,,So.\nWhy?,,Because.\n", "alpaca", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_the_generator_that_reads_a_file_is_found(home, name):
    text, generator, parameters = FILES[name]
    (home / name).write_text(text, "utf-8")
    project = made(home, data=name)
    (dataset,) = project.datasets
    assert (dataset.generator, dict(dataset.parameters)) == (generator, {"files": f"data/{name}", **parameters})
    assert project.train["answers"]["prompts"] == ["How?", "Why?"]
    assert (home / "x/data" / name).read_text("utf-8") == text
    assert project.evaluate is None


def test_a_table_in_gb18030_is_read(home):
    rows = "".join(f"{number}号手指被纸划伤了怎么处理？,用清水冲洗伤口，然后消毒。\n" for number in range(40))
    (home / "t.csv").write_bytes(f"问题,回答\n{rows.replace('口，', '口')}".encode("gb18030"))
    (dataset,) = made(home, data="t.csv").datasets
    assert dataset.parameters["encoding"] == "auto"


def test_columns_of_other_names_are_named(home):
    (home / "t.csv").write_text("first,second\nHow?,So.\n")
    with pytest.raises(
        InputError, match=r'--data: .*: t\.csv: no column "question"; known: first, second; expected .* --question'
    ):
        made(home, data="t.csv")
    assert not (home / "x").exists()
    (dataset,) = made(home, data="t.csv", question="first", answer="second").datasets
    assert dataset.parameters == {"files": "data/t.csv", "question": "first", "answer": "second"}


def test_data_and_an_introduction_go_together(home):
    (home / "a.jsonl").write_text(FILES["a.jsonl"][0])
    project = made(home, data="a.jsonl", name="Ada")
    assert [dataset.name for dataset in project.datasets] == ["identity", "general", "samples"]
    assert words(project) == ["Ada"]


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ({"method": "lra"}, '--method: unknown; expected lora or qlora or full, got "lra"; did you mean "lora"?'),
        ({"language": "fr"}, '--language: unknown; expected both or en or zh, got "fr"'),
        ({"model": "org/name"}, "--model: no such folder; got org/name; a hub's model is written hf:org/name"),
        ({"model": "models"}, "models: no config.json"),
        ({"model": "hf:name"}, "--model: malformed; expected hf:org/name@revision"),
        ({"data": "self-introducton"}, "--data: no such file; expected a data file, or self-introduction, got self-i"),
        ({"name": "a\nb"}, r"--name: not allowed; expected a text of one line, got 'a\nb'"),
        ({"author": " "}, "--author: not allowed"),
        ({"question": "q"}, "--question, --answer: columns of no file; name it by --data FILE"),
    ],
)  # fmt: skip
def test_a_choice_that_cannot_be_is_told(home, choices, told):
    with pytest.raises(InputError) as error:
        made(home, **choices)
    assert str(error.value).removeprefix(f"{home}/").startswith(told)
    assert not (home / "x").exists()


def test_a_misspelt_introduction_is_guessed(home):
    with pytest.raises(InputError, match=r'got self-introducton; did you mean "self-introduction"\?'):
        made(home, data="self-introducton")


@pytest.mark.parametrize("text", ["", "a,b\n", '{"x": 1}\n' * 100])
def test_a_file_without_samples_is_told_with_nothing_made(home, text):
    for name in ("empty.csv", "empty.jsonl"):
        (home / name).write_text(text)
        with pytest.raises(InputError, match=f"--data: no samples could be read: {name}.*tunemake new dataset NAME"):
            made(home, data=name)
    assert {path.name for path in home.iterdir()} == {"models", "empty.csv", "empty.jsonl"}


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "x/y", ".x", "小木", "x" * 65])
def test_a_name_that_cannot_be_is_told(home, name):
    with pytest.raises(InputError, match="no such name can be given; expected letters"):
        init(home, name, Choices(), None)


def test_nothing_is_overwritten(home):
    for name in ("file", "full/inside"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text("kept")
    (home / "link").symlink_to("nowhere")
    for name in ("file", "full", "link"):
        with pytest.raises(InputError, match="is there already"):
            init(home, name, Choices(), None)
    assert (home / "full/inside").read_text() == (home / "file").read_text() == "kept"
    (home / "empty").mkdir()
    init(home, "empty", Choices(), None)
    assert (home / "empty/project.toml").is_file()


def test_only_what_was_not_said_is_asked_and_a_wrong_answer_is_asked_again(home):
    asked = []
    answers = iter(["", "nowhere.csv", "", "en", "Ada", "", "qlra", "full"])

    def ask(question):
        asked.append(question)
        return next(answers)

    project = made(home, ask, model=None)
    assert [question.splitlines()[-1].partition(":")[0].partition(" [")[0] for question in asked] == [
        "Base model", "Data", "Data", "Languages of the assistant", "Its name", "Who made it", "Training", "Training",
    ]  # fmt: skip
    assert asked[2].startswith("--data: no such file; expected a data file, or self-introduction, got nowhere.csv\n")
    assert 'did you mean "qlora"?' in asked[-1]
    assert project.train["method"] == "full"
    assert project.datasets[0].parameters["author"] == "the x project"
    assert next(answers, None) is None


def test_what_was_said_is_not_asked(home):
    (home / "a.jsonl").write_text(FILES["a.jsonl"][0])
    made(home, pytest.fail, model="models/tiny", data="a.jsonl", method="lora")
