"""What a store is said to hold, and what is swept from it."""

import fcntl
import os
import time

import pytest

from tunemake.artifacts import Made, commit
from tunemake.commands.store import age, amount, rules
from tunemake.faults import InputError
from tunemake.holdings import flaws, holdings
from tunemake.staleness import Decides
from tunemake.store import Store, locked
from tunemake.sweep import Rules, sweep

MADE = Made("2026-01-01T00:00:00+00:00", 1.5, {}, {}, {})


def make(store, decides, content=b"0123456789", *, link=None, days=0.0, name="out.json"):
    work = store.work(decides)
    work.mkdir(parents=True)
    (work / name).write_bytes(content)
    commit(work, store.entry(decides), decides, MADE, [], store.digests)
    if link is not None:
        store.show(f"build/default/{link}", decides)
    then = time.time() - days * 86_400
    os.utime(store.entry(decides) / "artifact.json", (then, then))
    return store.entry(decides)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "p")


def decides(number, stage="adapter", inputs=()):
    return Decides(stage, 1, {"number": number}, dict(inputs))


def gone(store, **told):
    return [name for name, _ in sweep(store, Rules(**told)).removed]


def test_what_a_link_shows_and_what_that_was_made_from_stays(store):
    maker = make(store, decides(1, "train"), b"weights")
    digest = store.digests.of(maker / "out.json")
    shown = make(store, decides(2, inputs={"train/out.json": digest}), link="adapter")
    spare = make(store, decides(3))
    held = {entry.path: entry for entry in holdings(store)}
    assert (held[shown].shown_by, held[shown].needed) == (("build/default/adapter",), True)
    assert (held[maker].shown_by, held[maker].needed) == ((), True)
    assert not held[spare].needed
    swept = sweep(store, Rules())
    assert [name for name, _ in swept.removed] == [spare.name]
    assert swept.removed[0][1] == held[spare].size > 10
    assert (maker.is_dir(), shown.is_dir(), spare.exists()) == (True, True, False)
    assert not list(store.works.iterdir())


def test_a_dry_run_removes_nothing_and_tells_the_same(store):
    spare = make(store, decides(1))
    assert gone(store, dry_run=True) == [spare.name]
    assert spare.is_dir()
    assert gone(store) == [spare.name]


def test_age_and_size_hold_it_back_and_the_oldest_go_first(store):
    old, middle, young = (make(store, decides(number), bytes(1000), days=number) for number in (30, 20, 10))
    whole = {entry.path: entry.size for entry in holdings(store)}
    assert gone(store, dry_run=True, older_than=25 * 86_400.0) == [old.name]
    assert gone(store, dry_run=True, keep_size=sum(whole.values())) == []
    assert gone(store, dry_run=True, keep_size=sum(whole.values()) - 1) == [old.name]
    assert gone(store, keep_size=whole[young]) == [old.name, middle.name]
    assert young.is_dir()


@pytest.mark.parametrize("kind", ["lock", "use"])
def test_what_a_build_holds_is_never_removed(store, kind):
    held, other = decides(1), make(store, decides(2))
    entry = make(store, held)
    store.work(held).mkdir()
    holding = store.lock(held, print) if kind == "lock" else store.using([entry])
    with holding:
        swept = sweep(store, Rules(work=True))
        assert entry.is_dir()
        assert store.work(held).is_dir()
        assert [name for name, _ in swept.removed] == [other.name]
        assert swept.kept == [f"{entry.name}: a build holds it"] * 2
        with (
            pytest.raises(BlockingIOError),
            locked(store.works / f"{entry.name}.{kind}", fcntl.LOCK_EX | fcntl.LOCK_NB),
        ):
            pass
    assert gone(store, work=True) == [entry.name, entry.name]


def test_a_killed_training_stays_unless_work_is_named_and_other_leftovers_go(store):
    names = ["train-" + "1" * 16, "train-" + "2" * 16, "data-" + "3" * 16, f".data-{'4' * 16}.old-77"]
    for name in [*names, f"adapter-{'5' * 16}.fetched"]:
        (store.works / name).mkdir(parents=True)
    (store.works / names[0] / "iter_3.pth").touch()
    (store.works / f"data-{'6' * 16}.lock").touch()
    (store.works / "notes.txt").touch()
    swept = sweep(store, Rules())
    assert swept.kept == [f"{names[0]}: 1 checkpoints to go on from; --work removes it"]
    assert sorted(path.name for path in store.works.iterdir()) == ["notes.txt", names[0]]
    assert gone(store, work=True) == [names[0]]


