"""tunemake.lock: what it holds, and what differs from it; and when two artifacts of a stage count as equal."""

import json
from types import SimpleNamespace

import pytest

from tunemake.commands.reproduce import compared
from tunemake.digests import sha256_of_file
from tunemake.faults import InputError
from tunemake.glance import keep_stamps, stamps_stand
from tunemake.lock import FILE, as_text, change_line, changes, contents, lock_flaws, read_lock, shown
from tunemake.stage import Stage

DIGEST = "ab" * 32


def artifact(folder, files, **record):
    """Write an artifact by hand: its files, and a record of them."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    outputs = {name: {"size": len(content), "sha256": sha256_of_file(folder / name)} for name, content in files.items()}
    told = {"format": 1, "fingerprint": "f" * 64, "stage_version": 1, "parameters": {}, "inputs": {}}
    told |= {"environment": {}, "facts": {}}
    (folder / "artifact.json").write_text(json.dumps({**told, "outputs": outputs, **record}))
    return folder


def builder_of(root, **parameters):
    artifact(root / "build/default/data", {"train.json": b"[]", "log.txt": b"12:00"}, parameters=parameters)
    stage = Stage("data", "data", "", {}, "build/default/data", ("train.json",))
    store = SimpleNamespace(record=lambda link: json.loads((root / link / "artifact.json").read_text()))
    project = SimpleNamespace(name="p", seed=1, chosen={"train.precision": "float32"})
    return SimpleNamespace(
        root=root, project=project, projects={"default": project}, stages={"data": stage}, store=store
    )


def lock_of(**stages):
    return {
        "format": 1,
        "project": "p",
        "seed": 1,
        "environments": {},
        "chosen": {"default": {"train.precision": "float32"}},
        "stages": stages,
    }


def test_a_lock_holds_values_and_digests_but_no_place_no_user_and_no_log(tmp_path):
    values = {"file": "/home/somebody/data/qa.csv", "url": "https://me:secret@host/x", "lr": 1e-3, "text": "/reset"}
    text = as_text(contents(builder_of(tmp_path, **values)))
    assert json.loads(text)["chosen"] == {"default": {"train.precision": "float32"}}
    told = json.loads(text)["stages"]["data"]
    assert told["parameters"] == {"file": "…/qa.csv", "url": "https://host/x", "lr": 1e-3, "text": "/reset"}
    assert list(told["outputs"]) == ["train.json"]
    assert "secret" not in text
    assert "somebody" not in text


def test_changes_are_told_field_by_field():
    before = {"fingerprint": DIGEST, "parameters": {"lr": 1e-3, "r": 8}, "outputs": {"a": DIGEST}}
    after = {"fingerprint": "cd" * 32, "parameters": {"lr": 2e-3, "r": 8}, "outputs": {"a": "ef" * 32}}
    lines = [
        change_line(change) for change in changes(lock_of(train=before, old=before), lock_of(train=after, new=after))
    ]
    assert lines == [
        "train: parameters.lr: 0.001 → 0.002", "train: outputs.a: abababababab → efefefefefef",
        'old: "made" → none', 'new: none → "made"',
    ]  # fmt: skip
    assert changes(lock_of(train=before), lock_of(train=before)) == []


def test_a_fingerprint_is_told_where_no_value_says_more():
    before, after = ({"fingerprint": digest * 32, "outputs": {}} for digest in ("ab", "cd"))
    lines = [change_line(change) for change in changes(lock_of(train=before), lock_of(train=after))]
    assert lines == ["train: fingerprint: abababababab → cdcdcdcdcdcd"]


def test_other_versions_of_libraries_are_told():
    stage = {"fingerprint": DIGEST, "outputs": {}, "environment": "x"}
    old, new = ({**lock_of(train=stage), "environments": {"x": {"torch": version}}} for version in ("2.6", "2.7"))
    assert [change_line(change) for change in changes(old, new)] == ['train: environment.torch: "2.6" → "2.7"']


def test_links_that_show_something_else_than_the_lock_are_told(tmp_path):
    for name, content in (("store/a", b"1"), ("store/b", b"2")):
        artifact(tmp_path / name, {"x": content})
    (tmp_path / "build/default").mkdir(parents=True)
    for link, target in (("a", "a"), ("b", "b"), ("more", "a")):
        (tmp_path / "build/default" / link).symlink_to(tmp_path / "store" / target)
    right = {
        "links": ["build/default/a"],
        "fingerprint": "f" * 64,
        "outputs": {"x": sha256_of_file(tmp_path / "store/a/x")},
    }
    wrong = {"links": ["build/default/b"], "fingerprint": "f" * 64, "outputs": {"x": DIGEST, "y": DIGEST}}
    gone = {"links": ["build/default/c"], "fingerprint": "f" * 64, "outputs": {}}
    found = lock_flaws(lock_of(a=right, b=wrong, c=gone), tmp_path)
    assert found[0].startswith(f"build/default/b/x is not what {FILE} says: abababababab there, ")
    assert found[1] == f"build/default/b/y is not what {FILE} says: abababababab there, none in its record"
    assert found[2:] == [
        f"build/default/c shows no artifact, though {FILE} has it", f"build/default/more is not in {FILE}",
    ]  # fmt: skip
    assert list(shown(tmp_path)) == ["build/default/a", "build/default/b", "build/default/more"]
    right["fingerprint"] = DIGEST
    assert "made from something else" in lock_flaws(lock_of(a=right), tmp_path)[0]


NO_TABLE = '{"format": 1, "stages": {"a": {"links": [], "fingerprint": "f", "outputs": {}, "parameters": null}}}'


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"format": 2, "stages": {}}', '{"format": 1, "stages": {"a": 1}}', NO_TABLE]
)
def test_a_damaged_lock_is_refused(tmp_path, text):
    assert read_lock(tmp_path) is None
    (tmp_path / FILE).write_text(text)
    with pytest.raises(InputError, match=FILE):
        read_lock(tmp_path)


def test_what_a_lock_was_written_of_is_known_until_it_changes(tmp_path):
    names = [FILE, "build/default/data"]
    (tmp_path / "project.toml").write_text("")
    assert not stamps_stand(tmp_path, names)
    keep_stamps(tmp_path, names)
    assert stamps_stand(tmp_path, names)
    for change in (tmp_path / FILE, tmp_path / "project.toml"):
        change.write_text("another")
        assert not stamps_stand(tmp_path, names)
        keep_stamps(tmp_path, names)
    assert not stamps_stand(tmp_path, [*names, "build/default/train"])


def lines(*told):
    return "".join(json.dumps(line) + "\n" for line in told).encode()


@pytest.mark.parametrize(
    ("name", "before", "after", "what"),
    [
        ("x.json", b"1", b"1", None),
        ("x.json", b"1", b"2", "→"),
        ("log.txt", b"1", b"2", None),
        ("metrics.jsonl", lines({"loss": 1, "seconds": 2}), lines({"loss": 1, "seconds": 3}), None),
        ("metrics.jsonl", lines({"loss": 1}, {"loss": 2}), lines({"loss": 1}, {"loss": 3}), "differs at line 2"),
        ("metrics.jsonl", lines({"loss": 1}), lines({"loss": 1}, {"loss": 2}), "1 → 2 lines"),
        ("tunemake.json", b'{"files": {}, "versions": {"a": 1}}', b'{"files": {}, "versions": {"a": 2}}', None),
        ("tunemake.json", b'{"files": {}}', b'{"files": {"x": "y"}}', "differs at files"),
    ],
)
def test_what_counts_as_equal(tmp_path, name, before, after, what):
    told = compared("stage", artifact(tmp_path / "a", {name: before}), artifact(tmp_path / "b", {name: after}))
    assert told.first == (None if what is None else name)
    assert (what or "") in told.what


def test_a_checkpoint_is_equal_where_its_tensors_are(tmp_path):
    import torch

    def checkpoint(folder, time, *values):
        torch.save({"state_dict": {"w": torch.tensor(values)}, "meta": {"time": time}}, tmp_path / "c.pth")
        return artifact(tmp_path / folder, {"iter_1.pth": (tmp_path / "c.pth").read_bytes()})

    first = checkpoint("a", "12:00", 0.0, float("nan"))
    assert compared("train", first, checkpoint("b", "12:01", 0.0, float("nan"))).first is None
    other = compared("train", first, checkpoint("c", "12:01", -0.0, float("nan")))
    assert (other.first, other.what) == ("iter_1.pth", "tensor w differs")


def test_a_file_that_is_missing_or_elsewhere_is_told(tmp_path):
    before, after = artifact(tmp_path / "a", {"x": b"1", "y": b"2"}), artifact(tmp_path / "b", {"x": b"1"})
    told = compared("stage", before, after)
    assert (told.first, told.what) == ("y", "was not made again")
    (before / "y").unlink()
    told = compared("stage", before, after)
    assert (told.first, told.absent, told.files) == (None, ["y"], 1)
