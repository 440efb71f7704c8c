"""The peer of the training benchmark: Hugging Face's Trainer with PEFT, tuned by hand, on the very same rows.

    python bench/hf_peer.py '{"model": FOLDER, "rows": NPZ, "out": JSON, "steps": 30, "batch": 8, "accumulation": 2}'

bfloat16 base, LoRA of rank 64 on all linear layers but the head, SDPA, fused AdamW, no activation checkpointing.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

EVERY = 5  # steps


def main(*, model: str, rows: str, out: str, steps: int, batch: int, accumulation: int) -> None:
    """Train and write {"seconds": of a step, by fives, "losses", "peak_bytes", "versions"}."""
    import numpy as np
    import peft
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    with np.load(rows) as told:
        ids, labels = torch.from_numpy(told["input_ids"]), torch.from_numpy(told["labels"])
    data = [{"input_ids": one, "labels": label} for one, label in zip(ids, labels, strict=True)]

    class InOrder(Trainer):  # type: ignore[misc]
        """Takes the rows as they come, in the order of the other contenders, and keeps each batch's loss.

        Versions differ in whether the loss that they log of an accumulated step is a mean or a sum.
        """

        seen: list[Any] = []  # noqa: RUF012 - there is one trainer

        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
            loss = super().compute_loss(model, inputs, *arguments, **named)
            self.seen.append(loss.detach())
            return loss

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Notes when every fifth step ended: to wait for the GPU after each would slow the training down."""

        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, _arguments: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step % EVERY == 0:
                torch.cuda.synchronize()
                self.ends.append(time.perf_counter())

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(
        model, torch_dtype=torch.bfloat16, attn_implementation="sdpa", trust_remote_code=True
    )
    base.config.use_cache = False
    head = {id(base.get_output_embeddings())}
    names = {name.rpartition(".")[2] for name, module in base.named_modules()
             if isinstance(module, torch.nn.Linear) and id(module) not in head}  # fmt: skip
    told = peft.LoraConfig(r=64, lora_alpha=16, lora_dropout=0, target_modules=sorted(names), task_type="CAUSAL_LM")
    arguments = TrainingArguments(
        str(Path(out).with_suffix("")), per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
        max_steps=steps,
        bf16=True, optim="adamw_torch_fused", learning_rate=2e-4, lr_scheduler_type="constant", logging_steps=EVERY,
        save_strategy="no", report_to=[], max_grad_norm=1.0, disable_tqdm=True, logging_nan_inf_filter=False,
    )  # fmt: skip
    clock = Clock()
    trainer = InOrder(peft.get_peft_model(base, told), arguments, train_dataset=data, callbacks=[clock])
    # Else some versions add the gradients of an accumulated step where they should average them.
    trainer.model_accepts_loss_kwargs = False
    trainer.train()
    found = [float(one) for one in trainer.seen]
    losses = [sum(found[at : at + accumulation]) / accumulation for at in range(0, len(found), accumulation)]
    seconds = [(after - before) / EVERY for before, after in zip(clock.ends, clock.ends[1:], strict=False)]
    versions = f"transformers {transformers.__version__}, peft {peft.__version__}"
    facts = {"seconds": seconds, "losses": losses, "peak_bytes": torch.cuda.max_memory_allocated()}
    Path(out).write_text(json.dumps({**facts, "versions": versions}))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
