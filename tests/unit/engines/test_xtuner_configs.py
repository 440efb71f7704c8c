"""XTuner's built-in configs: every one is refused with a reason, or takes every value that a project declares."""

from collections import Counter

import builtin
import pytest

from tunemake import prompts, schema
from tunemake.engines import sizing, xtuner, xtuner_configs, xtuner_edits
from tunemake.engines.python_edits import PythonText
from tunemake.faults import InputError

pytestmark = pytest.mark.slow

DECLARED = {
    "seed": "seed = 7",
    "data": "max_length = 64\npacking = false",
    "train": """
method = "lora"
precision = "float32"
steps = 6
batch_size = 3
accumulation = 5
lr = 3e-3
schedule = "linear"
warmup = 0
weight_decay = 0.1
max_norm = 0.5
activation_checkpointing = false
deterministic = true
num_workers = 3
log_every = 9
lora = { r = 2, alpha = 4, dropout = 0.25, targets = ["q_proj"] }
checkpoints = { every = 2, keep = 7 }
answers = { every = "8 iterations", prompts = ["who?"] }
trackers = ["tensorboard"]

[[train.early_stop.probe]]
name = "short"
kind = "answer_length"
prompts = ["what?"]
at_most = 9

[train.early_stop]
every = "3 iterations"
""",
}


def every_config():
    for name, places in xtuner_configs.builtin_configs().items():
        for place in places:
            known = name if len(places) == 1 else place.inside.removesuffix(".py")
            yield known, xtuner_configs.refusal(PythonText(place.path.read_text("utf-8")))


def test_the_names_are_those_that_xtuner_lists():
    assert len(xtuner_configs.builtin_configs()) == 589


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("llava_v15_7b_finetune", "trains on images"),
        ("internlm2_chat_1_8b_dpo_full", "a chosen and a rejected answer"),
        ("internlm2_chat_1_8b_orpo_full", "a chosen and a rejected answer"),
        ("internlm2_chat_1_8b_reward_full_ultrafeedback", "trains a reward model"),
        ("internvl_v2_internlm2_2b_lora_finetune", "trains on images"),
        ("internlm2_1_8b_full_custom_pretrain_e1", "trains on plain text"),
        ("llama2_7b_full_pgbooks_400iters_sp1", "made into tokens before"),
        ("internlm2_7b_w_tokenized_dataset", "own repository format"),
        ("internlm_7b_qlora_moss_sft_all_e1", "MOSS's own format"),
        ("internlm_7b_qlora_oasst1_e3_hf", "Hugging Face's Trainer"),
    ],
)
def test_a_config_that_trains_something_else_is_refused_with_the_reason(name, why, tmp_path):
    with pytest.raises(InputError, match=why) as told:
        builtin.project(tmp_path, f"xtuner:{name}")
    assert str(told.value).startswith("project.toml:16:1: train.template: ")


def test_a_name_that_is_none_is_told_with_the_one_that_was_meant(tmp_path):
    with pytest.raises(InputError, match='no such config; did you mean "internlm2_1_8b_qlora_alpaca_e3"'):
        builtin.project(tmp_path, "xtuner:internlm2_1_8b_qlora_alpaca")


def test_a_name_that_two_configs_have_needs_its_folder(tmp_path):
    name = "minicpm_1b_full_custom_pretrain_e1"
    with pytest.raises(InputError, match=f"several XTuner configs have this name; expected .*pretrain/minicpm/{name}"):
        builtin.project(tmp_path, f"xtuner:{name}")
    assert xtuner_configs.builtin_config(f"custom_dataset/sft/minicpm/{name}").inside.startswith("custom_dataset/sft")


@pytest.fixture(scope="module")
def all_edited(tmp_path_factory):
    """Every config that can serve, with every value declared, as XTuner loads it; and why the others cannot."""
    root = tmp_path_factory.mktemp("all")
    made = root / "made"
    for folder in (made, root / "itself"):
        folder.mkdir()
    values = builtin.project(root, "xtuner:internlm2_1_8b_qlora_alpaca_e3", **DECLARED)
    refused = {}
    for name, why in every_config():
        if why is not None:
            refused[name] = why
            continue
        told = {**values, "template": f"xtuner:{name}"}
        path = "" if xtuner.makes_tokens(told["template"], root) else values["tokens_path"]
        for folder, tokens in ((made, path), (root / "itself", "")):
            text = xtuner.render_config({**told, "tokens_path": tokens}, root)
            (folder / f"{name.rpartition('/')[2]}.py").write_text(text, "utf-8")
    return builtin.loaded(made), refused, builtin.loaded(root / "itself")


