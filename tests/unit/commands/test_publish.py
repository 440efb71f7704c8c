import os
import shutil

import pytest
from hub_on_loopback import Hub
from huggingface_hub import HfApi

from report_project import Built
from tunemake import cli
from tunemake.commands.publish import publish
from tunemake.digests import sha256_of_file
from tunemake.faults import InputError, StageError
from tunemake.model_record import model_flaws


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    made = Built(tmp_path_factory.mktemp("project"))
    made.build()
    return made


@pytest.fixture
def hub():
    with Hub() as serving:
        yield serving


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_gets_the_model_its_record_and_its_card(built, tmp_path):
    told = list(publish(built.builder(), str(tmp_path / "out"), None))
    assert names(tmp_path / "out") == [
        "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "tunemake.json",
    ]  # fmt: skip
    assert told == [f"{tmp_path / 'out'}: 6 files, {told[0].split(', ')[1]}, of {built.artifact('merged').name}"]
    assert model_flaws(tmp_path / "out") == (4, [])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_adapter_alone(built, tmp_path):
    list(publish(built.builder(), str(tmp_path / "out"), "default", adapter=True))
    assert names(tmp_path / "out") == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert "(adapter)" in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_nothing_is_overwritten(built, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="the folder is there already, and is not empty"):
        list(publish(built.builder(), str(tmp_path), None))
    assert names(tmp_path) == ["notes.txt"]


def test_a_model_that_has_not_passed_its_gate_is_not_published(tmp_path):
    made = Built(tmp_path / "project", identity=0.25)
    made.build()
    with pytest.raises(InputError, match=r"the model has not passed its gate; got identity; nothing was published"):
        list(publish(made.builder(), str(tmp_path / "out"), None))
    assert not (tmp_path / "out").exists()


def test_one_that_is_no_longer_what_the_project_asks_for_is_not_published(built, tmp_path):
    root = shutil.copytree(built.root, tmp_path / "project", symlinks=True)
    made = Built(root)
    (root / "project.toml").write_text((root / "project.toml").read_text().replace("steps = 40", "steps = 50"))
    with pytest.raises(InputError, match=r"build/default/\w+: .*not up to date.*run doit"):
        list(publish(made.builder(), str(tmp_path / "out"), None))


def test_damage_that_neither_size_nor_time_tells_is_found(built, tmp_path):
    made = Built(shutil.copytree(built.root, tmp_path / "project", symlinks=True))
    made.build()
    weights = made.artifact("merged") / "model.safetensors"
    digests = made.builder().store.digests
    assert digests.of(weights) == sha256_of_file(weights)
    content, stat = bytearray(weights.read_bytes()), weights.stat()
    content[-1] ^= 1
    weights.chmod(0o644)
    with weights.open("r+b") as file:
        file.write(content)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(InputError, match=r"model\.safetensors"):
        list(publish(made.builder(), str(tmp_path / "out"), None))
    assert not (tmp_path / "out").exists()


def test_a_hub_gets_everything_in_one_commit_under_its_own_name(built, hub):
    hub.there = ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "notes.md"]
    api = HfApi(endpoint=hub.url, token="hf_secret")
    told = list(publish(built.builder(), "hf:org/tiny", None, lambda: api, private=True))
    assert hub.made == {"name": "tiny", "organization": "org", "private": True}
    (commit,) = hub.commits
    assert commit["model.safetensors"] == (built.artifact("merged") / "model.safetensors").read_bytes()
    assert 'model_name = "org/tiny"' in commit["README.md"].decode()
    assert set(commit) == {*names(built.artifact("merged")), "README.md"} - {"artifact.json", "log.txt"}
    assert hub.tokens == {"Bearer hf_secret"}
    assert sorted(hub.deleted) == hub.there[:2]  # they would be loaded instead of what was sent
    assert told[-1] == f"https://huggingface.co/org/tiny/commit/{'0' * 40}: {built.artifact('merged').name}"


def test_what_is_meant_to_be_private_is_not_sent_to_where_all_can_see_it(built, hub):
    hub.private = False
    api = HfApi(endpoint=hub.url, token="hf_secret")
    with pytest.raises(StageError, match="is there already, and public; nothing was published"):
        list(publish(built.builder(), "hf:org/tiny", None, lambda: api, private=True))
    assert not hub.commits


def test_a_hub_that_refuses_is_told_in_a_line_without_the_token(built, hub):
    hub.refuses = 403
    with pytest.raises(StageError, match="the token of HF_TOKEN may not write there; got HTTP 403") as raised:
        list(publish(built.builder(), "hf:org/tiny", None, lambda: HfApi(endpoint=hub.url, token="hf_secret")))
    assert "hf_secret" not in str(raised.value)
    nowhere = HfApi(endpoint="http://127.0.0.1:9", token="hf_secret")
    with pytest.raises(
        StageError, match=r"the upload failed; the hub may not be reached; got Conn\w+: .*; nothing was published"
    ):
        list(publish(built.builder(), "hf:org/tiny", None, lambda: nowhere))


@pytest.mark.parametrize(
    ("target", "options", "told"),
    [
        ("hf:org", {}, "malformed"),
        ("hf:org/tiny@main", {}, "a revision cannot be published; expected hf:org/tiny"),
        ("out", {"variant": "defalt"}, 'no such variant; did you mean "default"?'),
    ],
)
def test_what_cannot_be_published_is_told(built, target, options, told):
    with pytest.raises(InputError, match=told.replace("?", r"\?")):
        list(publish(built.builder(), target, options.get("variant")))


def test_without_a_token_nothing_is_sent(built, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(InputError, match="HF_TOKEN: is not set"):
        list(publish(built.builder(), "hf:org/tiny", None))


def test_what_was_not_built_is_told_by_the_command_too(tmp_path, monkeypatch, capsys):
    made = Built(tmp_path / "project")
    monkeypatch.chdir(made.root)
    assert cli.main(["publish", str(tmp_path / "out")]) == InputError.exit_code
    assert "build/default/merged: is not built; run doit merge" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
