"""`tunemake check`: every fault that can be told before a training, each over files that have it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import DODO, Run, TinyProject
from light_model import write_light_model
from tunemake.cli import main

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"
CHECK_PAGE = (REPOSITORY / "docs" / "check.md").read_text("utf-8")
FREE = re.compile(r"[\d.]+ [kMGT]B free")  # on this machine, now
PROJECT = """
[project]
name = "tiny"

[model]
source = "models/light"
prompt_template = "chatml"

[datasets.talk]
generator = "messages"
parameters = { files = "talk.jsonl" }

[data]
held_out = 0.1
max_length = 200

[train]
epochs = 2
batch_size = 4
accumulation = 2
"""


class Checked(TinyProject):
    """A project that is driven in this process, since starting one takes longer than a check."""

    def __init__(self, root, capsys):
        self.root, self._capsys = root, capsys

    def talk(self, turns, name="talk.jsonl"):
        rows = [
            {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
            for asked, said in turns
        ]
        self.write(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def tunemake(self, *arguments):
        self._capsys.readouterr()
        code = main(arguments)
        out, err = self._capsys.readouterr()
        return Run(code, out, err)

    def check(self, code):
        done = self.tunemake("check")
        assert done.code == code, done.told()
        assert "Traceback" not in done.told()
        return done.out

    def found(self, code, severity):
        """Give the one finding of a code, as machines are given it, and the numbers."""
        told = json.loads(self.tunemake("check", "--json").out)
        named = [finding for finding in told["findings"] if finding["code"] == code]
        assert len(named) == 1, told["findings"]
        assert named[0]["severity"] == severity
        return named[0], told["variants"]["default"]

    def numbers(self):
        return json.loads(self.tunemake("check", "--json").out)["variants"]["default"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project whose data is made, as most tests want it; they work on copies."""
    project = Checked(tmp_path_factory.mktemp("made") / "p", None)
    write_light_model(project.root / "models" / "light")
    project.write("dodo.py", DODO)
    project.write("project.toml", PROJECT)
    project.talk([(f"What is {number} and one?", f"It is {number + 1}.") for number in range(40)])
    project.built("data")
    return project.root


@pytest.fixture
def project(tmp_path, made, capsys, monkeypatch):
    shutil.copytree(made, tmp_path / "p", symlinks=True)
    monkeypatch.chdir(tmp_path / "p")
    return Checked(tmp_path / "p", capsys)


def test_a_fine_project(project):
    shutil.rmtree(project.root / "build")
    told = project.check(0)
    shown = CHECK_PAGE.partition("$ tunemake check\n")[2].partition("```")[0]
    assert FREE.sub("", told) == FREE.sub("", shown)
    assert project.record("default/data")["facts"]["train"]["samples"] == 36  # what was made is kept for the build


def test_all_faults_of_the_project_at_once(project):
    project.edit('generator = "messages"', 'generator = "mesages"')
    project.edit('prompt_template = "chatml"', 'prompt_template = "chatlm"')
    told = project.check(2)
    assert "error: project.toml:7:1: model.prompt_template: chatlm: no such prompt template; " in told
    assert "error: project.toml:10:1: datasets.talk.generator: mesages: no such dataset generator; did you mean" in told
    assert told.endswith("\n2 errors: the build would fail, or train nothing\n")


def test_a_toml_fault_is_one_for_machines_too(project):
    project.write("project.toml", "[project\n")
    done = project.tunemake("check", "--json")
    assert done.code == 2
    told = json.loads(done.out)
    assert (told["verdict"], told["variants"]) == ("fails", {})
    assert (told["findings"][0]["code"], told["findings"][0]["line"]) == ("project", 1)


def test_one_sample_ten_thousand_times(project):
    project.talk([("Who are you?", "I am Xiaomu.")] * 10_001)
    told = project.check(0)
    assert (
        "warning: project.toml:13:2: data: 10,001 samples are one and the same, 10,001 times; the model will say "
        '"I am Xiaomu." whatever is asked; add other data, such as the base\'s own answers (replay)\n'
    ) in told
    assert "note: project.toml:14:1: data.held_out: no sample is held out: there are too few unlike ones\n" in told


