"""A build that has nothing to do takes one glance, and a glance hides no change."""

import os
import time

import pytest


@pytest.fixture
def seen(project):
    """A project whose quick stages were built, and then found fresh."""
    project.edit('generator = "self_cognition"', 'generator = "csv_qa"')
    text = (project.root / "project.toml").read_text()
    table = next(line for line in text.splitlines() if line.startswith("parameters"))
    project.edit(table, 'parameters = { files = ["qa.csv"] }')
    project.write("qa.csv", "question,answer\n" + "".join(f"q{number},a{number}\n" for number in range(20)))
    project.built("data", "config")
    time.sleep(0.1)
    project.built("data", "config")
    assert loaded(project) == set()
    return project


def loaded(project):
    """Give the modules of ours that a build imports beyond those of a glance."""
    done = project.run("python", "-X", "importtime", "-m", "doit", "data", "config")
    assert done.code == 0, done.told()
    found = {line.rpartition("|")[2].strip() for line in done.err.splitlines() if line.startswith("import time:")}
    return found & {"tunemake.loading", "tunemake.building", "tunemake.project", "tunemake.plugins"}


def rewrite_as_before(project):
    path = project.root / "qa.csv"
    before = path.stat()
    path.write_text(path.read_text().replace("a7", "b7"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "parameter": (lambda p: p.edit("held_out = 0.1", "held_out = 0.2"), {"data"}),
    "source": (lambda p: p.edit("a7", "b7", "qa.csv"), {"dataset:identity", "data"}),
    "source, size and mtime as before": (rewrite_as_before, {"dataset:identity", "data"}),
    "target gone": (lambda p: (p.root / "build/default/data/train.json").unlink(), {"data"}),
    "link gone": (lambda p: (p.root / "build/default/data").unlink(), {"data"}),
    "forgotten": (lambda p: p.doit("forget", "config"), {"config"}),
    "model": (
        lambda p: p.edit('"max_position_embeddings": 256', '"max_position_embeddings": 255', "models/tiny/config.json"),
        {"base", "config"},
    ),
    "record cut short": (lambda p: os.truncate(p.root / "build/default/data/artifact.json", 9), {"data"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_after_a_glance(seen, change):
    make, expected = CHANGES[change]
    make(seen)
    assert set(seen.built("data", "config").ran) == expected
    assert seen.built("data", "config").ran == []


def test_a_template_of_the_projects_own_is_seen_where_there_was_none(seen):
    seen.write("templates/xtuner/lora.py.jinja", "# mine\n")
    done = seen.doit("data", "config")
    assert ".  config: " in done.out


def test_a_source_that_is_gone_is_told_in_a_line(seen):
    (seen.root / "qa.csv").unlink()
    done = seen.doit("data")
    assert done.code != 0
    assert "qa.csv" in done.told()
    assert "Traceback" not in done.told()


def test_a_broken_project_is_told_in_a_line(seen):
    seen.edit("held_out = 0.1", "held_out = 7")
    done = seen.doit("data")
    assert done.code == 3
    assert "data.held_out" in done.told()


def test_always_still_makes_anew(seen):
    assert set(seen.built("-a", "-s", "config").ran) == {"config"}


def test_a_generator_of_the_projects_own_that_reads_files_gets_a_full_look(seen):
    seen.write(
        "mine.py",
        """
        from pathlib import Path

        class Mine:
            summary = "what is there"
            version = "1"
            parameters = {"type": "object"}

            def inputs(self, parameters):
                return [Path("extra.txt")] if Path("extra.txt").exists() else []

            def samples(self, parameters, context):
                for number in range(4):
                    text = "".join(path.read_text() for path in self.inputs(parameters)) or "none"
                    question = {"role": "user", "content": f"q{number}"}
                    yield {"messages": [question, {"role": "assistant", "content": text}]}
        """,
    )
    seen.edit("[project]\n", 'plugins = ["mine.py"]\n\n[project]\n')
    seen.edit("[data]", '[datasets.mine]\ngenerator = "mine"\n\n[data]')
    seen.built("data")
    time.sleep(0.1)
    assert seen.built("data").ran == []
    assert seen.built("data").ran == []
    seen.write("extra.txt", "more\n")
    assert seen.built("data").ran == ["dataset:mine", "data"]


def test_a_pattern_gets_a_full_look(seen):
    seen.write("rows/a.csv", "question,answer\nq,a\n")
    seen.edit('["qa.csv"]', '["qa.csv", "*/*.csv"]')
    seen.built("data")
    time.sleep(0.1)
    assert seen.built("data").ran == []
    assert seen.built("data").ran == []
    (seen.root / "rows/more").mkdir()
    seen.write("rows/b.csv", "question,answer\nq2,a2\n")
    assert seen.built("data").ran == ["dataset:identity", "data"]
