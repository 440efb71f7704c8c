import pytest

from tunemake.doit_state import StateFile


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = type("Stages", (StateFile,), {"stages": frozenset({"train"})})
    return lambda: made(".doit.db", None)


def test_a_users_own_tasks_are_kept(state):
    first = state()
    first.set("mine", "deps:", ["a"])
    first.dump()
    assert state().get("mine", "deps:") == ["a"]


def test_of_a_stage_only_ignore_is_kept(state):
    first = state()
    first.set("train", "deps:", ["a"])
    first.set("train", "ignore:", "1")
    assert first.get("train", "deps:") is None
    assert first.get("train", "ignore:") == "1"
    assert first.get("train", "some/file") is True


def test_a_damaged_file_starts_empty(state, tmp_path):
    (tmp_path / ".doit.db.tunemake").write_text('{"mine": {"deps')
    assert state().get("mine", "deps:") is None


def test_nothing_is_written_where_nothing_changed(state, tmp_path):
    state().dump()
    assert not list(tmp_path.iterdir())