@pytest.fixture(scope="module")
def itself(all_edited):
    """The same, each making its tokens itself."""
    return all_edited[2]


def data_of(config):
    data = config["train_dataloader"]["dataset"]
    if data["type"].endswith("ConcatDataset"):
        assert len(data["datasets"]) == 1
        data = data["datasets"][0]
    return data


def test_all_of_them_are_accounted_for(all_edited):
    edited, refused, _ = all_edited
    assert len(edited) + len(refused) == 593  # four names are there twice
    assert len(edited) == 450
    assert all(refused.values())


def test_every_declared_value_arrives_where_xtuner_reads_it(all_edited):
    for name, config in all_edited[0].items():
        model, loader, wrapper = config["model"], config["train_dataloader"], config["optim_wrapper"]
        path = "build/base/model/model"
        assert (
            model["llm"]["pretrained_model_name_or_path"]
            == config["tokenizer"]["pretrained_model_name_or_path"]
            == path
        ), name
        assert (model["llm"]["torch_dtype"], "quantization_config" in model["llm"]) == ("torch.float32", False), name
        assert model["llm"]["trust_remote_code"] is False, name
        lora = {key: model["lora"][key] for key in ("r", "lora_alpha", "lora_dropout", "target_modules")}
        assert lora == {"r": 2, "lora_alpha": 4, "lora_dropout": 0.25, "target_modules": ["q_proj"]}, name
        assert model["use_activation_checkpointing"] is False, name
        assert (loader["batch_size"], loader["num_workers"]) == (3, 3), name
        assert wrapper["type"] == "mmengine.optim.OptimWrapper", name
        assert not {"dtype", "loss_scale"} & set(wrapper), name
        assert (wrapper["optimizer"]["lr"], wrapper["optimizer"]["weight_decay"]) == (3e-3, 0.1), name
        assert wrapper["clip_grad"]["max_norm"] == 0.5, name
        parallel = config.get("sequence_parallel_size", 1)
        each = wrapper["accumulative_counts"]
        assert each in {5, 5 * parallel}, name
        assert config["train_cfg"]["max_iters"] == 6 * each, name
        assert "max_epochs" not in config["train_cfg"], name
        checkpoint, logger = config["default_hooks"]["checkpoint"], config["default_hooks"]["logger"]
        assert (checkpoint["interval"], checkpoint["max_keep_ckpts"], logger["interval"]) == (2 * each, 7, 9), name
        assert config["randomness"] == {"seed": 7, "deterministic": True}, name


def test_a_config_reads_the_tokens_or_has_data_of_a_form_that_they_are_not(all_edited, itself):
    why = Counter()
    for name, config in all_edited[0].items():
        data, own = data_of(config), data_of(itself[name])
        if data["type"] == "xtuner.dataset.process_hf_dataset":
            assert data == own, name
            why["varlen"] += own["use_varlen_attn"] is True
            why["fewer"] += "max_dataset_length" in own
            why["in order"] += own["shuffle_before_pack"] is False
            continue
        path = "build/default/tokens/tokens.arrow"
        assert data == {"type": "tunemake.engines.xtuner_data.token_rows", "path": path}, name
        assert own.get("use_varlen_attn", False) is False, name
        assert (own["shuffle_before_pack"], own["remove_unused_columns"]) == (True, True), name
        assert set(own) <= {
            "type", "dataset", "tokenizer", "max_length", "dataset_map_fn", "template_map_fn", "remove_unused_columns",
            "shuffle_before_pack", "pack_to_max_length", "use_varlen_attn", "map_num_proc",
        }, name  # fmt: skip
    assert why == {"varlen": 9, "fewer": 2, "in order": 1}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("internlm2_1_8b_qlora_alpaca_e3", None),
        ("internlm2_7b_full_finetune_custom_dataset_e1", "its data has use_varlen_attn = True"),
    ],
)
def test_a_config_that_makes_its_tokens_itself_says_why(name, why, tmp_path):
    builtin.project(tmp_path, f"xtuner:{name}")
    stages = builtin.load_builder(tmp_path).stages
    assert stages["train"].runtime["makes_tokens"] == why
    assert ("tokens" in stages, "tokens" in stages["train"].needs) == (why is None, why is None)
    assert bool(stages["config"].parameters["tokens_path"]) == (why is None)


