"""How many bytes a training takes of a device, estimated from the model's shape before it runs; pure, loads nothing.

What is kept for the backward pass is counted tensor by tensor, as Korthikanti et al. 2022 do for a GPT layer
("Reducing Activation Recomputation in Large Transformer Models", section 4), here for a layer with a gated MLP and
attention that keeps no scores. A frozen matrix keeps nothing of its input; an adapter beside it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunemake.machine import size

_FLOAT, _ADAM = 4, 8  # bytes of a value, and of the two averages that Adam keeps of it
_NF4 = 0.516  # bytes of a value in 4 bits, with its share of the constants, themselves quantised
_LOGIT = {2: 12, 4: 16}  # bytes of a logit without a fused loss: it, its float32, the softmax's and the gradient
# The matrices of a layer by what they read and write, under the names that models give them.
_QUERY, _KEY, _FUSED = ("q_proj", "wq"), ("k_proj", "v_proj", "wk", "wv"), ("qkv_proj", "wqkv", "query_key_value")
_OUT = ("o_proj", "wo", "out_proj", "dense")
_ATTENDED = "attended"
_WIDE, _WIDER, _DOWN = ("gate_proj", "up_proj", "w1", "w3", "fc1"), ("gate_up_proj",), ("down_proj", "w2", "fc2")


@dataclass(frozen=True)
class Shape:
    """A model's sizes. queries, keys: width of all heads. matrices: names of its linear layers. experts: in a layer.

    active: how many of the experts a token passes.
    """

    parameters: int
    hidden: int
    layers: int
    queries: int
    keys: int
    intermediate: int
    vocabulary: int
    matrices: tuple[str, ...]
    experts: int = 1
    active: int = 1


@dataclass(frozen=True)
class Way:
    """How a model is trained, as far as memory hangs on it.

    bits: of the products, 16 or 32. autocast: the base and what passes between layers stand in float32, and each
    product has copies of its own. fused_loss: liger-kernel's layers and loss, which make no logits of a whole batch.
    shared: layers with one input keep it once. rank, targets, dropout: of the adapter.
    """

    method: str
    bits: int
    autocast: bool = False
    fused_loss: bool = False
    shared: bool = True
    rank: int = 0
    targets: str | tuple[str, ...] = "all-linear"
    dropout: float = 0


@dataclass(frozen=True)
class Matrix:
    """A linear layer of each of the model's layers.

    reads: the tensor of `rows` values a token that it may have in common with others. times: how many there are, one
    for each expert; active: how many of them a token passes.
    """

    name: str
    rows: int
    columns: int
    reads: str
    times: int = 1
    active: int = 1


@dataclass(frozen=True)
class Estimate:
    """Bytes by what takes them."""

    terms: Mapping[str, int]

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.terms.values())

    def told(self) -> str:
        """Say it in words, as in "weights 3.8 GB, adapter 1.1 GB"."""
        return ", ".join(f"{name} {size(number)}" for name, number in self.terms.items() if number)


def shape_of(config: Mapping[str, Any], facts: Mapping[str, Any]) -> Shape | None:
    """Read a model's shape from its config.json and base/model.json; None where they do not tell it."""
    hidden, layers, vocabulary = facts["hidden_size"], facts["layers"], facts["vocabulary"]
    heads = _number(config, "num_attention_heads", "n_head")
    if not hidden or not layers or not vocabulary or not heads:
        return None
    each = _number(config, "head_dim") or hidden // heads
    return Shape(
        facts["parameters"], hidden, layers, heads * each, (_number(config, "num_key_value_heads") or heads) * each,
        _number(config, "moe_intermediate_size", "intermediate_size", "n_inner") or 4 * hidden, vocabulary,
        tuple(facts["matrices"]), _number(config, "num_local_experts", "num_experts", "n_routed_experts") or 1,
        _number(config, "num_experts_per_tok") or 1,
    )  # fmt: skip


def estimate(shape: Shape, way: Way, batch: int, length: int, *, checkpointing: bool) -> Estimate:
    """Give what a training takes at its peak. batch: rows in an iteration on the device; length: tokens of a row."""
    tokens, value = batch * length, way.bits // 8
    stream = _FLOAT if way.autocast else value
    layer = sum(kept(shape, way).values()) * tokens
    boundaries = shape.layers * shape.hidden * stream * tokens
    activations = boundaries + layer if checkpointing else shape.layers * layer
    logits = shape.hidden * (value + 8) if way.fused_loss else shape.vocabulary * _LOGIT[value]
    ends = 3 * shape.hidden * stream  # embeddings and the last norm
    terms = {**weights(shape, way), "activations": activations + ends * tokens, "logits": logits * tokens}
    return Estimate({name: round(number) for name, number in terms.items()})


