"""Real trainings under edits, damage and kills: what the last build shows is what a fresh folder comes to."""

import json
import random
import shutil
import time
from collections import Counter

import pytest

from conftest import TinyProject, kill, processes_of, wait_for

pytestmark = pytest.mark.train

FILES = [
    "data/train.json", "config/train.py", "adapter/adapter_model.safetensors", "merged/model.safetensors",
    "merged/config.json", "evaluation/scores.json",
]  # fmt: skip
KILLS = 4


def content(project):
    return {name: (project.root / "build/default" / name).read_bytes() for name in FILES}


def made_twice(project):
    log = (project.root / "build" / "log.jsonl").read_text().splitlines()
    count = Counter(json.loads(line)["artifact"] for line in log)
    return {name.rpartition("-")[0] for name, number in count.items() if number > 1}


def damage(path):
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")


def kill_at_random(project, chance):
    process = project.start("doit")
    wait_for(lambda: project.work("train") or process.poll() is not None)
    time.sleep(chance.uniform(0, 6))
    code = kill(process)
    wait_for(lambda: not processes_of(project.root / "build"))
    return code


def test_trained_artifacts_are_the_truth_after_edits_damage_and_kills(built, tmp_path, tiny_llama):
    chance, first = random.Random(11), content(built)
    built.edit("lr = 1e-3", "lr = 2e-3")
    built.edit("every = 2, keep = 2", "every = 1, keep = 2")
    codes = []
    for number in range(KILLS):
        codes.append(kill_at_random(built, chance))
        (built.root / "build/.cache/digests.json").write_text("{" * number)
    assert -9 in codes
    built.built()
    assert not made_twice(built)
    fresh = TinyProject(tmp_path / "fresh")
    shutil.copytree(tiny_llama, fresh.root / "models" / "tiny")
    shutil.copy(built.root / "project.toml", fresh.root / "project.toml")
    fresh.built()
    assert content(built) == content(fresh)
    assert content(built)["merged/model.safetensors"] != first["merged/model.safetensors"]
    # and back, to a merged model that was damaged meanwhile
    built.edit("lr = 2e-3", "lr = 1e-3")
    built.edit("every = 1, keep = 2", "every = 2, keep = 2")
    for entry in (built.root / "build/.store").glob("merge-*"):
        damage(entry / "model.safetensors")
    built.built()
    assert content(built) == first
    assert made_twice(built) == {"merge"}
    assert built.built().ran == []
