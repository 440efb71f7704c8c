"""What a build was made from and came to: tunemake.lock, verify, status, reproduce, and the merged model's record."""

import base64
import json
import os
import re
import shutil

import pytest

from tunemake.digests import sha256_of_file

LOCK = "tunemake.lock"
RANDOM = """
import random

class Chance:
    summary = "an answer by chance"
    version = "3"
    parameters = {"type": "object"}

    def samples(self, parameters, context):
        for number in range(4):
            question = {"role": "user", "content": f"q{number}"}
            answer = {"role": "assistant", "content": str(random.SystemRandom().random())}
            yield {"messages": [question, answer]}
"""


def lock_of(project):
    return json.loads((project.root / LOCK).read_text("utf-8"))


def flip(path):
    path.chmod(0o644)
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-9, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-9, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def use_chance(project):
    project.write("mine.py", RANDOM)
    project.edit("[project]\n", 'plugins = ["mine.py"]\n\n[project]\n')
    project.edit("[data]", '[datasets.chance]\ngenerator = "chance"\n\n[data]')


def test_a_whole_build_writes_the_lock(built):
    lock = lock_of(built)
    stages = lock["stages"]
    record = built.record("default/merged")
    assert stages["merge"]["fingerprint"] == record["fingerprint"]
    weights = stages["merge"]["outputs"]["model.safetensors"]
    assert weights == record["outputs"]["model.safetensors"]["sha256"]
    assert stages["train"]["parameters"]["lr"] == 1e-3
    assert stages["base"]["parameters"]["source"] == "models/tiny"
    assert len(stages["base"]["model"]["sha256"]) == 64
    assert "model/model.safetensors" in stages["base"]["outputs"]
    assert stages["dataset:identity"]["generators"]["self_cognition"]
    assert any(name.endswith("self_cognition.py") for name in stages["dataset:identity"]["code"])
    assert {"torch", "transformers", "xtuner", "peft", "tunemake", "python"} <= next(
        iter(lock["environments"].values())
    ).keys()
    text = (built.root / LOCK).read_text()
    assert str(built.root) not in text
    assert os.uname().nodename not in text


def test_the_lock_is_the_same_after_another_build_and_in_another_folder(built, trained):
    before = (built.root / LOCK).read_bytes()
    assert before == (trained / LOCK).read_bytes()
    stamp = (built.root / LOCK).stat()
    assert built.built().ran == []
    assert (built.root / LOCK).stat().st_mtime_ns == stamp.st_mtime_ns
    (built.root / LOCK).unlink()
    assert "wrote tunemake.lock" in built.built().out
    assert (built.root / LOCK).read_bytes() == before
    (built.root / LOCK).unlink()
    done = built.run("tunemake", "lock")
    assert done.code == 0, done.told()
    assert (built.root / LOCK).read_bytes() == before


def test_a_build_of_a_part_leaves_the_lock_and_lock_refuses_it(built):
    before = (built.root / LOCK).read_bytes()
    built.edit("held_out = 0.1", "held_out = 0.2")
    built.built("data")
    assert (built.root / LOCK).read_bytes() == before
    done = built.run("tunemake", "lock")
    assert done.code == 2
    assert re.search("stale: .*train", done.err)
    assert (built.root / LOCK).read_bytes() == before


def test_a_lock_edited_by_hand_is_written_again(built):
    before = (built.root / LOCK).read_bytes()
    built.edit('"seed": 7', '"seed": 8', LOCK)
    assert "wrote tunemake.lock" in built.built().out
    assert (built.root / LOCK).read_bytes() == before


def test_a_folder_that_cannot_be_written_is_a_line_and_the_build_stands(built):
    (built.root / LOCK).unlink()
    (built.root / LOCK).mkdir()
    done = built.built()
    assert "tunemake.lock cannot be written" in done.out


def test_verify_reads_files_and_names_the_one_that_differs(built):
    whole = built.run("tunemake", "verify")
    assert whole.code == 0, whole.told()
    assert "0 differ; compared with the records and tunemake.lock" in whole.out
    flip(built.root / "build/default/merged/model.safetensors")
    done = built.run("tunemake", "verify")
    assert done.code == 1
    assert "build/default/merged/model.safetensors is not as recorded" in done.out
    told = json.loads(built.run("tunemake", "verify", "--json").out)
    assert told["flaws"] == ["build/default/merged/model.safetensors is not as recorded"]


def test_verify_needs_no_torch(built):
    built.write("hidden/torch.py", "raise ImportError('no torch here')\n")
    done = built.run("tunemake", "verify", PYTHONPATH=str(built.root / "hidden"))
    assert done.code == 0, done.told()


