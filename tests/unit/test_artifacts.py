import json

import pytest

from tunemake.artifacts import Made, changed_outputs, commit, point, read_record
from tunemake.digests import Digests
from tunemake.faults import StageError
from tunemake.staleness import Decides

MADE = Made("2026-01-01T00:00:00+00:00", 1.5, {"python": "3.11"}, {"log_every": 1}, {"samples": 2})
DECIDES = Decides("data", 1, {"seed": 1}, {"a/b": "0" * 64})


@pytest.fixture
def work(tmp_path):
    folder = tmp_path / "work"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.json").write_text("[]")
    (folder / "sub" / "b.txt").write_text("b")
    (folder / ".job.json").write_text("{}")
    return folder


@pytest.fixture
def digests(tmp_path):
    return Digests(tmp_path / "digests.json")


def test_a_commit_moves_the_folder_with_a_record_of_every_file(work, tmp_path, digests):
    entry = tmp_path / "store" / "data-1"
    commit(work, entry, DECIDES, MADE, ["a.json"], digests)
    record = read_record(entry)
    assert not work.exists()
    assert sorted(record["outputs"]) == ["a.json", "sub/b.txt"]
    assert record["fingerprint"] == DECIDES.fingerprint
    assert (record["stage"], record["parameters"], record["facts"]) == ("data", {"seed": 1}, {"samples": 2})
    assert not (entry / "a.json").stat().st_mode & 0o222
    assert changed_outputs(entry, record, digests) == []


def test_a_missing_output_is_refused_and_what_was_there_stays(work, tmp_path, digests):
    entry = tmp_path / "store" / "data-1"
    entry.mkdir(parents=True)
    (entry / "old").touch()
    with pytest.raises(StageError, match=r"data: ended without making c\.json"):
        commit(work, entry, DECIDES, MADE, ["a.json", "c.json"], digests)
    assert (entry / "old").exists()


def test_changed_and_deleted_files_are_named(work, tmp_path, digests):
    entry = tmp_path / "store" / "data-1"
    commit(work, entry, DECIDES, MADE, [], digests)
    (entry / "a.json").chmod(0o644)
    (entry / "a.json").write_text("{}")
    (entry / "sub" / "b.txt").unlink()
    assert changed_outputs(entry, read_record(entry), digests) == ["a.json was changed by hand", "sub/b.txt is gone"]


def test_files_of_the_users_own_behind_links_are_recorded_but_never_made_read_only(work, tmp_path, digests):
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_text("w")
    (work / "model").mkdir()
    (work / "model" / "weights").symlink_to(model / "weights")
    commit(work, tmp_path / "entry", DECIDES, MADE, [], digests)
    assert "model/weights" in read_record(tmp_path / "entry")["outputs"]
    assert (model / "weights").stat().st_mode & 0o200


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99, "outputs": {}}', '{"format": 1}'])
def test_a_record_that_is_not_whole_is_none(tmp_path, text):
    (tmp_path / "artifact.json").write_text(text)
    assert read_record(tmp_path) is None


def test_the_record_holds_no_path_of_this_machine(work, tmp_path, digests):
    commit(work, tmp_path / "entry", DECIDES, MADE, [], digests)
    assert str(tmp_path) not in (tmp_path / "entry" / "artifact.json").read_text()


def test_a_link_is_replaced_in_one_step_and_is_relative(tmp_path):
    for name in ("one", "two"):
        (tmp_path / "store" / name).mkdir(parents=True)
        point(tmp_path / "build" / "data", tmp_path / "store" / name)
    link = tmp_path / "build" / "data"
    assert link.readlink().as_posix() == "../store/two"
    assert json.dumps([p.name for p in (tmp_path / "build").iterdir()]) == '["data"]'