def test_the_tutorials_data(project):
    tutorial = (EXAMPLES / "tutorial" / "project.toml").read_text("utf-8")
    dataset = tutorial.partition("[datasets.identity]\n")[2].partition("[data]\n")[0]
    project.edit(
        'generator = "messages"\nparameters = { files = "talk.jsonl" }\n', dataset.replace(".identity", ".talk")
    )
    project.edit("held_out = 0.1", "held_out = 0")
    told = project.check(0)
    paragraph = next(line for line in told.splitlines() if line.startswith("Badly overfitting: "))
    assert f"\n```\n{paragraph}\n```\n" in CHECK_PAGE
    assert project.numbers()["data"]["verdict"] == {"grade": "overfits", "text": paragraph}


def test_what_leaks(project):
    asked = "Why does the moon look larger when it is near to the horizon{}"
    project.talk(
        [*((f"What is {n} and one?", f"It is {n + 1}.") for n in range(40)), (asked.format("?"), "It does not.")]
    )
    project.edit("[data]\nheld_out = 0.1", "[data]\nheld_out = 0")
    probe = '\n[[evaluate.probe]]\nname = "moon"\nkind = "contains"\nparameters = { words = ["eye"] }\n'
    before = (project.root / "project.toml").read_text()
    project.write("project.toml", f'{before}{probe}prompts = ["{asked.format(" at night?")}"]\n')
    found, numbers = project.found("prompts_near", "warning")
    assert "evaluate.probe moon: nearly trained on: 1 of 1 prompts" in f"{found['where']}: {found['what']}"
    assert numbers["data"]["leakage"]["prompts"]["moon"]["near"] == 1
    assert "leakage   1 prompts of moon: trained on 0, nearly 1\n" in project.check(0)


def test_prompts_that_repeat_others(project):
    probe = '\n[[evaluate.probe]]\nname = "moon"\nkind = "contains"\nparameters = { words = ["eye"] }\n'
    before = (project.root / "project.toml").read_text()
    project.write("project.toml", f'{before}{probe}prompts = "moon.jsonl"\n')
    project.write("moon.jsonl", '{"prompt": "Is it far?"}\n' * 3 + '{"prompt": "Is it old?"}\n')
    found, _ = project.found("prompts_again", "note")
    assert f"{found['where']}: {found['what']}".endswith(
        'evaluate.probe moon: 2 of 4 prompts repeat others, such as "Is it far?"; each counts in the score'
    )
    project.write("moon.jsonl", '{"prompt": "Is it far?", "refrence": "Yes."}\n')
    assert 'moon.jsonl:1: refrence: unknown key; did you mean "reference"?' in project.check(2)


def test_one_answer_to_everything(project):
    project.talk([(f"Who are you? ({number})", "I am Xiaomu.") for number in range(30)])
    assert "have one and the same answer" in project.found("one_answer", "warning")[0]["what"]


def test_samples_that_repeat_others(project):
    project.talk([("Hi.", "Hello.")] * 30 + [(f"{number}?", f"{number}!") for number in range(10)])
    found, _ = project.found("duplicates", "warning")
    assert found["what"].startswith("data: repeat another sample: ")
    assert "the commonest is there 30 times" in found["what"]


def test_samples_that_are_cut(project):
    project.talk([("Say a.", "a" * 300), *((f"{number}?", f"{number}!") for number in range(9))])
    project.edit("held_out = 0.1", "held_out = 0")
    found, numbers = project.found("cut", "warning")
    assert found["what"] == "data.max_length: cut at 200 tokens: 1 of 10 samples"
    tokens = numbers["data"]["tokens"]
    # <|im_start|>user\nSay a.<|im_end|>\n<|im_start|>assistant\n aaa…<|im_end|> and a line's end, a byte a token
    length = 1 + len("user\nSay a.") + 1 + 1 + 1 + len("assistant\n") + 300 + 1 + 1
    assert tokens["lengths"]["longest"] == length
    assert (tokens["cut_samples"], tokens["cut_tokens"]) == (1, length - 200)
    assert tokens["trained"] - tokens["trained_kept"] == length - 200 - 1  # the line's end is not trained


