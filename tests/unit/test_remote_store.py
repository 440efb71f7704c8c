"""The store over fsspec, and the one of a folder that projects share, without any training."""

import fcntl
import hashlib
import json
import re
import shutil
import socket

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tunemake.artifacts import Made, changed_outputs, commit, elsewhere, read_record
from tunemake.remote_records import RefusedError, checked_outputs
from tunemake.remote_store import RemoteStore
from tunemake.staleness import Decides
from tunemake.store import Store, locked

MADE = Made("2026-01-01T00:00:00+00:00", 1.5, {"python": "3.11"}, {}, {"samples": 2})
ADAPTER = Decides("adapter", 1, {"lora": {"r": 2, "alpha": 0.1}}, {"train/last_checkpoint": "0" * 64})
TRAIN = Decides("train", 1, {"lr": 1e-3})
FILES = {"adapter_model.safetensors": b"weights", "sub/adapter_config.json": b"{}"}
CHECKPOINT = {"last_checkpoint": b"iter_4.pth", "iter_4.pth": b"pickle", "log.txt": b"host"}


def make(root, decides, files, shared=None):
    store = Store(root, shared)
    work = store.work(decides)
    for name, content in files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(content)
    commit(work, store.entry(decides), decides, MADE, [], store.digests)
    store.show("build/default/it", decides)
    return store


@pytest.fixture
def memory():
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield MemoryFileSystem()
    MemoryFileSystem.store.clear()


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    request.getfixturevalue("memory")
    return "memory://team/models" if request.param == "memory" else f"file://{tmp_path}/team/models"


def sent(url, tmp_path, decides=ADAPTER, files=FILES, *, checkpoints=False):
    store = make(tmp_path / "one", decides, files)
    told = []
    assert RemoteStore(url, checkpoints=checkpoints).send(store.entry(decides), told.append)
    return store


def said(events):
    return [event["say"] for event in events if "say" in event]


def fetch(url, tmp_path, decides=ADAPTER, wanted=()):
    store, told = Store(tmp_path / "two"), []
    left = RemoteStore(url, checkpoints=False).fetch(decides, wanted, store.draft(decides), told.append)
    if left is not None:
        assert store.takes(decides, left)
        store.show("build/default/it", decides)
    else:
        assert not store.draft(decides).exists()
    return store, left, said(told)


def test_what_one_sends_another_fetches_whole_and_read_only(url, tmp_path):
    sent(url, tmp_path)
    store, left, told = fetch(url, tmp_path, wanted=["adapter_model.safetensors"])
    entry = store.entry(ADAPTER)
    assert (left, told) == ([], [])
    assert {name: (entry / name).read_bytes() for name in FILES} == FILES
    assert store.flaws(ADAPTER) == []
    assert all(not (entry / name).stat().st_mode & 0o222 for name in [*FILES, "artifact.json"])
    assert read_record(entry) == read_record(Store(tmp_path / "one").entry(ADAPTER))


def test_what_is_not_there_is_none_without_a_word(url, tmp_path):
    assert fetch(url, tmp_path)[1:] == (None, [])


def test_what_is_there_is_not_sent_again(tmp_path, memory):
    store = sent("memory://team/models", tmp_path)
    before = {name: file.modified for name, file in memory.store.items()}
    assert len(before) == 3
    told = []
    assert RemoteStore("memory://team/models", checkpoints=False).send(store.entry(ADAPTER), told.append)
    assert told == []
    assert {name: file.modified for name, file in memory.store.items()} == before


def test_a_checkpoint_stays_where_it_was_made_and_its_record_stands_for_it(url, tmp_path):
    sent(url, tmp_path, TRAIN, CHECKPOINT)
    store, left, _ = fetch(url, tmp_path, TRAIN, wanted=["last_checkpoint"])
    assert left == ["iter_4.pth", "log.txt"]
    entry = store.entry(TRAIN)
    assert elsewhere(entry) == set(left)
    assert store.flaws(TRAIN) == []
    assert not (entry / "iter_4.pth").exists()
    (entry / "last_checkpoint").unlink()
    assert store.flaws(TRAIN) == ["last_checkpoint is gone"]


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize(
    "last", ["/there/iter_4.pth", "../../iter_4.pth", "iter_5.pth", "log.txt", "", "metrics.jsonl"]
)
def test_a_training_that_leads_to_a_checkpoint_elsewhere_is_refused(tmp_path, last):
    files = {**CHECKPOINT, "last_checkpoint": last.encode(), "metrics.jsonl": b"{}"}
    sent("memory://team/models", tmp_path, TRAIN, files)
    _, left, told = fetch("memory://team/models", tmp_path, TRAIN, wanted=["last_checkpoint"])
    assert left is None
    assert f"its last_checkpoint names {last!r}, which its record does not tell" in told[0]