def test_every_config_reads_the_project_s_samples_and_nothing_else(itself):
    for name, config in itself.items():
        data = data_of(config)
        assert data["type"] == "xtuner.dataset.process_hf_dataset", name
        files = data["dataset"]["data_files"]
        read = files["train"] if isinstance(files, dict) else files[0]
        assert (data["dataset"]["path"], read) == ("json", "build/default/data/train.json"), name
        assert set(data["dataset"]) == {"type", "path", "data_files"}, name
        assert data["dataset_map_fn"] == "xtuner.dataset.map_fns.openai_map_fn", name
        assert data["template_map_fn"]["type"] == "xtuner.dataset.map_fns.template_map_fn_factory", name
        assert (data["max_length"], data["pack_to_max_length"], data["map_num_proc"]) == (64, False, None), name
        assert data["tokenizer"]["type"] == "tunemake.engines.xtuner_hooks.load_tokenizer", name


def test_every_config_has_the_hooks_that_a_build_needs(all_edited):
    for name, config in all_edited[0].items():
        kinds = [hook["type"].rpartition(".")[2] for hook in config["custom_hooks"]]
        assert kinds.count("MetricsHook") == kinds.count("AnswersHook") == 1, name
        assert "EvaluateChatHook" not in kinds, name
        answers = config["custom_hooks"][kinds.index("AnswersHook")]
        assert (answers["prompts"], answers["every"]) == (["who?"], 8), name
        assert config["visualizer"]["type"].endswith("Trackers"), name
        assert config["visualizer"]["names"] == ["tensorboard"], name
        stop = config["custom_hooks"][kinds.index("EarlyStopHook")]
        assert (stop["every"], stop["checks"], stop["probes"][0]["name"]) == (3, 2, "short"), name


def test_every_schedule_falls_from_its_peak_to_nothing_over_the_steps(all_edited):
    for name, config in all_edited[0].items():
        falls = config["param_scheduler"][-1]
        assert len(config["param_scheduler"]) == 1, name
        assert falls["type"] == "mmengine.optim.LinearLR", name
        assert (falls["start_factor"], falls["end_factor"], falls["begin"]) == (1.0, 0.0, 0), name


def test_what_is_not_declared_stays_the_config_s_own(tmp_path):
    values = builtin.project(tmp_path, "xtuner:internlm2_1_8b_qlora_alpaca_e3", train="lr = 0.5")
    train = values["train"]
    assert values["declared"] == ["model.source", "project.name", "train.lr", "train.template"]
    assert (train["method"], train["precision"], train["lr"], train["epochs"]) == ("qlora", "float16", 0.5, 3)
    assert (train["lora"]["r"], train["lora"]["alpha"], train["lora"]["dropout"]) == (64, 16, 0.1)
    assert (train["accumulation"], train["batch_size"], train["warmup"]) == (16, 1, 0.03)
    assert values["data"] == {"max_length": 2048, "packing": True}
    edited = xtuner.render_config(values, tmp_path)
    source = xtuner_configs.builtin_config("internlm2_1_8b_qlora_alpaca_e3").path.read_text("utf-8")
    kept = {line for line in source.splitlines() if line.strip()} - set(edited.splitlines())
    assert {line.split("=")[0].strip() for line in kept} == {
        "from xtuner.dataset.map_fns import alpaca_map_fn, template_map_fn_factory",
        "pretrained_model_name_or_path", "alpaca_en_path", "lr", "dataset", "dataset_map_fn",
    }  # fmt: skip


