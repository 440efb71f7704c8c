"""What a build shows is what a build in a fresh folder makes, whatever was edited, damaged and killed before."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

import truth_project
from truth_machine import Driver, Oracle, Truth, shown
from truth_project import Values
from tunemake.faults import StageError
from tunemake.loading import load_builder
from tunemake.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place():
    memory = Path("/dev/shm")  # noqa: S108 - a folder of a name of its own is made there
    with tempfile.TemporaryDirectory(prefix="truth-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def driver(place):
    made = Driver(place)
    yield made
    made.close()


@pytest.fixture
def root(place):
    folder = Path(tempfile.mkdtemp(dir=place))
    truth_project.write_model(folder, place / "model")
    return folder


@pytest.mark.parametrize("runs", [6, pytest.param(60, marks=pytest.mark.nightly)])
def test_the_truth_under_random_edits_damage_and_kills(driver, place, runs):
    Truth.driver, Truth.oracle = driver, Oracle(driver, place)
    Truth.counts.clear()
    chosen = settings(
        max_examples=runs, stateful_step_count=50, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],  # times decide, so there is no less to find
    )  # fmt: skip
    run_state_machine_as_test(Truth, settings=chosen)
    assert Truth.counts["steps"] > 30 * runs
    assert Truth.counts["kills"] > runs


@pytest.mark.parametrize("letter", ["tail", "word", "inner", "end"])
def test_code_edited_to_the_same_size_and_time_is_run(driver, root, letter):
    values = Values(datasets=(("one", "lines"),))
    for letters in "abc":
        values = values.with_letter(letter, letters)
        truth_project.write(root, values.files(), "stat")
        assert driver.start(root, "process", pick=0).wait()["ok"]
        samples = (root / "build/default/datasets/one/samples.jsonl").read_text()
        expected = "".join(values.letters[name] for name in ("word", "inner", "end", "tail"))
        assert f"!{expected}1" in samples


def test_a_stage_in_a_fork_is_a_stage_in_a_process(driver, place):
    ends = []
    for how in ("fork", "process"):
        folder = Path(tempfile.mkdtemp(dir=place))
        truth_project.write_model(folder, place / "model")
        truth_project.write(folder, Values(variants="rates").files())
        told = driver.start(folder, how).wait()
        made = {link: shown(folder, link) for links in told["stages"].values() for link in links}
        truth_project.write(folder, Values().with_letter("lines", "z").files())
        ends.append((made, driver.start(folder, how).wait()))
    assert ends[0] == ends[1]
    assert len(ends[0][0]) == 9
    assert "9 bad rows" in ends[0][1]["error"]


@pytest.mark.parametrize("letter", ["lines", "word"])
def test_a_file_edited_to_the_same_size_and_time_while_its_stage_runs(driver, root, letter):
    values = Values(datasets=(("one", "lines"),))
    truth_project.write(root, values.files())
    time.sleep(0.1)  # so that its digest may be remembered
    later = values.with_letter(letter, "b")
    told = driver.start(root, "fork", meanwhile=later.files()).wait()
    assert not told["ok"]
    assert "changed while it ran" in told["error"]
    assert driver.start(root, "fork").wait()["ok"]
    assert shown(root, "build/default/data")[1] == Oracle(driver, root.parent).of(later)["build/default/data"][1]


def test_a_base_model_edited_after_it_was_looked_at_is_not_taken_for_the_one_recorded(root):
    values = Values(datasets=(("two", "csv"),))
    truth_project.write(root, values.files())
    builder = load_builder(root)
    builder.make("base", anew=False, watch=print)
    truth_project.write(root, values.with_letter("model", "b").files(), "stat")
    with pytest.raises(StageError, match=r"generation_config\.json changed just now"):
        builder.make("config", anew=False, watch=print)
    builder.make("base", anew=False, watch=print)
    assert builder.make("config", anew=False, watch=print) is not None


@pytest.mark.parametrize("key", ["format", "fingerprint", "stage_version", "parameters", "inputs", "outputs"])
def test_a_record_without_one_of_its_values_is_none(driver, root, key):
    truth_project.write(root, Values(datasets=(("one", "three"),)).files())
    assert driver.start(root, "fork").wait()["ok"]
    path = root / "build/default/datasets/one/artifact.json"
    path.chmod(0o644)
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != key}))
    assert driver.start(root, "fork").wait()["ok"]
    assert key in json.loads(path.read_text())


def test_what_one_variant_forgets_is_made_anew_where_variants_share_it(driver, root):
    truth_project.write(root, Values(variants="seeds").files())
    assert driver.start(root, "fork").wait()["ok"]
    Store(root).forget("build/b/datasets/one")
    truth_project.write(root, Values(variants="rates").files())
    for _ in range(2):
        assert driver.start(root, "fork").wait()["ok"]
        log = [json.loads(line) for line in (root / "build/log.jsonl").read_text().splitlines()]
        again = Counter(line["artifact"] for line in log)
        assert [name for name, count in again.items() if count > 1] == [shown(root, "build/b/datasets/one")[0]]
    assert not Store(root).is_forgotten("build/b/datasets/one")


def test_an_entry_that_became_a_file_is_made_anew_any_number_of_times(driver, root):
    truth_project.write(root, Values(datasets=(("one", "three"),)).files())
    assert driver.start(root, "fork").wait()["ok"]
    entry = (root / "build/default/data").resolve()
    for _ in range(2):
        shutil.rmtree(entry)
        entry.write_text("a file")
        assert driver.start(root, "fork").wait()["ok"]
        assert entry.is_dir()


@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_stands_in_the_place_of_a_link_is_kept_and_told(driver, root, what):
    truth_project.write(root, Values(datasets=(("one", "three"),)).files())
    assert driver.start(root, "fork").wait()["ok"]
    link = root / "build/default/data"
    link.unlink()
    (link if what == "file" else link / "mine").parent.mkdir(exist_ok=True)
    (link if what == "file" else link / "mine").write_text("mine")
    told = driver.start(root, "fork").wait()
    assert told["error"].startswith(f"build/default/data: a {what} of this name is there; expected the link")
    shutil.move(link, root / "moved")
    assert driver.start(root, "fork").wait()["ok"]
    assert not list(link.parent.glob(".*"))