def test_checkpoints_are_sent_where_that_is_asked_for_and_fetched_when_they_are_read(url, tmp_path):
    sent(url, tmp_path, TRAIN, CHECKPOINT, checkpoints=True)
    store, left, _ = fetch(url, tmp_path, TRAIN)
    assert left == ["iter_4.pth", "log.txt"]
    told = []
    assert RemoteStore(url, checkpoints=True).complete(store.entry(TRAIN), ["iter_4.pth"], told.append)
    assert (store.entry(TRAIN) / "iter_4.pth").read_bytes() == b"pickle"
    assert not RemoteStore(url, checkpoints=True).complete(store.entry(TRAIN), ["log.txt"], told.append)
    assert "log.txt is not there" in said(told)[-1]


def test_base_and_config_are_recorded_there_and_never_fetched(tmp_path, memory):
    for stage in ("base", "config"):
        sent("memory://team/models", tmp_path, Decides(stage, 1, {}), {"train.py": b"code"})
        assert fetch("memory://team/models", tmp_path, Decides(stage, 1, {}))[1:] == (None, [])
    assert sum("/files/" in name for name in memory.store) == 1  # the config's


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b'{"auto\\u005fmap": {"AutoConfig": "eve/repo--code.Config"}}', r"names code \(auto_map\)"),
        (b"{", "is no JSON"),
    ],
)
def test_a_config_that_names_code_of_a_hub_is_refused(tmp_path, text, told):
    sent("memory://team/models", tmp_path, ADAPTER, {"config.json": text})
    _, left, lines = fetch("memory://team/models", tmp_path)
    assert left is None
    assert re.search(f"config.json {told}; it is made here", lines[0])


def test_only_what_the_log_knows_was_made_here(tmp_path):
    store = make(tmp_path / "one", TRAIN, CHECKPOINT)
    entry = store.entry(TRAIN)
    assert not store.made_here(entry)
    line = {"stage": "train", "record": hashlib.sha256((entry / "artifact.json").read_bytes()).hexdigest()}
    (store.build / "log.jsonl").write_text(json.dumps({"stage": "data"}) + "\n" + json.dumps(line) + "\n")
    assert store.made_here(entry)


def blob(memory, content):
    return next(name for name in memory.store if name.endswith(hashlib.sha256(content).hexdigest()))


@pytest.mark.parametrize("damage", [b"wEights", b"weights and more", b"", None])
def test_a_damaged_file_is_refused_and_replaced_by_what_is_made_here(tmp_path, memory, damage):
    sent("memory://team/models", tmp_path)
    name = blob(memory, b"weights")
    memory.rm(name)
    if damage is not None:
        memory.pipe_file(name, damage)
    store, told = make(tmp_path / "two", ADAPTER, FILES), []
    remote = RemoteStore("memory://team/models", checkpoints=False)
    assert remote.fetch(ADAPTER, [], store.draft(ADAPTER), told.append) is None
    assert "adapter_model.safetensors is " in said(told)[0]
    assert "it is made here" in said(told)[0]
    assert not store.draft(ADAPTER).exists()
    assert remote.send(store.entry(ADAPTER), told.append)
    assert fetch("memory://team/models", tmp_path / "third")[1] == []


def lying(tmp_path, **changes):
    record = read_record(make(tmp_path / "liar", ADAPTER, FILES).entry(ADAPTER))
    return json.dumps({**record, **changes}).encode()


OUTPUT = {"size": 1, "sha256": "0" * 64}
NAMES = [
    "/etc/passwd", "../x", "a/../../x", "a//b", "./a", ".job.json", "a/.b/c", "a\\b", "C:a", "", "a\n", "a\x1b[2J",
    "x" * 300, "artifact.json",
]  # fmt: skip
LIES = [
    *({"outputs": {name: OUTPUT}} for name in NAMES),
    *({"outputs": {name: OUTPUT}} for name in ("model.py", "pytorch_model.bin", "x.pth", "a/native.so", "x.pkl")),
    *({"outputs": {"a": output}} for output in ({}, 3, {**OUTPUT, "size": -1}, {**OUTPUT, "size": True})),
    *({"outputs": {"a": output}} for output in ({**OUTPUT, "sha256": "../../x"}, {**OUTPUT, "link": "/etc/passwd"})),
    {"outputs": {"a": OUTPUT, "a/b": OUTPUT}},
    *(
        {"parameters": {"lora": {"r": 3}}},
        {"stage": "train"},
        {"stage_version": 2},
        {"inputs": {}},
        {"code": {"a": "b"}},
    ),
    *({"fingerprint": "0" * 64}, {"format": 2}, {"more": 1}, {"facts": []}, {"outputs": []}, {"seconds": "x"}),
]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: ascii(lie)[:60])
def test_a_record_that_lies_is_refused(tmp_path, lie):
    assert checked_outputs(lying(tmp_path), ADAPTER, ["adapter_model.safetensors"])
    with pytest.raises(RefusedError):
        checked_outputs(lying(tmp_path, **lie), ADAPTER, [])


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_what_is_no_record_is_refused(text):
    with pytest.raises(RefusedError):
        checked_outputs(text, ADAPTER, [])


