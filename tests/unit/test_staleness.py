from dataclasses import asdict

from hypothesis import given
from hypothesis import strategies as st

from tunemake.staleness import Decides, reasons


def record_of(decides):
    told = asdict(decides)
    told["stage_version"] = told.pop("version")
    return told


BASE = Decides("train", 1, {"lr": 2e-4, "lora": {"r": 8}}, {"data/train.json": "a"}, {"q.txt": "b"}, {"p.py": "c"})


def test_equal_is_fresh():
    assert reasons(record_of(BASE), BASE) == []


def test_a_changed_value_is_named_with_old_and_new():
    now = Decides("train", 1, {"lr": 1e-4, "lora": {"r": 16}}, BASE.inputs, BASE.sources, BASE.code)
    titles = {"lr": "train.lr", "lora": "train.lora"}
    assert reasons(record_of(BASE), now, titles) == ["train.lr: 0.0002 → 0.0001", "train.lora.r: 8 → 16"]


def test_files_that_changed_came_or_went_are_named():
    now = Decides("train", 1, BASE.parameters, {"data/train.json": "z"}, {"new.txt": "b"}, {"p.py": "d"})
    assert reasons(record_of(BASE), now) == [
        "data/train.json changed", "new.txt is new", "q.txt is gone", "p.py code changed",
    ]  # fmt: skip


def test_the_shards_of_a_checkpoint_are_told_by_their_folder():
    folder, shards = "train/iter_4.pth", {f"train/iter_4.pth/rank_{n}.pt": "a" for n in range(3)}
    before = Decides("adapter", 1, {}, {"train/last_checkpoint": "a", **shards})
    now = Decides("adapter", 1, {}, {"train/last_checkpoint": "b", "train/iter_8.pth/rank_0.pt": "c"})
    assert reasons(record_of(before), now) == [
        "train/last_checkpoint changed", "train/iter_8.pth/rank_0.pt is new", f"{folder} (3 files) is gone",
    ]  # fmt: skip


def test_files_of_the_users_own_are_told_by_name_however_many():
    many = {f"data/raw/{n}.jsonl": "a" for n in range(4)}
    before = Decides("dataset", 1, {}, {}, many, {f"src/mine/{n}.py": "a" for n in range(3)})
    now = Decides("dataset", 1, {}, {}, dict.fromkeys(many, "b"), dict.fromkeys(before.code, "b"))
    assert reasons(record_of(before), now) == [
        *(f"{name} changed" for name in many), *(f"{name} code changed" for name in before.code),
    ]  # fmt: skip


@given(st.dictionaries(st.from_regex(r"(base|train)(/[a-c]{1,2}){1,3}", fullmatch=True), st.sampled_from("ab")))
def test_a_reason_of_an_input_begins_with_its_role(inputs):
    here, none = Decides("adapter", 1, {}, inputs), Decides("adapter", 1, {}, {})
    for before, now in ((here, none), (none, here), (here, Decides("adapter", 1, {}, dict.fromkeys(inputs, "c")))):
        told = reasons(record_of(before), now)
        assert bool(told) == bool(inputs)
        assert all(reason.split("/")[0] in {"base", "train"} for reason in told)
        assert all(reason.endswith((" changed", " is new", " is gone")) for reason in told)


def test_devices_that_no_parameter_tells_are_one():
    one, two = Decides("train", 1, {"lr": 0.1}), Decides("train", 1, {"lr": 0.1, "gpus": 2, "trainings_per_gpu": 3})
    titles = {"gpus": "launch.gpus"}
    assert reasons(record_of(one), two, titles) == ["launch.gpus: 1 → 2", "trainings_per_gpu: 1 → 3"]
    assert reasons(record_of(two), one, titles) == ["launch.gpus: 2 → 1", "trainings_per_gpu: 3 → 1"]


def test_nothing_recorded_and_a_new_version():
    assert reasons(None, BASE) == ["not built yet"]
    now = Decides("train", 2, BASE.parameters, BASE.inputs, BASE.sources, BASE.code)
    assert reasons(record_of(BASE), now) == ["tunemake makes train differently: version 1 → 2"]


def test_the_fingerprint_depends_on_each_part():
    others = [
        Decides("merge", 1, BASE.parameters, BASE.inputs, BASE.sources, BASE.code),
        Decides("train", 2, BASE.parameters, BASE.inputs, BASE.sources, BASE.code),
        Decides("train", 1, {}, BASE.inputs, BASE.sources, BASE.code),
        Decides("train", 1, BASE.parameters, {}, BASE.sources, BASE.code),
        Decides("train", 1, BASE.parameters, BASE.inputs, {}, BASE.code),
        Decides("train", 1, BASE.parameters, BASE.inputs, BASE.sources, {}),
    ]
    assert len({other.fingerprint for other in [BASE, *others]}) == 7


def test_lists_of_named_tables_are_told_by_name_and_their_order_as_a_whole():
    before = Decides("gate", 1, {"bounds": [{"name": "leak", "at_most": 0.1}, {"name": "form", "at_least": 1}]})
    titles = {"bounds": "evaluate.probe"}
    now = Decides("gate", 1, {"bounds": [{"name": "leak", "at_most": 0.2}, {"name": "fast"}]})
    assert reasons(record_of(before), now, titles) == [
        "evaluate.probe.leak.at_most: 0.1 → 0.2",
        'evaluate.probe.form: {"name": "form", "at_least": 1} → none',
        'evaluate.probe.fast: none → {"name": "fast"}',
    ]
    turned = Decides("gate", 1, {"bounds": before.parameters["bounds"][::-1]})
    (told,) = reasons(record_of(before), turned, titles)
    assert told.startswith('evaluate.probe: [{"name": "leak"')
    twice = Decides("gate", 1, {"bounds": [{"name": "leak"}, {"name": "leak"}]})
    assert len(reasons(record_of(before), twice, titles)) == 1