def test_verify_tells_of_a_file_and_a_record_that_are_no_longer_those_of_the_lock(built):
    merged = (built.root / "build/default/merged").resolve()
    record = json.loads((merged / "artifact.json").read_text())
    config = merged / "config.json"
    config.chmod(0o644)
    config.write_text(config.read_text() + " ")
    record["outputs"]["config.json"] = {"size": config.stat().st_size, "sha256": sha256_of_file(config)}
    (merged / "artifact.json").chmod(0o644)
    (merged / "artifact.json").write_text(json.dumps(record))
    (merged / "pytorch_model.bin").write_text("")
    done = built.run("tunemake", "verify")
    assert done.code == 1
    assert "build/default/merged/config.json is not what tunemake.lock says" in done.out
    assert "build/default/merged/pytorch_model.bin is not recorded" in done.out
    (built.root / LOCK).unlink()
    done = built.run("tunemake", "verify")
    assert "there is no tunemake.lock" in done.out
    assert "config.json" not in done.out


def test_a_link_that_shows_nothing_is_told(built):
    shutil.move((built.root / "build/default/adapter").resolve(), built.root / "elsewhere")
    done = built.run("tunemake", "verify")
    assert done.code == 1
    assert "build/default/adapter shows nothing" in done.out


def test_a_damaged_lock_is_told_in_a_line(built):
    built.write(LOCK, "{")
    for command in ("verify", "status"):
        done = built.run("tunemake", command)
        assert done.code == 2
        assert done.err.startswith("tunemake.lock: cannot be read; ")
    built.write(LOCK, '{"format": 99}')
    assert "expected format 1, got 99" in built.run("tunemake", "verify").err


