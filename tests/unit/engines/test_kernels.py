"""Torch's attention without copies: what transformers' own function gives, which is asked for all that does not fit."""

from __future__ import annotations

from typing import Any

import pytest

from tunemake.cures import install_cures


@pytest.fixture(scope="module", autouse=True)
def _cured() -> None:
    install_cures()


def tensors(device: str, heads: int, groups: int, tokens: int = 48) -> list[Any]:
    """Give query, key and value as a model's linear layers leave them: heads lie inside tokens."""
    import torch

    torch.manual_seed(0)
    made = [torch.randn(2, tokens, number, 32) for number in (heads, groups, groups)]
    return [one.to(device, torch.bfloat16).transpose(1, 2).requires_grad_() for one in made]


def both(device: str, heads: int, groups: int, **told: Any) -> tuple[list[Any], list[Any], list[str]]:
    """Give output and gradients by ours and by transformers' own, and what ours asked of its own."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward as own

    from tunemake.engines.kernels import without_copies

    asked: list[str] = []

    def noted(*args: Any, **named: Any) -> Any:
        asked.append("own")
        return own(*args, **named)

    module = torch.nn.Module()
    module.num_key_value_groups = heads // groups  # type: ignore[assignment]
    found = []
    for function in (without_copies(noted), own):
        given = tensors(device, heads, groups)
        out, nothing = function(module, *given, told.get("mask"), 0.0, 32**-0.5)
        assert nothing is None
        out.float().pow(2).sum().backward()
        found.append([out.detach(), *(one.grad for one in given)])
    return found[0], found[1], asked


def test_a_cpu_is_left_to_transformers() -> None:
    import torch

    ours, theirs, asked = both("cpu", 4, 2)
    assert asked == ["own"]
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (8, 2)])
def test_a_gpu_gives_the_same_without_copies(heads: int, groups: int) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    ours, theirs, asked = both("cuda", heads, groups)
    assert asked == []
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        assert float((one - other).float().norm()) <= 0.02 * float(other.float().norm())


@pytest.mark.gpu
def test_where_something_is_masked_transformers_is_asked() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    mask = torch.ones(2, 1, 48, 48, dtype=torch.bool, device="cuda").tril()
    ours, theirs, asked = both("cuda", 8, 2, mask=mask)
    assert asked == ["own"]
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
