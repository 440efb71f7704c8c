"""The fast model: same losses and gradients as XTuner's own, for models of transformers and those with own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tiny import write_internlm2, write_llama

pytestmark = pytest.mark.filterwarnings("default")  # XTuner's own, and those of the libraries that it imports
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
WRITERS = {"llama": lambda folder: write_llama(folder, dtype="float32"), "internlm2": write_internlm2}
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "wqkv", "wo", "w1", "w2", "w3"]


@pytest.fixture(params=DEVICES)
def device(request: Any) -> str:
    """Give a device to train on; the GPU where there is one."""
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return str(request.param)


def build(
    kind: Any, folder: Path, dtype: str, device: str, *, dropout: float = 0.0, checkpointing: bool = False,
    adapter: bool = True, targets: list[str] | str = LAYERS,
) -> Any:  # fmt: skip
    """Give a model of XTuner's with an adapter whose B is not zero, the same each time."""
    import torch
    from mmengine.config import ConfigDict
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    llm = ConfigDict(
        type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path=str(folder),
        trust_remote_code=True, torch_dtype=getattr(torch, dtype),
    )  # fmt: skip
    lora = ConfigDict(
        type=LoraConfig, r=4, lora_alpha=8, lora_dropout=dropout, bias="none", task_type="CAUSAL_LM",
        target_modules=targets,
    )  # fmt: skip
    model = kind(llm=llm, lora=lora if adapter else None, use_activation_checkpointing=checkpointing).to(device)
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.05)
    return model.train()


def batch(device: str, *, padded: bool) -> dict[str, Any]:
    """Give two rows, the first of whose tokens are no part of the loss."""
    import torch

    torch.manual_seed(3)
    ids = torch.randint(3, 200, (2, 24))
    labels = ids.clone()
    labels[0, :9] = labels[1, :15] = -100
    mask = torch.ones_like(ids).bool()
    if padded:
        mask[1, 20:] = False
        labels[1, 20:] = -100
    told = {"input_ids": ids, "labels": labels, "attention_mask": mask, "position_ids": torch.arange(24).repeat(2, 1)}
    return {name: value.to(device) for name, value in told.items()}