def test_a_record_without_what_the_stage_makes_is_refused(tmp_path):
    with pytest.raises(RefusedError, match=r"has no merges\.txt"):
        checked_outputs(lying(tmp_path), ADAPTER, ["merges.txt"])


def test_a_refused_record_leaves_nothing_behind(tmp_path, memory):
    sent("memory://team/models", tmp_path)
    record = next(name for name in memory.store if "/records/" in name)
    memory.pipe_file(record, lying(tmp_path, outputs={"../../../../out": OUTPUT}))
    store, left, told = fetch("memory://team/models", tmp_path)
    assert left is None
    lie = "its record names a file '../../../../out'"
    assert told == [f"memory://team/models: {ADAPTER.folder_name} is not taken: {lie}; it is made here"]
    assert not store.entry(ADAPTER).exists()


def test_a_store_that_cannot_be_reached_is_told_once_and_never_names_a_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id-of-mine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-mine")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    store, told = make(tmp_path / "one", ADAPTER, FILES), []
    remote = RemoteStore("s3://bucket/models", checkpoints=False)
    assert remote.fetch(TRAIN, [], store.draft(TRAIN), told.append) is None
    assert remote.fetch(ADAPTER, [], store.draft(ADAPTER), told.append) is None
    assert not remote.send(store.entry(ADAPTER), told.append)
    assert len(said(told)) == 1
    assert "s3://bucket/models cannot be read (EndpointConnectionError); this build goes on" in said(told)[0]
    assert "of-mine" not in str(told)


def test_a_server_that_never_answers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # the question that is given up ends with its server
    store, told = make(tmp_path / "one", ADAPTER, FILES), []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        remote = RemoteStore("s3://bucket/models", checkpoints=False, patience=0.3)
        assert remote.fetch(TRAIN, [], store.draft(TRAIN), told.append) is None
    assert "cannot be read (TimeoutError: no answer in 0.3 s)" in said(told)[0]


def test_an_unknown_protocol_and_a_folder_that_cannot_be_written_are_told(tmp_path):
    store, told = make(tmp_path / "one", ADAPTER, FILES), []
    assert not RemoteStore("nosuch://x", checkpoints=False).send(store.entry(ADAPTER), told.append)
    (tmp_path / "file").touch()
    assert not RemoteStore(f"file://{tmp_path}/file/x", checkpoints=False).send(store.entry(ADAPTER), told.append)
    assert "nosuch://x cannot be written (ValueError)" in said(told)[0]
    assert "/file/x cannot be written (NotADirectoryError: Not a directory)" in said(told)[1]


def test_projects_of_a_shared_folder_find_each_others_artifacts_and_register(tmp_path):
    one = make(tmp_path / "one", ADAPTER, FILES, "../artifacts")
    assert one.entry(ADAPTER).parent == tmp_path / "artifacts" / "store"
    assert not (tmp_path / "one" / "build" / ".store").exists()
    two = Store(tmp_path / "two", "../artifacts")
    assert two.holds(ADAPTER)
    two.show("build/default/it", ADAPTER)
    assert two.projects() == [tmp_path / "two", tmp_path / "one"]
    assert (tmp_path / "two" / "build/default/it/sub/adapter_config.json").read_text() == "{}"
    shutil.rmtree(tmp_path / "one")
    assert two.projects() == [tmp_path / "two"]


def test_what_was_built_before_moves_along_to_a_new_place(tmp_path):
    make(tmp_path / "one", ADAPTER, FILES)
    moved = Store(tmp_path / "one", "../artifacts")
    assert not moved.holds(ADAPTER)
    assert moved.adopts("build/default/it", ADAPTER)
    assert moved.flaws(ADAPTER) == []
    moved.show("build/default/it", ADAPTER)
    back = Store(tmp_path / "one")
    shutil.rmtree(back.entries)
    assert back.adopts("build/default/it", ADAPTER)
    assert not back.adopts("build/default/it", TRAIN)


def test_a_lock_file_that_was_swept_away_is_no_lock(tmp_path):
    path = tmp_path / "a.lock"
    waited = []

    def sweep(holder):
        waited.append(holder)
        path.unlink()
        fcntl.flock(held, fcntl.LOCK_UN)

    with path.open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with (
            locked(path, fcntl.LOCK_EX, sweep),
            pytest.raises(BlockingIOError),
            locked(path, fcntl.LOCK_SH | fcntl.LOCK_NB),
        ):
            pass
    assert waited == ["?"]


def test_a_file_that_is_gone_is_told_where_it_was_not_left_elsewhere(tmp_path):
    store = make(tmp_path / "one", TRAIN, CHECKPOINT)
    entry = store.entry(TRAIN)
    (entry / "iter_4.pth").unlink()
    assert changed_outputs(entry, read_record(entry), store.digests) == ["iter_4.pth is gone"]
