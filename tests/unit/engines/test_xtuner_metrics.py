"""What a training tells of its iterations is the same whether it is read after each or now and then."""

import json
import subprocess
import sys

import pytest
from builtin import loaded, project, rendered

from tunemake.engines import xtuner

pytestmark = pytest.mark.slow

# XTuner's runner with our hooks over a model of one weight, whose iterations take no time.
TRAINING = """
import sys
from tunemake.cures import install_cures; install_cures()
import torch
from mmengine.hooks import CheckpointHook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from tunemake.engines.xtuner_hooks import MetricsHook, SeedHook, StopHook
from tunemake.engines.xtuner_metrics import PacedLoggerHook, PacedOptimWrapper, PacedRuntimeHook

folder, pace, every, accumulation, iterations = sys.argv[1], *map(float, sys.argv[2:])

class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, data, data_samples=None, mode="loss"):
        return {"loss": ((self.weight - data["input_ids"].float().mean()) ** 2)}

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 500

    def __getitem__(self, number):
        return {"input_ids": torch.full((4,), number % 7), "attention_mask": torch.ones(4).bool()}

model = Model()
runner = Runner(
    model, folder,
    train_dataloader={"dataset": Rows(), "batch_size": 2, "sampler": {"type": "DefaultSampler", "shuffle": True},
                      "collate_fn": lambda rows: {"data": torch.utils.data.default_collate(rows)}},
    train_cfg={"by_epoch": False, "max_iters": int(iterations)},
    optim_wrapper={"type": PacedOptimWrapper, "optimizer": torch.optim.SGD(model.parameters(), 1e-3),
                   "clip_grad": {"max_norm": 1.0}, "accumulative_counts": int(accumulation)},
    default_hooks={"runtime_info": {"type": PacedRuntimeHook},
                   "logger": {"type": PacedLoggerHook, "interval": 1},
                   "checkpoint": {"type": CheckpointHook, "by_epoch": False, "interval": 40}},
    custom_hooks=[{"type": MetricsHook, "every": int(every), "pace": pace, "at": [40]}, {"type": SeedHook},
                  {"type": StopHook}],
    randomness={"seed": 0}, log_processor={"by_epoch": False},
)
reads = []
hook = next(hook for hook in runner.hooks if isinstance(hook, MetricsHook))
read = hook._read
hook._read = lambda runner, done: (reads.append(done), read(runner, done))
whole = runner.train()
history, _ = runner.message_hub.get_scalar("train/loss").data if pace else ([], [])
print("READS", reads, len(history), len(runner.message_hub.get_scalar("train/grad_norm").data[0]) if pace else 0)
"""


def train(folder, pace, every=1, accumulation=1, iterations=100):
    command = [sys.executable, "-c", TRAINING, str(folder), *map(str, (pace, every, accumulation, iterations))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (told,) = [line.removeprefix("READS ") for line in done.stdout.splitlines() if line.startswith("READS ")]
    reads, _, counts = told.rpartition("] ")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return lines, json.loads(reads + "]"), tuple(map(int, counts.split()))


def same(lines):
    return [{name: line[name] for name in line if name not in {"seconds", "peak_bytes"}} for line in lines]


def test_no_iteration_is_lost_between_two_reads(tmp_path):
    each, always, _ = train(tmp_path / "each", 0)
    paced, reads, (losses, norms) = train(tmp_path / "paced", 1000)
    assert always == list(range(1, 101))
    # The first, where the clock is learnt; then only where a checkpoint is saved, and the last.
    assert reads == [1, 40, 80, 100]
    assert [line["iteration"] for line in paced] == list(range(1, 101))
    assert same(paced) == same(each)
    assert losses == norms == 100
    assert all(line["seconds"] > 0 and line["tokens"] == 8 for line in paced)


@pytest.mark.parametrize(("every", "accumulation"), [(7, 1), (1, 4), (50, 16)])
def test_lines_fall_on_their_iterations_and_reads_on_whole_steps(tmp_path, every, accumulation):
    lines, reads, (losses, norms) = train(tmp_path, 0.0001, every, accumulation)
    assert [line["iteration"] for line in lines] == [one for one in range(1, 101) if one % every == 0 or one == 100]
    # Whoever asks the training to end is heard after a step, whatever the lines; at first the clock is learnt.
    steps = set(range(accumulation, 101, accumulation))
    assert set(reads) == steps | {1, 40, 80, 100}
    assert losses == 100
    assert norms == len(steps) + (100 % accumulation > 0)


def test_a_killed_training_goes_on_from_its_checkpoint_s_line(tmp_path):
    whole, _, _ = train(tmp_path, 1000)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in whole[:90]) + '{"iterat')
    again, _, _ = train(tmp_path, 1000, iterations=60)
    assert [line["iteration"] for line in again] == list(range(1, 61))


GPU = 'precision = "bfloat16"\nsteps = 200\n'


def types(tmp_path, train):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "one.py").write_text(rendered(tmp_path, "lora", train=train), "utf-8")
    config = loaded(tmp_path / "configs")["one"]
    hooks = {hook["type"].rpartition(".")[2]: hook for hook in config["custom_hooks"]}
    return config, hooks["MetricsHook"]


def test_a_config_in_bfloat16_is_paced_and_reads_where_something_is_saved(tmp_path):
    config, metrics = types(tmp_path, GPU + "accumulation = 2\ncheckpoints = { every = 50, keep = 2 }\n")
    assert metrics["pace"] == 1
    assert metrics["at"] == [config["save_steps"]] == [100]
    assert config["model"]["lora"]["target_modules"] == "all-linear"
    assert config["optim_wrapper"]["type"].endswith("PacedOptimWrapper")
    assert config["default_hooks"]["logger"]["type"].endswith("PacedLoggerHook")


@pytest.mark.parametrize("train", ['precision = "float32"\nsteps = 200\n', GPU + 'trackers = ["tensorboard"]\n'])
def test_others_tell_of_every_iteration_at_once(tmp_path, train):
    config, metrics = types(tmp_path, train)
    assert "pace" not in metrics
    assert config["optim_wrapper"]["type"].endswith(".OptimWrapper")
    assert config["default_hooks"]["logger"]["type"].endswith("hooks.LoggerHook")
    assert "runtime_info" not in config["default_hooks"]


def test_how_often_numbers_are_read_decides_nothing(tmp_path):
    values = project(tmp_path, "lora", train=GPU)
    assert "pace" in xtuner.render_config(values, tmp_path)
    told = xtuner.render_config(xtuner.deciding_values(values), tmp_path)
    assert "pace" not in told.lower()


def test_answers_and_checks_are_told_of_what_came_before_them(tmp_path):
    answers = 'answers = { every = 30, prompts = ["who?"] }\n'
    check = '[[train.early_stop.probe]]\nname = "short"\nkind = "answer_length"\nprompts = ["what?"]\nat_most = 9\n'
    _, metrics = types(tmp_path, GPU + answers + check + "[train.early_stop]\nevery = 20\n")
    assert metrics["at"] == [100, 30, 20]