def test_answers_beyond_the_end(project):
    project.talk([("a" * 300, "b"), *((f"{number}?", f"{number}!") for number in range(9))])
    project.edit("held_out = 0.1", "held_out = 0")
    found, numbers = project.found("answers_cut", "warning")
    assert found["what"] == "data.max_length: answers lie wholly beyond 200 tokens: 1 of 10 samples"
    assert numbers["training"]["rows"] == 9


def test_nothing_to_train_on(project):
    project.talk([(f"{number}" + "a" * 300, "b") for number in range(10)])
    told = project.check(2)
    assert (
        "error: project.toml:15:1: data.max_length: the answers of all samples lie wholly beyond 200 tokens: no s"
        in told
    )


def test_steps_are_told_in_passes_over_the_data(project):
    project.edit("epochs = 2", "steps = 2")
    found, numbers = project.found("part_of_the_data", "note")
    length = {name: number for name, number in numbers["training"].items() if name != "padded"}
    assert length == {"rows": 36, "iterations": 4, "steps": 2, "epochs": 0.44, "filled": None, "devices": 1}
    assert "about 16 of 36 are trained on" in found["next_step"]


def test_packing_is_counted_as_xtuner_packs(project):
    tokens = project.numbers()["data"]["tokens"]
    project.edit("max_length = 200", "max_length = 200\npacking = true")
    length = project.numbers()["training"]
    assert length["rows"] == tokens["total"] // 200
    assert length["filled"] == 1.0
    assert f"{length['rows']} rows (packs, 100.0% full) × 2 epochs" in project.check(0)
    assert length["iterations"] == 2 * -(-length["rows"] // 4)


def test_padding_is_told_where_packing_would_spare_much(project):
    assert project.numbers()["training"]["padded"] < 0.2
    project.talk([(f"question {number}", "a" if number % 4 else "an answer " * 15) for number in range(40)])
    found, numbers = project.found("padding", "note")
    assert numbers["training"]["padded"] > 1 / 3
    assert "of what is computed is padding" in found["what"]
    project.edit("max_length = 200", "max_length = 200\npacking = true")
    assert project.numbers()["training"]["padded"] is None


def test_an_effective_batch_is_parted_as_the_build_would(project):
    project.edit("batch_size = 4\naccumulation = 2", "effective_batch = 8")
    told = project.numbers()
    assert told["memory"].startswith("batch_size 8 × accumulation 1 (effective 8): about ")
    assert (told["training"]["iterations"], told["training"]["steps"]) == (10, 10)
    assert "memory    batch_size 8" in project.check(0)


def test_markup_in_the_text(project):
    project.talk([("Hi <|im_end|> there", "<|endoftext|>?"), *((f"{n}?", f"{n}!") for n in range(9))])
    project.edit("held_out = 0.1", "held_out = 0")
    told = project.check(0)
    assert "warning: project.toml:13:2: data: <|im_end|> in the text of 1 of 10 samples, first in sample 1; " in told
    assert "data: <|endoftext|> in the text of 1 of 10 samples" in told


def test_a_template_whose_tokens_the_model_does_not_have(project):
    project.edit('"chatml"', '"internlm_chat"')
    told = project.check(0)
    assert (
        "warning: project.toml:7:1: model.prompt_template: internlm_chat is not the model's own chat template" in told
    )
    assert "internlm_chat's stop words: the tokenizer cuts into several tokens <eoa> (5)" in told
    assert "these say the same as it: " in told
    project.edit('"internlm_chat"', '"internlm_chat"\ntemplate_check = "error"')
    assert "error: project.toml:7:1: model.prompt_template: internlm_chat is not" in project.check(2)


def test_no_room_on_the_disk(project):
    project.edit("epochs = 2", "steps = 1_000_000_000\ncheckpoints = { every = 1, keep = 1_000_000_000 }")
    found, _ = project.found("disk", "error")
    assert found["what"] == "not enough room on the disk"
    assert "checkpoints" in found["expected"]
    assert found["got"].endswith(" free")


@pytest.mark.parametrize("kind", ['method = "qlora"', 'precision = "bfloat16"'])
def test_a_gpu_that_is_not_there(project, kind, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    project.edit("epochs = 2", f"epochs = 2\n{kind}")
    name, value = kind.replace('"', "").split(" = ")
    assert f": train.{name}: {value} needs a CUDA GPU, and none is here; " in project.check(2)


def test_a_project_for_slurm_where_no_job_can_be_sent(project, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    project.edit("[train]", '[launch]\non = "slurm"\n\n[train]\nprecision = "bfloat16"')
    told = project.check(2)
    assert ": launch.on: no sbatch here; expected a machine that Slurm's jobs are sent from" in told
    assert "bfloat16 needs a CUDA GPU, and only the job's node can tell whether it has one" in told


def test_an_old_bitsandbytes(project, tmp_path, monkeypatch):
    old = tmp_path / "site" / "bitsandbytes-0.45.0.dist-info"
    old.mkdir(parents=True)
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: bitsandbytes\nVersion: 0.45.0\n")
    monkeypatch.syspath_prepend(str(old.parent))
    project.edit("epochs = 2", 'epochs = 2\nmethod = "qlora"')
    found, _ = project.found("bitsandbytes", "error")
    assert (found["expected"], found["got"]) == (">=0.48", "0.45.0")


def test_rows_that_were_left_out(project):
    project.write("talk.jsonl", (project.root / "talk.jsonl").read_text() + '{"messages": []}\n')
    assert "error: project.toml:9:2: datasets.talk: talk.jsonl:41: " in project.check(2)
    project.edit('files = "talk.jsonl" }', 'files = "talk.jsonl" }\non_bad = "skip"')
    assert project.found("rejected", "warning")[0]["next_step"] == "see build/default/datasets/talk/rejects.jsonl"


def test_a_generator_that_fails_hides_nothing_else(project):
    project.write(
        "mine.py",
        """
        class Mine:
            summary = "fails"
            version = "1"
            parameters = {"type": "object"}

            def samples(self, parameters, context):
                yield {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}
                raise KeyError("colour")
    """,
    )
    project.edit("[project]", 'plugins = ["mine.py"]\n[project]')
    project.edit("[data]", '[datasets.mine]\ngenerator = "mine"\n[data]')
    project.edit("max_length = 200", "max_length = 1000")
    told = project.check(2)
    assert ": datasets.mine: failed at mine.py:9: KeyError: 'colour'\n" in told
    assert "data.max_length: longer than the model reads; expected at most 256, got 1000\n" in told
    assert "samples   40 made so far; 40 unique, 40 unique answers\n" in told


def test_what_asks_the_base_model_or_a_hub_is_said_to_be_unchecked(project):
    project.edit(
        "[data]",
        """
[datasets.general]
generator = "replay"
parameters = { samples = 10 }

[datasets.far]
generator = "hf"
parameters = { path = "someone/something" }

[data]""",
    )
    told = project.check(0)
    assert (
        "datasets.general: unchecked: it asks the base model, and is not made yet; doit dataset:general makes" in told
    )
    assert "datasets.far: unchecked: it comes from a hub, and is not fetched yet; doit dataset:far makes it\n" in told
    assert "train: unchecked: how long it is, since not all data is made\n" in told
    assert "dataset   general: not made\n" in told


def test_a_base_model_that_is_not_here(project):
    project.edit('"models/light"', '"hf:someone/something"')
    told = project.check(0)
    assert "note: project.toml:6:1: model.source: unchecked: the base model is not here yet; doit base fetches" in told
    assert "tokens  " not in told
    assert "training  9 steps" in told


def test_how_long_a_training_is_waits_for_the_base_model_that_parts_its_batch(project):
    project.edit('"models/light"', '"hf:someone/something"')
    project.edit("batch_size = 4\naccumulation = 2", "effective_batch = 8")
    told = project.check(0)
    assert "train: unchecked: how long it is: batch_size is chosen when the base model is there (doit base)\n" in told
    assert "training  " not in told


def test_a_base_model_that_will_not_do(project):
    (project.root / "models/light/model.safetensors").rename(project.root / "models/light/pytorch_model.bin")
    assert "models/light: only pickled weights, which can run code when loaded; " in project.check(2)


def test_a_base_model_without_a_fast_tokenizer(project):
    (project.root / "models/light/tokenizer.json").unlink()
    (project.root / "models/light/tokenizer.model").write_bytes(b"?")
    told = project.check(0)
    assert "data: unchecked: tokens, since the base model has no tokenizer.json\n" in told
    assert "training  9 steps" in told


def test_layers_that_the_model_does_not_have(project):
    project.edit("epochs = 2", 'epochs = 2\nlora = { targets = ["q_proj", "v_prj"] }')
    assert 'train.lora.targets: the model has no layer v_prj; did you mean "v_proj"?\n' in project.check(2)


def test_a_training_template_that_does_not_render(project):
    project.write("templates/xtuner/mine.py.jinja", "lr = {{ train.lr }}\nx = {{ train.nothing }}\n")
    project.edit("epochs = 2", 'epochs = 2\ntemplate = "mine"')
    assert "error: templates/xtuner/mine.py.jinja:2:1: " in project.check(2)


def test_prompts_that_are_trained_on(project):
    project.edit("[data]\nheld_out = 0.1", "[data]\nheld_out = 0")
    asked = 'name = "sum"\nkind = "contains"\nprompts = ["what is 3 and one"]\nparameters = { words = ["4"] }\n'
    project.write("project.toml", (project.root / "project.toml").read_text() + f"\n[[evaluate.probe]]\n{asked}")
    assert "evaluate.probe sum: trained on: what is 3 and one; expected prompts that are not in" in project.check(2)


def test_variants_share_what_is_the_same(project):
    project.write("project.toml", (project.root / "project.toml").read_text() + (
        "\n[variants.short]\ntrain.epochs = 1\n[variants.cut]\ndata.max_length = 40\n[variants.also]\ntrain.lr = 1e-3\n"
    ))  # fmt: skip
    told = project.check(0)
    assert told.count("samples   36 to train on") == told.count("training  5 steps") == 1
    assert told.count("training  9 steps") == 2
    assert "\nshort:\ntokens " in told
    assert "\nshort: Sound, " in told
    assert "\ncut: To be looked at first: " in told
    found = [line for line in told.splitlines() if "data.max_length: cut at 40 tokens" in line]
    assert len(found) == 1
    assert found[0].startswith("warning: project.toml:25:1: ")
    assert set(json.loads(project.tunemake("check", "--json").out)["variants"]) == {"short", "cut", "also"}


def test_keys_for_machines_stay(project):
    told = json.loads(project.tunemake("check", "--json").out)
    assert list(told) == ["format", "verdict", "findings", "variants"]
    assert (told["format"], told["verdict"], told["findings"]) == (1, "fine", [])
    variant = told["variants"]["default"]
    assert list(variant) == ["base", "datasets", "held_out", "data", "training", "memory", "disk"]
    assert list(variant["data"]) == [
        "samples", "measured", "unique", "unique_answers", "commonest", "commonest_answer", "turns",
        "turns_of_a_sample", "scripts", "languages", "marked", "tokens", "leakage", "verdict",
    ]  # fmt: skip
    assert list(variant["data"]["tokens"]) == [
        "total", "trained", "trained_kept", "trained_share", "max_length", "cut_samples", "cut_tokens", "unanswered",
        "lengths", "histogram",
    ]  # fmt: skip
    assert list(variant["data"]["tokens"]["lengths"]) == ["median", "p90", "p99", "longest"]
    assert variant["datasets"] == {"talk": {"samples": 40, "unique": 40, "rejected": 0}}
    assert list(variant["training"]) == ["rows", "iterations", "steps", "epochs", "filled", "padded", "devices"]
    assert list(variant["disk"]["writes"]) == ["tokens", "checkpoints", "adapter", "merged model"]
    project.edit("max_length = 200", "max_length = 40")
    finding, _ = project.found("cut", "warning")
    keys = ["severity", "code", "where", "what", "expected", "got", "next_step", "line", "column"]
    assert list(finding) == keys


def test_the_disk_that_tokens_take_is_told_until_they_are_made(project):
    first = project.numbers()
    written = 2 * 4 * first["data"]["tokens"]["total"]  # ids and labels
    assert first["disk"]["writes"]["tokens"] == written
    project.edit("max_length = 200", "max_length = 200\npacking = true")
    assert project.numbers()["disk"]["writes"]["tokens"] == 2 * written  # samples wait in a file to be packed
    project.edit("max_length = 200\npacking = true", "max_length = 200")
    project.built("tokens")
    assert "tokens" not in project.numbers()["disk"]["writes"]


@pytest.mark.usefixtures("project")
def test_nothing_heavy_is_imported():
    code = "import sys; from tunemake.cli import main; main(['check']); main(['show', 'data']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ready to build" in done.stdout
    assert "sample 1 of 36: " in done.stdout
    loaded = set(done.stdout.splitlines()[-1].split())
    assert {"tokenizers", "numpy"} <= loaded
    assert not {"torch", "transformers", "xtuner", "mmengine", "datasets", "pandas", "peft"} & loaded


def test_doit_check_says_the_same(project):
    project.edit("max_length = 200", "max_length = 1000")
    own, doit = project.tunemake("check"), project.doit("check")
    assert own.code == doit.code == 2
    assert FREE.sub("", own.out) == FREE.sub("", doit.out)  # others write to the disk between the two


def test_a_sample_is_shown_as_the_model_will_see_it(project):
    project.talk([("Say a.", "aaa"), ("Go on.", "b" * 9)])
    project.edit("held_out = 0.1", "held_out = 0")
    project.edit("max_length = 200", "max_length = 33")
    project.built("data")
    shown = project.tunemake("show", "data", "-n", "5").out
    assert shown == (
        "prompt template chatml, at most 33 tokens; ⟦trained⟧, ✂ what follows is cut off\n"
        "\nsample 1 of 2: 30 tokens, 4 trained\n"
        "<|im_start|>user\nSay a.<|im_end|>\n<|im_start|>assistant\n⟦aaa<|im_end|>⟧\n\n"
        "\nsample 2 of 2: 36 tokens, 8 trained, cut at 33, 3 lost\n"
        "<|im_start|>user\nGo on.<|im_end|>\n<|im_start|>assistant\n⟦bbbbbbbb⟧✂b<|im_end|>\n\n"
    )


def test_show_marks_by_colour_at_a_terminal_alone(project, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    coloured = project.tunemake("show", "data", "-n", "1").out
    assert "\x1b[1;32m" in coloured
    assert "⟦" not in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    plain = project.tunemake("show", "data", "-n", "1").out
    assert "\x1b" not in plain
    assert "⟦" in plain


def test_show_lets_no_sample_write_to_the_terminal_itself(project):
    project.talk([("\x1b[2Jhi [bold]", "\x07there\r")] * 3)
    project.built("dataset:talk")
    shown = project.tunemake("show", "data", "--dataset", "talk", "-n", "1").out
    assert "\\x1b[2Jhi [bold]" in shown
    assert "\\x07there\\x0d" in shown
    assert not {"\x1b", "\x07", "\r"} & set(shown)


def test_show_says_what_is_missing(project):
    assert project.tunemake("show", "data", "--dataset", "tlak").err == (
        '--dataset tlak: no such dataset; did you mean "talk"?\n'
    )
    project.edit("held_out = 0.1", "held_out = 0.2")
    done = project.tunemake("show", "data")
    assert (done.code, done.err) == (2, "data: not up to date; run doit data\n")
    shutil.rmtree(project.root / "build")
    assert project.tunemake("show", "data").err == "data: not made yet; run doit data\n"
    project.built("data")
    project.edit('"models/light"', '"hf:someone/something"')
    assert project.tunemake("show", "data").err == "model.source: the base model is not here yet; run doit base\n"