def weights(shape: Shape, way: Way) -> dict[str, float]:
    """Give the bytes of weights and of what the optimizer keeps: they hang on no batch."""
    value, linear = way.bits // 8, shape.layers * sum(m.rows * m.columns * m.times for m in _matrices(shape))
    linear = min(linear, shape.parameters)
    if way.method == "full":
        copies = value * shape.parameters if way.autocast else 0
        trained = shape.parameters * (_FLOAT + _ADAM)
        return {"weights": _FLOAT * shape.parameters + copies, "gradients and optimizer": trained}
    adapter = shape.layers * sum(way.rank * (m.rows + m.columns) * m.times for m in adapted(shape, way))
    base = _FLOAT if way.autocast else value
    if way.method == "qlora":
        largest = max((m.rows * m.columns for m in _matrices(shape)), default=0)
        held = _NF4 * linear + base * (shape.parameters - linear) + value * largest
    else:
        held = base * shape.parameters + (value * linear if way.autocast else 0)
    return {"weights": held, "adapter": adapter * (2 * _FLOAT + _ADAM)}


def kept(shape: Shape, way: Way) -> dict[str, float]:
    """Give what a layer keeps of a token for the backward pass: bytes, by what it is."""
    value, hidden = way.bits // 8, shape.hidden
    stream, trained = _FLOAT if way.autocast else value, adapted(shape, way)
    own = not way.shared or bool(way.dropout)  # each linear layer has a copy of its input
    inputs = {(matrix.name if own else matrix.reads): matrix.rows * matrix.active for matrix in trained}
    norm = stream if way.fused_loss else _FLOAT  # else transformers computes it in float32
    if way.method == "full" and not way.fused_loss:
        norm += stream  # what is normed, for the gradient of the norm's weight
    mask = 1 if way.bits == 16 else value  # noqa: PLR2004 - float32 is a CPU's, which keeps no truth values but numbers
    wide = stream if way.method == "qlora" else value  # bitsandbytes answers in the type that it is asked in
    return {
        "norms": 2 * norm * hidden,
        # The attention keeps what it gives.
        "inputs": value * sum(number for name, number in inputs.items() if name != _ATTENDED),
        # Queries and what comes of them; keys and values, repeated for each query.
        "attention": value * 4 * shape.queries,
        "mlp": wide * (2 if way.fused_loss else 3) * shape.intermediate * shape.active,
        "dropout": mask * sum(matrix.rows * matrix.active for matrix in trained) if way.dropout else 0,
        "adapter": value * way.rank * sum(matrix.active for matrix in trained),
    }


def adapted(shape: Shape, way: Way) -> list[Matrix]:
    """Give the linear layers whose weights, or whose adapters, are trained."""
    found = _matrices(shape)
    if way.method == "full" or isinstance(way.targets, str):  # a regular expression counts as all of them
        return found
    return [matrix for matrix in found if matrix.name in {name.rpartition(".")[2] for name in way.targets}]


def _matrices(shape: Shape) -> list[Matrix]:
    """Give a layer's linear layers, by the names that the model has; of none that is known, those of a Llama."""
    h, q, k, i = shape.hidden, shape.queries, shape.keys, shape.intermediate
    expert = shape.experts, shape.active
    sizes: dict[str, tuple[int, int, str, int, int]] = {
        **dict.fromkeys(_QUERY, (h, q, "normed", 1, 1)), **dict.fromkeys(_KEY, (h, k, "normed", 1, 1)),
        **dict.fromkeys(_FUSED, (h, q + 2 * k, "normed", 1, 1)), **dict.fromkeys(_OUT, (q, h, _ATTENDED, 1, 1)),
        **dict.fromkeys(_WIDE, (h, i, "normed again", *expert)), **dict.fromkeys(_DOWN, (i, h, "widened", *expert)),
        **dict.fromkeys(_WIDER, (h, 2 * i, "normed again", *expert)),
    }  # fmt: skip
    llama = (*_QUERY[:1], *_KEY[:2], *_OUT[:1], *_WIDE[:2], *_DOWN[:1])
    names = [name for name in shape.matrices if name in sizes] or list(llama)
    return [Matrix(name, *sizes[name]) for name in names]


def _number(config: Mapping[str, Any], *names: str) -> int | None:
    return next((int(config[name]) for name in names if isinstance(config.get(name), int) and config[name] > 0), None)
