"""examples/tutorial declares what the tutorial edits by hand; here both are made, and compared as XTuner loads them."""

import shutil
from pathlib import Path

import builtin
import pytest

from tunemake.engines import xtuner, xtuner_configs
from tunemake.engines.xtuner_additions import MARK

EXAMPLE = Path(__file__).parents[3] / "examples" / "tutorial" / "project.toml"
CONFIG = "internlm2_1_8b_qlora_alpaca_e3"
# The tutorial's own edits, line by line. The two paths are of the author's machine there, and of our build here.
BY_HAND = [
    (
        'pretrained_model_name_or_path = "internlm/internlm2-1_8b"',
        'pretrained_model_name_or_path = "build/base/internlm2-chat-1_8b/model"',
    ),
    ('alpaca_en_path = "tatsu-lab/alpaca"', 'alpaca_en_path = "build/default/data/train.json"'),
    ("max_length = 2048", "max_length = 1024"),
    ("max_epochs = 3", "max_epochs = 2"),
    ("save_total_limit = 2 ", "save_total_limit = 3 "),
    ("evaluation_freq = 500", "evaluation_freq = 300"),
    (
        'evaluation_inputs = ["请给我介绍五个上海的景点", "Please tell me five scenic spots in Shanghai"]',
        "evaluation_inputs = ['请你介绍一下你自己', '你是谁', '你是我的小助手吗']",
    ),
    ("import alpaca_map_fn, template_map_fn_factory", "import openai_map_fn, template_map_fn_factory"),
    (
        "dataset=dict(type=load_dataset, path=alpaca_en_path)",
        "dataset=dict(type=load_dataset, path='json', data_files=dict(train=alpaca_en_path))",
    ),
    ("dataset_map_fn=alpaca_map_fn", "dataset_map_fn=openai_map_fn"),
]


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """The config edited by hand, what tunemake edits, and the whole that trains: each as XTuner loads it.

    itself: the whole, but that it makes its tokens itself.
    """
    root = tmp_path_factory.mktemp("tutorial")
    shutil.copy(EXAMPLE, root / "project.toml")
    (root / "models" / "internlm2-chat-1_8b").mkdir(parents=True)
    values = builtin.values(root)
    whole, why = xtuner.training_config(values, root)
    assert why is None
    itself = xtuner.render_config({**values, "tokens_path": ""}, root)
    by_hand = xtuner_configs.builtin_config(CONFIG).path.read_text("utf-8")
    for old, new in BY_HAND:
        assert by_hand.count(old) == 1, old
        by_hand = by_hand.replace(old, new)
    made = root / "made"
    made.mkdir()
    edited, mark, added = whole.partition(MARK)
    assert mark
    for name, text in {
        "by_hand": by_hand,
        "edited": edited + added.splitlines()[0],
        "whole": whole,
        "itself": itself,
    }.items():
        (made / f"{name}.py").write_text(text, "utf-8")
    return builtin.loaded(made)


def test_what_is_declared_gives_the_config_that_the_tutorial_edits_by_hand(configs):
    """Equal: the same top-level names, each with the same values, types named by module and name."""
    assert configs["edited"] == configs["by_hand"]
    assert len(configs["by_hand"]) > 30
    assert configs["by_hand"]["train_dataloader"]["dataset"]["dataset"] == {
        "type": "datasets.load_dataset", "path": "json", "data_files": {"train": "build/default/data/train.json"},
    }  # fmt: skip


def test_the_tokens_are_read_where_the_config_would_make_them(configs):
    """The data is one call in place of another; what that one says, the stage tokens was told as well."""
    whole, itself = configs["whole"], configs["itself"]
    read = {"type": "tunemake.engines.xtuner_data.token_rows", "path": "build/default/tokens/tokens.arrow"}
    made = itself["alpaca_en"]
    assert whole["alpaca_en"] == whole["train_dataloader"]["dataset"] == read
    assert itself["train_dataloader"]["dataset"] == made
    assert (made["max_length"], made["pack_to_max_length"], made["shuffle_before_pack"]) == (1024, True, True)
    put_back = {**whole, "alpaca_en": made, "train_dataloader": {**whole["train_dataloader"], "dataset": made}}
    assert put_back == itself


def test_what_tunemake_adds_is_this_and_nothing_else(configs):
    """The whole differs from the hand-edited config in the values that are set back here, one by one.

    But for the data, of which the test above tells.
    """
    whole, by_hand = configs["itself"], configs["by_hand"]
    stock = by_hand["tokenizer"]["type"]
    for tokenizer in (whole["tokenizer"], whole["alpaca_en"]["tokenizer"], whole["custom_hooks"][0]["tokenizer"],
                      whole["train_dataloader"]["dataset"]["tokenizer"]):  # fmt: skip
        assert tokenizer.pop("prompt_template") == "xtuner.utils.PROMPT_TEMPLATE.default"
        assert tokenizer.pop("type") == "tunemake.engines.xtuner_hooks.load_tokenizer"
        tokenizer["type"] = stock
    for data in (whole["alpaca_en"], whole["train_dataloader"]["dataset"]):
        assert data.pop("map_num_proc") is None
    info, answers, metrics, seed, stop = whole["custom_hooks"]
    assert seed == {"type": "tunemake.engines.xtuner_hooks.SeedHook"}
    assert stop == {"type": "tunemake.engines.xtuner_hooks.StopHook"}
    assert metrics == {"type": "tunemake.engines.xtuner_hooks.MetricsHook", "every": 1}
    assert answers["type"] == "tunemake.engines.xtuner_hooks.AnswersHook"
    assert (answers["every"], answers["prompts"]) == (300, by_hand["evaluation_inputs"])
    whole["custom_hooks"] = [info, by_hand["custom_hooks"][1]]
    assert by_hand["custom_hooks"][1]["type"] == "xtuner.engine.hooks.EvaluateChatHook"
    assert whole["param_scheduler"][0].pop("type") == "tunemake.engines.xtuner_hooks.WarmUp"
    whole["param_scheduler"][0]["type"] = by_hand["param_scheduler"][0]["type"]
    assert whole["randomness"].pop("seed") == 0
    whole["randomness"]["seed"] = None
    assert whole == by_hand