def test_an_artifact_finished_but_not_in_place_stays(store):
    entry = make(store, decides(1, "train"))
    entry.rename(store.work(decides(1, "train")))
    assert "finished" in sweep(store, Rules()).kept[0]
    assert store.holds(decides(1, "train"))


def test_folders_that_are_read_only_go_too_and_links_are_not_followed(store, tmp_path):
    spare = make(store, decides(1))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept").touch()
    (spare / "sub").mkdir()
    (spare / "sub" / "link").symlink_to(tmp_path / "mine")
    (spare / "sub").chmod(0o555)
    spare.chmod(0o555)
    assert gone(store) == [spare.name]
    assert (tmp_path / "mine" / "kept").exists()


def test_marks_and_copies_of_edited_files(store):
    checked, edited = store.build / ".cache" / "checked", store.build / ".edited" / "config-1"
    for folder, name in ((checked, "a"), (checked, "b"), (edited, "train.py.edited-1")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    os.utime(checked / "a", (1, 1))
    assert gone(store, dry_run=True) == gone(store) == ["1 marks in build/.cache/checked"]
    assert [path.name for path in checked.iterdir()] == ["b"]
    assert gone(store, older_than=60.0) == []
    time.sleep(0.02)
    assert gone(store, older_than=0.01) == ["build/.edited/config-1/train.py.edited-1"]


def test_other_projects_of_a_shared_folder_keep_theirs_and_those_gone_do_not(tmp_path):
    one, two = Store(tmp_path / "one", "../artifacts"), Store(tmp_path / "two", "../artifacts")
    mine, theirs = make(one, decides(1), link="adapter"), make(two, decides(2), link="adapter")
    assert gone(one) == []
    assert {entry.path: entry.shown_by for entry in holdings(one)} == {
        mine: ("build/default/adapter",), theirs: (str(tmp_path / "two/build/default/adapter"),),
    }  # fmt: skip
    (tmp_path / "two" / "build" / "default" / "adapter").unlink()
    assert gone(one) == [theirs.name]


def test_verify_reads_every_file_and_names_what_is_damaged_though_its_times_are_not(store):
    whole, hurt, cut = (make(store, decides(number)) for number in (1, 2, 3))
    assert flaws(store) == (3, [])
    stat = (hurt / "out.json").stat()
    (hurt / "out.json").chmod(0o644)
    (hurt / "out.json").write_bytes(b"012345678X")
    os.utime(hurt / "out.json", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (cut / "out.json").unlink()
    record = whole / "artifact.json"
    record.chmod(0o644)
    record.write_text(record.read_text().replace('"number": 1', '"number": 9'))
    assert sorted(flaws(store)[1]) == sorted([
        f"{whole.name}/artifact.json is not that of its fingerprint", f"{hurt.name}/out.json is not as recorded",
        f"{cut.name}/out.json: No such file or directory",
    ])  # fmt: skip


def test_ages_and_sizes_as_they_are_typed_and_told():
    assert rules("30d", "20GB", work=False, dry_run=False) == Rules(30 * 86_400.0, 20 * 10**9)
    assert rules(None, "1.5MB", work=True, dry_run=True) == Rules(0.0, 1_500_000, work=True, dry_run=True)
    assert [amount(count) for count in (999, 1000, 2_500_000_000)] == ["999 bytes", "1.0 kB", "2.5 GB"]
    assert [age(span) for span in (0, 59, 7200, 86_400 * 3)] == ["0 s", "59 s", "2 h", "3 d"]
    with pytest.raises(
        InputError, match="--older-than: cannot be read; expected an age such as 30d, 12h or 2w, got 30"
    ):
        rules("30", None, work=False, dry_run=False)
    with pytest.raises(InputError, match="--keep-size"):
        rules(None, "20G", work=False, dry_run=False)
