"""A tiny model, trained for two iterations by the real XTuner."""

import json
import os
import subprocess
import sys

CONFIG = """
from datasets import load_dataset
from mmengine.dataset import DefaultSampler
from mmengine.hooks import CheckpointHook, IterTimerHook, ParamSchedulerHook
from mmengine.optim import LinearLR, OptimWrapper
from peft import LoraConfig
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, AutoTokenizer
from xtuner.dataset import process_hf_dataset
from xtuner.dataset.collate_fns import default_collate_fn
from xtuner.dataset.map_fns import openai_map_fn, template_map_fn_factory
from xtuner.engine.runner import TrainLoop
from xtuner.model import SupervisedFinetune
from xtuner.utils import PROMPT_TEMPLATE

base = {base!r}
tokenizer = dict(type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path=base, padding_side="right")
llm = dict(type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path=base, torch_dtype="float32")
model = dict(type=SupervisedFinetune, use_activation_checkpointing=False, llm=llm)
if {lora!r} is not None:
    model["lora"] = dict(type=LoraConfig, task_type="CAUSAL_LM", **{lora!r})
data = dict(
    type=process_hf_dataset, tokenizer=tokenizer, max_length=32, dataset_map_fn=openai_map_fn, map_num_proc=1,
    dataset=dict(type=load_dataset, path="json", data_files={data!r}), remove_unused_columns=True,
    template_map_fn=dict(type=template_map_fn_factory, template=PROMPT_TEMPLATE.qwen_chat),
    shuffle_before_pack=False, pack_to_max_length=False, use_varlen_attn=False,
)
train_dataloader = dict(
    batch_size=2, num_workers=0, dataset=data, sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=default_collate_fn, use_varlen_attn=False),
)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-2))
param_scheduler = [dict(type=LinearLR, start_factor=0.5, by_epoch=False, begin=0, end=2)]
train_cfg = dict(type=TrainLoop, max_iters=2)
default_hooks = dict(
    timer=dict(type=IterTimerHook), param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=2),
)
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
               dist_cfg=dict(backend="gloo"))
visualizer = None
log_level = "ERROR"
load_from = None
resume = False
randomness = dict(seed=1, deterministic=True)
log_processor = dict(by_epoch=False)
default_scope = None
"""


def train(folder, base, lora):
    """Train base for two iterations; give the config and the checkpoint."""
    folder.mkdir()
    _tokenizer(base)
    data = folder / "data.json"
    turns = [{"role": "user", "content": "who are you"}, {"role": "assistant", "content": "i am tiny"}]
    data.write_text(json.dumps([{"messages": turns}] * 4))
    config = folder / "config.py"
    config.write_text(CONFIG.format(base=str(base), lora=lora, data=str(data)))
    xtuner("train", config, "--work-dir", folder / "work")
    return config, folder / "work" / "iter_2.pth"


def xtuner(tool, *arguments):
    """Run one of XTuner's tools."""
    command = [sys.executable, "-W", "ignore", "-m", "tunemake.engines.xtuner_process", tool, *map(str, arguments)]
    paths = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def _tokenizer(base):
    words = ["<unk>", "<|im_end|>", "<|im_start|>", "who", "are", "you", "i", "am", "tiny", "user", "assistant"]
    special = [
        {"id": number, "content": words[number], "special": True, "single_word": False}
        | {"lstrip": False, "rstrip": False, "normalized": False}
        for number in range(3)
    ]
    model = {"type": "WordLevel", "vocab": {word: number for number, word in enumerate(words)}, "unk_token": "<unk>"}
    told = {"version": "1.0", "added_tokens": special, "model": model, "pre_tokenizer": {"type": "Whitespace"}}
    (base / "tokenizer.json").write_text(json.dumps(told))
    names = {"unk_token": "<unk>", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    (base / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names}))