def test_a_copied_model_can_be_traced_and_checked(built, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(built.root / "build/default/merged", copy)
    record = json.loads((copy / "tunemake.json").read_text())
    assert record["project"] == "tiny"
    assert record["prompt_template"] == "chatml"
    assert record["base"]["source"] == "tiny"
    outputs = {stage: built.record(f"default/{stage}")["outputs"] for stage in ("adapter", "data", "merged")}
    adapter = record["adapter"]["adapter_model.safetensors"]
    assert adapter == outputs["adapter"]["adapter_model.safetensors"]["sha256"]
    assert record["data"]["train.json"] == outputs["data"]["train.json"]["sha256"]
    assert record["files"]["model.safetensors"] == outputs["merged"]["model.safetensors"]["sha256"]
    assert str(tmp_path) not in json.dumps(record)

    done = built.run("tunemake", "verify", str(copy))
    assert done.code == 0, done.told()
    assert "tiny, made from tiny" in done.out
    model, adapter = built.root / "build/base/tiny/model", built.root / "build/default/adapter"
    done = built.run("tunemake", "verify", str(copy), "--base", str(model), "--adapter", str(adapter))
    assert done.code == 0, done.told()
    assert f"tensors whole, with {model} and {adapter}; no chat template" in done.out
    proof = built.record("default/merged")["facts"]["proof"]
    assert proof["chat_template"] == "compared"
    assert 0 < proof["largest_deviation"] < proof["largest_change"]
    shutil.copy(model / "model.safetensors", copy / "model.safetensors")
    done = built.run("tunemake", "verify", str(copy), "--base", str(model), "--adapter", str(adapter))
    assert done.code == 1
    assert "every weight is the base's: the merge exported the base" in done.out
    shutil.copy(built.root / "build/default/merged/model.safetensors", copy / "model.safetensors")
    (copy / "modeling_tiny.py").write_text("")
    flip(copy / "model.safetensors")
    (copy / "generation_config.json").unlink()
    done = built.run("tunemake", "verify", str(copy))
    assert done.code == 1
    assert f"{copy}/model.safetensors is not as recorded" in done.out
    assert f"{copy}/generation_config.json is gone" in done.out
    assert f"{copy}/modeling_tiny.py is none of the model's files" in done.out


@pytest.mark.parametrize("text", [None, "{", "[]", '{"format": 1, "files": {"../x": "00"}}'])
def test_a_folder_without_a_record_is_told_in_a_line(built, tmp_path, text):
    folder = tmp_path / "model"
    folder.mkdir()
    if text is not None:
        (folder / "tunemake.json").write_text(text)
    done = built.run("tunemake", "verify", str(folder))
    assert done.code == 2
    assert len(done.err.splitlines()) == 1


def test_status_tells_what_changed(built):
    done = built.run("tunemake", "status")
    assert done.code == 0, done.told()
    assert "tunemake.lock: as built\nbuild: up to date\n" in done.out
    assert "merged model: build/default/merged\n" in done.out
    built.edit("held_out = 0.1", "held_out = 0.2")
    built.edit("steps = 4", "steps = 6")
    built.built("data")
    done = built.run("tunemake", "status")
    assert "  data: parameters.held_out: 0.1 → 0.2\n" in done.out
    assert "  data: outputs.train.json: " in done.out
    assert "train.steps: 4 → 6" in done.out
    told = json.loads(built.run("tunemake", "status", "--json").out)
    assert told["lock"] == "differs"
    assert {"stage": "data", "field": "parameters.held_out", "lock": 0.1, "build": 0.2} in told["differences"]
    assert "train" in [step["stage"] for step in told["stale"]]
    assert told["models"]["base model"] == "build/base/tiny/model"


@pytest.mark.train
def test_a_build_made_again_comes_out_equal(built):
    built.edit('"models/tiny"', '"../outside/tiny"')
    built.edit('prompts = ["count to three for me"]', 'prompts = "../outside/prompts.txt"')
    (built.root.parent / "outside").mkdir()
    (built.root.parent / "outside/prompts.txt").write_text("count to three for me\n")
    shutil.copytree(built.root / "models/tiny", built.root.parent / "outside/tiny")
    built.built()
    done = built.run("tunemake", "reproduce", "--into", "../again")
    assert done.code == 0, done.told()
    stages = ["dataset:identity", "base", "config", "data", "tokens", "train", "adapter", "merge", "baseline",
              "evaluate", "report", "gate"]  # fmt: skip
    for stage in stages:
        assert f"{stage}: equal (" in done.out
    assert "so its tensors are compared" in done.out
    again = built.root.parent / "again"
    assert (again / "outside/tiny").is_symlink()
    checkpoints = [folder / "build/default/train/iter_4.pth" for folder in (built.root, again / "p")]
    assert checkpoints[0].stat().st_ino != checkpoints[1].stat().st_ino
    assert not (again / "p/models/tiny").is_symlink()  # another folder of the project's


def test_the_first_file_that_differs_is_named(built):
    use_chance(built)
    built.built("data")
    done = built.run("tunemake", "reproduce", "data")
    assert done.code == 1, done.told()
    assert "dataset:identity: equal (" in done.out
    assert "dataset:chance: differs: samples.jsonl: " in done.out
    assert "dataset:chance did not" in done.out
    told = json.loads(built.run("tunemake", "reproduce", "data", "--json").out)
    assert told["equal"] is False
    assert (told["stages"][-1]["stage"], told["stages"][-1]["first"]) == ("dataset:chance", "samples.jsonl")
    shutil.rmtree(told["folder"])


def test_reproduce_leaves_nothing_behind_and_takes_nothing_from_a_shared_store(built):
    built.write("project.toml", (built.root / "project.toml").read_text() + '\n[store]\npath = "../shared"\n')
    built.built("data")
    before = {path.name for path in (built.root / "build").iterdir()}
    done = built.run("tunemake", "reproduce", "data")
    assert done.code == 0, done.told()
    assert {path.name for path in (built.root / "build").iterdir()} == before


def test_a_link_that_leads_nowhere_and_a_pipe_are_no_hindrance(built):
    (built.root / "loop").symlink_to("loop")
    built.built("data")
    assert built.run("tunemake", "reproduce", "dataset:identity").code == 0
    os.mkfifo(built.root / "pipe")
    assert built.run("tunemake", "reproduce", "dataset:identity").code == 0


def test_nothing_built_is_nothing_to_verify(project):
    done = project.run("tunemake", "verify")
    assert done.code == 2
    assert "nothing is built here" in done.err


def test_reproduce_refuses_what_is_stale_and_a_folder_that_is_not_empty(built):
    built.edit("held_out = 0.1", "held_out = 0.2")
    done = built.run("tunemake", "reproduce", "data")
    assert done.code == 2
    assert "data: not up to date: data.held_out: 0.1 → 0.2" in done.err
    built.edit("held_out = 0.2", "held_out = 0.1")
    assert "not an empty folder" in built.run("tunemake", "reproduce", "data", "--into", "models").err
    assert "no such stage" in built.run("tunemake", "reproduce", "dta").err


def test_variants_have_a_place_each_in_the_lock(built):
    built.write(
        "project.toml",
        (built.root / "project.toml").read_text()
        + "\n[variants.a]\ntrain.lr = 1e-3\n\n[variants.b]\ntrain.lr = 2e-3\n",
    )
    before = (built.root / LOCK).read_bytes()
    built.built("merge:a", "evaluate:a")
    assert (built.root / LOCK).read_bytes() == before
    built.built()
    stages = lock_of(built)["stages"]
    assert stages["train:a"]["parameters"]["lr"] != stages["train:b"]["parameters"]["lr"]
    assert "build/b/merged" in stages["merge:b"]["links"]
    assert built.run("tunemake", "verify").code == 1  # links of before the variants are none of the lock's


def test_a_changed_base_model_is_found_by_verify(built):
    built.doit("forget", "base")
    built.built("base")  # its links led into the folder that this one is a copy of
    flip(built.root / "models/tiny/model.safetensors")
    done = built.run("tunemake", "verify")
    assert done.code == 1
    assert "build/base/tiny/model/model.safetensors is not as recorded" in done.out


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    folder = tmp_path_factory.mktemp("keys")
    made = {"mine": ed25519.Ed25519PrivateKey.generate(), "other": ec.generate_private_key(ec.SECP256R1())}
    for name, key in made.items():
        private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
        (folder / f"{name}.pem").write_bytes(private)
        public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.pub").write_bytes(public)
    return folder


@pytest.mark.parametrize("key", ["mine", "other"])
def test_a_signed_statement_holds_for_the_models_and_a_copy(built, keys, key, tmp_path):
    done = built.run("tunemake", "attest", "--key", str(keys / f"{key}.pem"))
    assert done.code == 0, done.told()
    signed = ("--attestation", "tunemake.intoto.json", "--public-key", str(keys / f"{key}.pub"))
    done = built.run("tunemake", "verify", *signed)
    assert done.code == 0, done.told()
    assert "0 differ" in done.out
    payload = json.loads(base64.b64decode(json.loads((built.root / "tunemake.intoto.json").read_text())["payload"]))
    assert payload["_type"] == "https://in-toto.io/Statement/v1"
    assert payload["predicate"] == lock_of(built)
    weights = {subject["name"]: subject["digest"]["sha256"] for subject in payload["subject"]}
    outputs = built.record("default/merged")["outputs"]
    assert weights["build/default/merged/model.safetensors"] == outputs["model.safetensors"]["sha256"]

    copy = tmp_path / "copy"
    shutil.copytree(built.root / "build/default/merged", copy)
    assert built.run("tunemake", "verify", str(copy), *signed).code == 0
    # A model edited together with its own record is still not the one that was signed.
    record = json.loads((copy / "tunemake.json").read_text())
    flip(copy / "model.safetensors")
    record["files"]["model.safetensors"] = sha256_of_file(copy / "model.safetensors")
    (copy / "tunemake.json").chmod(0o644)
    (copy / "tunemake.json").write_text(json.dumps(record))
    assert built.run("tunemake", "verify", str(copy)).code == 0
    done = built.run("tunemake", "verify", str(copy), *signed)
    assert done.code == 1
    assert f"{copy}/model.safetensors is not what was signed" in done.out


def test_another_key_and_an_edited_statement_are_refused(built, keys):
    assert built.run("tunemake", "attest", "--key", str(keys / "mine.pem")).code == 0
    file = built.root / "tunemake.intoto.json"
    done = built.run("tunemake", "verify", "--attestation", file.name, "--public-key", str(keys / "other.pub"))
    assert done.code == 1
    assert "is not signed by" in done.out
    envelope = json.loads(file.read_text())
    payload = base64.b64decode(envelope["payload"]).replace(b'"seed":7', b'"seed":8')
    file.write_text(json.dumps(envelope | {"payload": base64.b64encode(payload).decode()}))
    done = built.run("tunemake", "verify", "--attestation", file.name, "--public-key", str(keys / "mine.pub"))
    assert done.code == 1
    assert "is not signed by" in done.out


def test_what_cannot_sign_or_be_checked_is_told_in_a_line(built, keys):
    wrong = [
        ("attest", "--key", "project.toml"),
        ("attest", "--key", "none.pem"),
        ("attest", "--key", str(keys / "mine.pub")),
        ("verify", "--attestation", "project.toml", "--public-key", str(keys / "mine.pub")),
        ("verify", "--attestation", "none.json", "--public-key", str(keys / "mine.pub")),
        ("verify", "--attestation", LOCK, "--public-key", "project.toml"),
        ("verify", "--attestation", LOCK),
    ]
    for arguments in wrong:
        done = built.run("tunemake", *arguments)
        assert done.code == 2, arguments
        assert len(done.err.splitlines()) == 1, done.err
    flip(built.root / "build/default/merged/model.safetensors")
    assert built.run("tunemake", "attest", "--key", str(keys / "mine.pem")).code == 1
    assert not (built.root / "tunemake.intoto.json").exists()
