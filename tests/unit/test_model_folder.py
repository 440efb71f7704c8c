import json

import pytest

import tiny
from tunemake.model_folder import set_chat_template

CHATML = {
    "system": "<|im_start|>system\n{system}<|im_end|>\n",
    "instruction": "<|im_start|>user\n{input}<|im_end|>\n<|im_start|>assistant\n", "suffix": "<|im_end|>",
    "suffix_as_eos": True, "separator": "\n", "stop_words": ["<|im_end|>"], "bos": True, "from_tokenizer": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "generation", "ends"),
    [
        ({"eos_token_id": 0}, None, [0, 2]),
        ({"eos_token_id": [0, 7]}, None, [0, 2, 7]),
        ({"eos_token_id": 0}, {"eos_token_id": 5}, [2, 5]),
        ({}, {"max_length": 9}, [2]),
    ],
)
def test_generation_ends_at_the_models_own_end_and_at_the_stop_words(tmp_path, config, generation, ends):
    tiny.write_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    set_chat_template(tmp_path, CHATML)
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == ends
