"""The notes of what a look at a project saw: complete, and never believed when anything is another."""

import os
import time

import pytest

from tunemake import glance
from tunemake.glance import Glance, look_at, noting


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(glance, "_STARTED", time.time_ns())  # other tests may have changed folders of code since
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("a")
    (tmp_path / "link").symlink_to("data")
    time.sleep(0.06)
    return tmp_path


def look(project):
    with noting(project) as notes:
        (project / "data" / "a.txt").read_text()
        list((project / "data").glob("*"))
        look_at(project / "not-there")
        look_at(project / "link")
    return notes


def known(project):
    kept = Glance(project)
    with noting(project) as notes:
        (project / "link").exists()
    kept.loaded([{"stage": "data"}], notes)
    kept.judged_fresh("data", look(project))
    kept.save()
    return Glance(project)


def test_what_is_opened_listed_or_looked_for_is_noted(project):
    notes = look(project)
    assert set(notes.stamps) == {str(project / name) for name in ("data", "data/a.txt", "not-there", "link")}
    assert notes.steady


def test_nothing_is_noted_outside(project):
    notes = look(project)
    (project / "b.txt").write_text("b")
    assert str(project / "b.txt") not in notes.stamps


def test_a_file_younger_than_a_tick_is_not_relied_on(project):
    (project / "data" / "a.txt").write_text("b")
    assert not look(project).steady


def test_a_file_that_changes_while_it_is_looked_at_is_not_relied_on(project):
    with noting(project) as notes:
        look_at(project / "not-there")
        (project / "not-there").touch()
        look_at(project / "not-there")
    assert not notes.steady


def test_what_stands_is_fresh_and_nothing_else(project):
    kept = known(project)
    assert kept.tasks() == [{"stage": "data"}]
    assert kept.is_fresh("data")
    assert not kept.is_fresh("other")


def same_size_and_times(project):
    before = (project / "data" / "a.txt").stat()
    (project / "data" / "a.txt").write_text("b")
    os.utime(project / "data" / "a.txt", ns=(before.st_atime_ns, before.st_mtime_ns))


def repointed(project):
    (project / "else").mkdir()
    (project / "draft").symlink_to("else")
    (project / "draft").replace(project / "link")


CHANGES = {
    "edited": lambda project: (project / "data" / "a.txt").write_text("b"),
    "same size and times": same_size_and_times,
    "gone": lambda project: (project / "data" / "a.txt").unlink(),
    "beside it": lambda project: (project / "data" / "b.txt").touch(),
    "there now": lambda project: (project / "not-there").touch(),
    "another link": repointed,
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_it_is_seen(project, change):
    kept = known(project)
    CHANGES[change](project)
    assert not kept.is_fresh("data")


@pytest.mark.parametrize("text", ["", "[]", "\0", '{"form": 0}', '{"form": 1}'])
def test_damaged_notes_cost_a_full_look(project, text):
    known(project)
    (project / glance.FILE).write_text(text)
    assert Glance(project).tasks() is None
    assert not Glance(project).is_fresh("data")


def test_another_python_or_path_looks_for_itself(project, monkeypatch):
    known(project)
    monkeypatch.syspath_prepend(str(project / "data"))
    assert Glance(project).tasks() is None


def test_a_project_inside_of_another_ones_caches_is_looked_at_all_the_same(tmp_path):
    inner = tmp_path / "build" / ".cache" / "inner"
    inner.mkdir(parents=True)
    with noting(inner) as notes:
        look_at(inner / "project.toml")
        look_at(inner / "build" / ".cache" / "checked")
    assert list(notes.stamps) == [str(inner / "project.toml")]
