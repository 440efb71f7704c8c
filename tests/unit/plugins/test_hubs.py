import json
import sys
from itertools import islice
from pathlib import Path

import pytest
from reading import Read, fault

from tunemake.contracts import Context
from tunemake_builtins.hubs import HuggingFace, ModelScope


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, tmp_path):
    pytest.importorskip("datasets")
    from datasets import config
    from huggingface_hub import constants
    from huggingface_hub.utils import reset_sessions

    # Read when the package is imported: that must have been before, or it stays so for all tests that follow.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    yield
    reset_sessions()  # the client keeps one that refuses all


def rows(count, **more):
    return [{"messages": [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": "a"}], **more}
            for number in range(count)]  # fmt: skip


def folder(tmp_path, **files):
    (tmp_path / "d").mkdir()
    for name, lines in files.items():
        (tmp_path / "d" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"path": "d"}


@pytest.mark.parametrize("generator", [HuggingFace, ModelScope])
def test_a_folder_with_splits(tmp_path, generator):
    told = folder(tmp_path, train=rows(5, id=1), test=[*rows(1), {"messages": []}])
    made = Read(generator(), tmp_path, told)
    assert [asked for asked, _ in made.pairs] == ["q0", "q1", "q2", "q3", "q4"]
    assert made.said == ["messages: ignored keys: id (5)"]
    made = Read(generator(), tmp_path, told | {"split": "test"})
    assert (made.pairs, made.bad) == ([("q0", "a")], ["d/test.jsonl:2: no turns"])
    assert 'no split "tset"; did you mean "test"?' in fault(generator(), tmp_path, told | {"split": "tset"})


def test_subsets_of_the_card_and_formats(tmp_path):
    (tmp_path / "d" / "qa").mkdir(parents=True)
    card = (
        "---\nconfigs:\n- config_name: qa\n  data_files: qa/*.csv\n- config_name: talk\n  data_files: talk.jsonl\n---\n"
    )
    (tmp_path / "d" / "README.md").write_text(card)
    (tmp_path / "d" / "qa" / "1.csv").write_text("q,a\nx,1\n,2\n")
    (tmp_path / "d" / "talk.jsonl").write_text(json.dumps(rows(1)[0]))
    told = {"path": "d", "subset": "qa", "format": "qa", "question": "q", "answer": "a"}
    made = Read(HuggingFace(), tmp_path, told)
    assert (made.pairs, made.bad) == ([("x", "1")], ["d/qa/1.csv:3: q: empty"])
    assert Read(HuggingFace(), tmp_path, {"path": "d", "subset": "talk"}).pairs == [("q0", "a")]
    assert fault(HuggingFace(), tmp_path, told | {"question": "b"}) == 'd/qa/1.csv: no column "b"; known: q, a'
    assert "'zz' not found. Available: ['qa', 'talk']" in fault(HuggingFace(), tmp_path, told | {"subset": "zz"})


def test_what_the_card_says_of_a_table(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "README.md").write_text(
        "---\nconfigs:\n- config_name: x\n  data_files: a.csv\n  sep: ;\n  encoding: gb18030\n---\n"
    )
    (tmp_path / "d" / "a.csv").write_bytes("question;answer\n问;答\n".encode("gb18030"))
    assert Read(HuggingFace(), tmp_path, {"path": "d", "format": "qa"}).pairs == [("问", "答")]


def test_a_script_never_runs_and_files_elsewhere_are_not_read(tmp_path):
    told = folder(tmp_path, train=rows(1))
    (tmp_path / "d" / "d.py").write_text("open('ran', 'w')\nraise SystemExit\n")
    assert "scripts" in fault(HuggingFace(), tmp_path, told)
    assert not Path("ran").exists()
    (tmp_path / "d" / "d.py").unlink()
    (tmp_path / "secret.jsonl").write_text(json.dumps(rows(1)[0]))
    for place in (f"{tmp_path}/secret.jsonl", "../secret.jsonl"):
        card = f"---\nconfigs:\n- config_name: x\n  data_files: {place}\n---\n"
        (tmp_path / "d" / "README.md").write_text(card)
        assert "its card names a file outside of it" in fault(HuggingFace(), tmp_path, told)


def test_broken_rows_and_foreign_kinds(tmp_path):
    told = folder(tmp_path, train=[*rows(1), 5, *rows(1)])
    made = Read(HuggingFace(), tmp_path, told)
    assert (len(made.samples), made.bad) == (2, ["d/train.jsonl:2: a number where an object is expected"])
    (tmp_path / "d" / "train.jsonl").rename(tmp_path / "d" / "train.tar")
    assert "d/train.tar: unknown kind of file; expected" in fault(HuggingFace(), tmp_path, told)


def test_without_network_or_package(tmp_path, monkeypatch):
    told = fault(HuggingFace(), tmp_path, {"path": "org/name", "revision": "abc"})
    assert told.startswith("org/name: cannot be opened: Couldn't reach 'org/name' on the Hub")
    assert told.endswith('"hf download --repo-type dataset org/name --local-dir data/name" and set path = "data/name"')
    told = fault(HuggingFace(), tmp_path, {"path": "data/my/set"})
    assert told == "data/my/set: neither a folder nor a dataset of a hub (org/name)"
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "modelscope", None)
    assert "org/name: needs the package datasets; run " in fault(HuggingFace(), tmp_path, {"path": "org/name"})
    assert "org/name: needs the package modelscope; run " in fault(ModelScope(), tmp_path, {"path": "org/name"})


def test_inputs_are_the_folders_files_and_rows_stream(tmp_path, monkeypatch):
    told = folder(tmp_path, train=rows(5_000))
    (tmp_path / "d" / ".cache").mkdir()
    (tmp_path / "d" / ".cache" / "x").write_text("")
    monkeypatch.chdir(tmp_path)
    assert HuggingFace().inputs(told) == [Path("d/train.jsonl")]
    assert HuggingFace().inputs({"path": "org/name"}) == []
    with (tmp_path / "d" / "train.jsonl").open("a") as file:
        file.write("{")
    assert len(list(islice(HuggingFace().samples(told, Context(tmp_path, 1)), 3))) == 3