def trained(model: Any, data: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Give the loss, and the gradients by name."""
    loss = model.compute_loss(dict(data))["loss"]
    loss.backward()
    named = {name: p.grad.double().cpu() for name, p in model.named_parameters() if p.grad is not None}
    return float(loss.detach()), named


def as_close(found: dict[str, Any], wanted: dict[str, Any], bound: float) -> None:
    """Hold gradients against each other, by their norms."""
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert float((found[name] - gradient).norm()) <= bound * float(gradient.norm()) + 1e-12, name


@pytest.mark.parametrize("architecture", WRITERS)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_trains_as_xtuners_own_model(
    tmp_path: Path, device: str, architecture: str, *, padded: bool, checkpointing: bool
) -> None:
    from xtuner.model import SupervisedFinetune

    from tunemake.engines.xtuner_model import FastFinetune

    WRITERS[architecture](tmp_path)
    data = batch(device, padded=padded)
    loss, gradients = trained(build(SupervisedFinetune, tmp_path, "float32", device), data)
    fast = build(FastFinetune, tmp_path, "float32", device, checkpointing=checkpointing)
    told, found = trained(fast, data)
    assert abs(told - loss) < 1e-4
    assert len(found) > 8
    assert all("lora_" in name for name in found)
    as_close(found, gradients, 1e-3)
    assert not fast._plain
    assert bool(fast._kernels.used) is (device == "cuda")
    fast._kernels.restore()  # the rotary embedding is put in for all models of a process


@pytest.mark.parametrize("architecture", WRITERS)
def test_every_linear_layer_but_the_head_is_adapted(tmp_path: Path, architecture: str) -> None:
    from tunemake.engines.xtuner_model import FastFinetune

    WRITERS[architecture](tmp_path)
    model = build(FastFinetune, tmp_path, "float32", "cpu", targets="all-linear")
    found = {name.split(".")[-4] for name, _ in model.named_parameters() if "lora_A" in name}
    assert found == {name for name in LAYERS if any(name in one for one, _ in model.named_modules())}


@pytest.mark.gpu
def test_an_adapter_is_made_where_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    from tunemake.engines.xtuner_model import FastFinetune

    seen, begin = set(), torch.nn.init.kaiming_uniform_

    def noted(tensor: Any, *args: Any, **named: Any) -> Any:
        seen.add(tensor.device.type)
        return begin(tensor, *args, **named)

    WRITERS["llama"](tmp_path)
    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", noted)
    build(FastFinetune, tmp_path, "bfloat16", "cuda")
    assert seen == {"cuda"}


@pytest.mark.parametrize(("architecture", "head"), [("llama", "lm_head"), ("internlm2", "output")])
def test_a_head_that_is_asked_for_is_adapted(tmp_path: Path, device: str, architecture: str, head: str) -> None:
    from xtuner.model import SupervisedFinetune

    from tunemake.engines.xtuner_model import FastFinetune

    WRITERS[architecture](tmp_path)
    data, targets = batch(device, padded=True), [*LAYERS, head]
    loss, gradients = trained(build(SupervisedFinetune, tmp_path, "float32", device, targets=targets), data)
    told, found = trained(fast := build(FastFinetune, tmp_path, "float32", device, targets=targets), data)
    fast._kernels.restore()
    assert any(head in name for name in found)
    assert abs(told - loss) < 1e-4
    as_close(found, gradients, 1e-3)


@pytest.mark.parametrize("architecture", WRITERS)
def test_bfloat16_keeps_the_adapter_whole(tmp_path: Path, device: str, architecture: str) -> None:
    import torch

    from tunemake.engines.xtuner_model import FastFinetune

    WRITERS[architecture](tmp_path)
    data = batch(device, padded=False)
    whole = build(FastFinetune, tmp_path, "float32", device)
    loss, gradients = trained(whole, data)
    whole._kernels.restore()
    half = build(FastFinetune, tmp_path, "bfloat16", device)
    types = {name: parameter.dtype for name, parameter in half.named_parameters()}
    assert {dtype for name, dtype in types.items() if "lora_" in name} == {torch.float32}
    assert {dtype for name, dtype in types.items() if "lora_" not in name} == {torch.bfloat16}
    told, found = trained(half, data)
    half._kernels.restore()
    assert abs(told - loss) < 0.05
    as_close(found, gradients, 0.1)
    # InternLM2's own code has an attention of its own.
    assert ("attention without copies" in half._kernels.used) is (device == "cuda" and architecture == "llama")


def test_dropout_falls_before_the_adapter_alone(tmp_path: Path) -> None:
    import torch
    from xtuner.model import SupervisedFinetune

    from tunemake.engines.xtuner_model import FastFinetune

    WRITERS["llama"](tmp_path)
    data, results = batch("cpu", padded=False), []
    for kind in (SupervisedFinetune, FastFinetune):
        model = build(kind, tmp_path, "float32", "cpu", dropout=0.3)
        model.compute_loss(dict(data))  # where the fast one is held against its own layers
        torch.manual_seed(4)
        results.append(trained(model, data))
    assert abs(results[0][0] - results[1][0]) < 1e-4
    as_close(results[1][1], results[0][1], 1e-3)


def test_a_model_that_the_faster_layers_do_not_fit_trains_by_its_own(tmp_path: Path) -> None:
    import torch

    from tunemake.engines.xtuner_model import FastFinetune

    WRITERS["llama"](tmp_path)
    model = build(FastFinetune, tmp_path, "float32", "cpu")
    causal = model.llm.get_base_model()
    forward = causal.forward

    def scaled(*args: Any, **kwargs: Any) -> Any:  # as Cohere's and Granite's models scale their logits
        out = forward(*args, **kwargs)
        labels = kwargs["labels"][:, 1:].flatten()
        out.loss = torch.nn.functional.cross_entropy(3 * out.logits[:, :-1].flatten(0, 1), labels)
        return out

    causal.forward = scaled
    data = batch("cpu", padded=False)
    assert float(model.compute_loss(dict(data))["loss"].detach()) == float(causal(**data).loss.detach())


@pytest.mark.parametrize("architecture", WRITERS)
def test_all_weights_have_the_gradients_of_xtuners_own_model(tmp_path: Path, device: str, architecture: str) -> None:
    from xtuner.model import SupervisedFinetune

    from tunemake.engines.xtuner_model import FastFinetune

    WRITERS[architecture](tmp_path)
    data = batch(device, padded=True)
    loss, gradients = trained(build(SupervisedFinetune, tmp_path, "float32", device, adapter=False), data)
    fast = build(FastFinetune, tmp_path, "float32", device, adapter=False)
    told, found = trained(fast, data)
    fast._kernels.restore()
    assert not fast._plain
    assert abs(told - loss) < 1e-4
    as_close(found, gradients, 1e-3)


def test_a_loss_that_is_more_than_the_heads_is_the_models_own(tmp_path: Path) -> None:
    from tunemake.engines.xtuner_model import FastFinetune

    WRITERS["llama"](tmp_path)
    model = build(FastFinetune, tmp_path, "float32", "cpu")
    model.llm.get_base_model().config.output_router_logits = True
    model.compute_loss(batch("cpu", padded=False))
    assert model._plain


def test_a_rotary_embedding_that_looks_positions_up_is_left_alone() -> None:
    from tunemake.engines.kernels import _as_ligers

    def by_tokens(q: Any, k: Any, cos: Any, sin: Any, position_ids: Any = None) -> None: ...

    def by_tables(q: Any, k: Any, cos: Any, sin: Any, position_ids: Any) -> None: ...

    def otherwise(x: Any, cos: Any, sin: Any) -> None: ...

    assert [_as_ligers(one) for one in (by_tokens, by_tables, otherwise)] == [True, False, False]
