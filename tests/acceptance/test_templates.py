"""Trainings from templates: one of XTuner's own configs edited down to a tiny model on a CPU, and a project's own."""

import json

import pytest

XTUNER = """
template = "xtuner:{name}"
method = "lora"
precision = "float32"
accumulation = 1
"""


@pytest.mark.train
@pytest.mark.parametrize(
    "name",
    ["internlm2_1_8b_qlora_alpaca_e3", "llama2_7b_chat_qlora_alpaca_enzh_e3", "llama3_8b_instruct_full_alpaca_e3"],
)
def test_a_config_of_xtuner_s_trains_here_with_the_declared_values(project, name):
    project.edit("[train]\n", "[train]" + XTUNER.format(name=name))
    project.edit('prompt_template = "chatml"\n', "")
    project.edit("max_length = 200", "max_length = 200\npacking = false")
    project.built("merge")
    config = (project.root / "build/default/config/train.py").read_text("utf-8")
    assert "quantization_config" not in config
    assert "torch_dtype=torch.float32" in config
    record = project.record("default/train")
    assert record["facts"]["iterations"] == 4
    lines = [json.loads(line) for line in (project.root / "build/default/train/metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4]
    assert lines[0]["lr"] == pytest.approx(1e-3)
    told = (project.root / "build/default/train/answers.jsonl").read_text("utf-8")
    answers = [json.loads(line) for line in told.splitlines()]
    assert [(line["iteration"], line["prompt"]) for line in answers] == [
        (4, "请给我介绍五个上海的景点"), (4, "Please tell me five scenic spots in Shanghai"),
    ]  # fmt: skip
    adapter = json.loads((project.root / "build/default/adapter/adapter_config.json").read_text("utf-8"))
    assert (adapter["r"], adapter["lora_alpha"]) == (2, 4)
    assert (project.root / "build/default/merged/config.json").is_file()
    again = project.doit("merge")
    assert again.ran == []


@pytest.mark.train
def test_what_the_config_says_itself_reaches_the_adapter(project):
    """r, alpha and dropout are the config's own 64, 16 and 0.1, not tunemake's defaults."""
    project.edit("[train]\n", "[train]" + XTUNER.format(name="internlm2_1_8b_qlora_alpaca_e3"))
    project.edit("lora = { r = 2, alpha = 4 }\n", "")
    project.built("adapter")
    adapter = json.loads((project.root / "build/default/adapter/adapter_config.json").read_text("utf-8"))
    assert (adapter["r"], adapter["lora_alpha"], adapter["lora_dropout"]) == (64, 16, 0.1)


def test_a_declared_value_makes_the_config_stale_and_an_answer_s_prompt_not_the_training(project):
    project.edit("[train]\n", "[train]" + XTUNER.format(name="internlm2_1_8b_qlora_alpaca_e3"))
    project.built("config")
    before = (project.root / "build/default/config/decides.py").read_bytes()
    project.edit("[train]\n", '[train]\nanswers = { every = "3 iterations", prompts = ["who?"] }\n')
    assert "config" in project.built("config").ran
    assert (project.root / "build/default/config/decides.py").read_bytes() == before
    assert "evaluation_freq = 3\n" in (project.root / "build/default/config/train.py").read_text("utf-8")


def test_every_file_that_a_template_is_made_of_makes_the_config_stale(project):
    project.write(
        "templates/xtuner/mine.py.jinja", '{% extends "xtuner/lora.py.jinja" %}\n{% include "note.jinja" %}\n'
    )
    project.write("templates/note.jinja", "")
    project.edit("[train]\n", '[train]\ntemplate = "mine"\n')
    project.built("config")
    assert project.doit("config").ran == []
    project.write("templates/note.jinja", "# more\n")
    assert "templates/note.jinja changed" in project.doit("config").why("config")


def test_a_wrong_template_is_told_with_its_line_and_nothing_is_written(project):
    project.write(
        "templates/xtuner/mine.py.jinja",
        '{% extends "xtuner/lora.py.jinja" %}\n\n{% block data %}\nx = {{ oops }}\n{% endblock %}\n',
    )
    project.edit("[train]\n", '[train]\ntemplate = "mine"\n')
    done = project.doit("config")
    assert "templates/xtuner/mine.py.jinja:4:1: 'oops' is undefined" in done.told()
    assert "Traceback" not in done.told()
    assert not (project.root / "build/default/config").exists()


def test_a_template_that_is_none_is_told_at_its_line(project):
    project.edit("[train]\n", '[train]\ntemplate = "loar"\n')
    told = project.doit("list").told() + project.doit("config").told()
    assert 'train.template: templates/xtuner/loar.py.jinja: no such file; did you mean "lora"?' in told
    assert "project.toml:" in told


def test_configs_are_listed_and_shown(project):
    project.write("templates/xtuner/mine.py.jinja", "a = 1\n")
    listed = project.run("tunemake", "configs")
    assert listed.code == 0
    names = [line.split()[0] for line in listed.out.splitlines()]
    assert names[0] == "mine"
    assert {"full", "lora", "qlora", "xtuner:internlm2_1_8b_qlora_alpaca_e3"} <= set(names)
    assert len(names) == 4 + 593
    some = project.run("tunemake", "configs", "-p", "INTERNLM2_1_8B_").out.splitlines()
    assert [line.split()[0] for line in some] == [
        "xtuner:internlm2_1_8b_full_alpaca_e3", "xtuner:internlm2_1_8b_full_custom_pretrain_e1",
        "xtuner:internlm2_1_8b_qlora_alpaca_e3",
    ]  # fmt: skip
    assert "cannot serve: trains on plain text" in some[1]
    shown = project.run("tunemake", "configs", "--show", "xtuner:internlm2_1_8b_qlora_alpaca_e3").out
    assert "save_total_limit = 2  # Maximum checkpoints to keep" in shown
    assert project.run("tunemake", "configs", "--show", "xtuner:none").code == 2