def test_an_effective_batch_is_parted_in_a_config_that_has_one_of_its_own(tmp_path):
    train = 'effective_batch = 32\nactivation_checkpointing = "auto"'
    values = builtin.project(tmp_path, "xtuner:internlm2_1_8b_qlora_alpaca_e3", train=train)
    assert {"batch_size", "accumulation"}.isdisjoint(values["train"])
    xtuner.check_places(values)
    choice = {"train.batch_size": 8, "train.accumulation": 4, "train.activation_checkpointing": False, "why": "so"}
    edited = xtuner.render_config(sizing.settled(values, choice), tmp_path)
    assert "\nbatch_size = 8  # per_device\naccumulative_counts = 4\n" in edited
    assert "use_activation_checkpointing=False" in edited
    assert "# Chosen once, and kept in tunemake.lock: so\n" in edited
    deciding = xtuner.render_config(xtuner.deciding_values(sizing.settled(values, choice)), tmp_path)
    assert "\nbatch_size = 8 " in deciding
    assert "Chosen once" not in deciding
    assert deciding == xtuner.render_config(
        xtuner.deciding_values(sizing.settled(values, {**choice, "train.activation_checkpointing": True})), tmp_path
    )


def test_the_prompt_template_is_the_config_s_own_unless_another_is_declared(tmp_path):
    own = builtin.project(tmp_path, "xtuner:internlm2_1_8b_qlora_alpaca_e3")
    assert own["prompt_template"]["instruction"] == "<|User|>:{input}\n<|Bot|>:"
    assert "prompt_template = PROMPT_TEMPLATE.default\n" in xtuner.render_config(own, tmp_path)
    named = {"model": 'prompt_template = "internlm2_chat"'}
    text = builtin.rendered(tmp_path, "xtuner:internlm2_1_8b_qlora_alpaca_e3", **named)
    assert "prompt_template = PROMPT_TEMPLATE.internlm2_chat\n" in text
    other = {**own, "prompt_template": {**own["prompt_template"], "instruction": "Q: {input} A:"}}
    assert "prompt_template = dict(SYSTEM='<|System|>:{system}\\n', INSTR" in xtuner.render_config(other, tmp_path)


def test_each_of_xtuner_s_prompt_templates_is_named_and_not_spelt_out(tmp_path):
    own = builtin.project(tmp_path, "xtuner:internlm2_1_8b_qlora_alpaca_e3")
    for form in xtuner_configs.prompt_templates().values():
        text = xtuner.render_config({**own, "prompt_template": prompts.from_xtuner(form)}, tmp_path)
        assert "prompt_template = PROMPT_TEMPLATE." in text


def test_a_value_without_a_place_is_told_and_not_lost(tmp_path):
    with pytest.raises(InputError) as told:
        builtin.project(tmp_path, "xtuner:minicpm3_4b_full_alpaca_zh_e3", train="epochs = 2\nlora = { r = 3 }")
    lines = str(told.value).splitlines()
    assert [line.split(":")[3].strip() for line in lines] == ["train.epochs", "train.lora.r"]
    assert lines[0].endswith("minicpm3_4b_full_alpaca_zh_e3 has no place for it; it counts steps: declare train.steps")
    assert lines[1].endswith('has no place for it; declare train.method = "lora", or leave it out')


def test_what_only_decides_how_it_runs_does_not_decide_the_weights(tmp_path):
    name = "xtuner:internlm2_1_8b_qlora_alpaca_e3"
    plain = builtin.project(tmp_path, name)
    loud = builtin.project(
        tmp_path, name, train='checkpoints = { keep = 9 }\nanswers = { prompts = ["x"] }\nlog_every = 3'
    )
    other = builtin.project(tmp_path, name, train="lr = 0.25")
    texts = [xtuner.render_config(xtuner.deciding_values(values), tmp_path) for values in (plain, loud, other)]
    assert xtuner.render_config(plain, tmp_path) != xtuner.render_config(loud, tmp_path)
    assert texts[0] == texts[1] != texts[2]


def test_every_value_of_the_schema_that_a_config_must_hold_has_an_edit():
    def leaves(table, at):
        for key, entry in table["properties"].items():
            yield from leaves(entry, f"{at}.{key}") if "properties" in entry else [f"{at}.{key}"]

    tables = schema.load_schema("project.schema.json")["properties"]
    known = {name for table in ("project", "model", "data", "train") for name in leaves(tables[table], table)}
    assert {name for name in known if xtuner_edits.is_edited(name)} == set(xtuner_edits.edits())
