"""Proof that the files of a merged model are the base's but for what a merge sets: shards, index, config, tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tunemake.faults import Fault, ModelError
from tunemake.model_folder import BIGGEST_COMPANION, DTYPE_NAMES, OWN
from tunemake.models import legal_files, model_files
from tunemake.tensors import INDEX_NAME, Tensor, read_model

# Written anew by the merge, and the log of its stage; all else is the base's.
WRITTEN = {*OWN, "tokenizer_config.json", "generation_config.json", "chat_template.jinja", "log.txt"}
_OTHERS = (".safetensors", ".index.json")


def folder_faults(
    merged: Path, base: Path, written: Mapping[str, Tensor], shard_size: int | None, *, untied: bool
) -> Iterator[Fault]:
    """Give every fault of the files but for the values in them.

    written: the merged model's tensors. shard_size: bytes, None for the base's files. untied: the adapter parts the
    embeddings that the base ties.
    """
    if shard_size is None:
        yield from _number_faults(written, read_model(base))
    else:
        yield from _size_faults(written, shard_size)
    for path in sorted(set(merged.glob("*.safetensors")) - {tensor.path for tensor in written.values()}):
        yield Fault("merge", f"{path.name} is none of the model's weight files")
    if (merged / INDEX_NAME).exists():
        yield from _index_faults(json_object(merged / INDEX_NAME), written)
    yield from _config_faults(merged, base, written, untied=untied)
    yield from _companion_faults(merged, base)
    yield from _object_faults("tokenizer_config.json", merged, base, apart="chat_template")
    yield from _object_faults("generation_config.json", merged, base, apart="eos_token_id")


def _number_faults(written: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> Iterator[Fault]:
    here = {tensor.path for tensor in written.values()}
    there = {base[name].path for name in written if name in base}
    if len(here) != len(there):
        yield Fault("merge", "the weights lie in another number of files", str(len(there)), str(len(here)))


def _size_faults(written: Mapping[str, Tensor], shard_size: int) -> Iterator[Fault]:
    sizes: dict[str, list[int]] = {}
    for tensor in written.values():
        sizes.setdefault(tensor.path.name, []).append(tensor.size)
    for name, parts in sizes.items():
        if len(parts) > 1 and sum(parts) > shard_size:
            yield Fault("merge", f"{name} is larger than merge.shard_size", f"{shard_size} bytes", str(sum(parts)))


def _index_faults(index: Mapping[str, Any], written: Mapping[str, Tensor]) -> Iterator[Fault]:
    total, metadata = sum(tensor.size for tensor in written.values()), index.get("metadata")
    told = metadata.get("total_size") if isinstance(metadata, dict) else None
    if told != total:
        yield Fault("merge", f"{INDEX_NAME}: metadata.total_size", str(total), str(told))
    for name in sorted(written.keys() - index["weight_map"].keys()):
        yield Fault("merge", f"{INDEX_NAME}: {name} is not in weight_map")


def _config_faults(merged: Path, base: Path, written: Mapping[str, Tensor], *, untied: bool) -> Iterator[Fault]:
    """Give a fault for each value of config.json that is neither the base's nor what the weights make of it."""
    told, wanted = json_object(merged / "config.json"), json_object(base / "config.json")
    dtypes = {tensor.dtype for tensor in written.values()} & DTYPE_NAMES.keys()
    if len(dtypes) == 1:
        wanted["dtype" if "dtype" in wanted else "torch_dtype"] = DTYPE_NAMES[dtypes.pop()]
    if untied:
        wanted["tie_word_embeddings"] = False
    for key in sorted(told.keys() | wanted.keys()):
        if told.get(key) != wanted.get(key):
            yield Fault("merge", f"config.json: {key}", json.dumps(wanted.get(key)), json.dumps(told.get(key)))


def _companion_faults(merged: Path, base: Path) -> Iterator[Fault]:
    """Give a fault for each file beside the weights that is missing, another one, or not of the base."""
    wanted = {path.name: path for path in [*model_files(base), *legal_files(base)] if _is_companion(path)}
    found = {path.name: path for path in [*model_files(merged), *legal_files(merged)] if _is_companion(path)}
    for name in sorted(wanted.keys() - found.keys()):
        yield Fault("merge", f"{name} is missing, and the base has it")
    for name in sorted(found.keys()):
        if name not in wanted and not (base / name).is_file():
            yield Fault("merge", f"{name} is none of the base's files")
        elif found[name].read_bytes() != (base / name).read_bytes():
            yield Fault("merge", f"{name} is not the base's, byte for byte")


def _is_companion(path: Path) -> bool:
    return path.name not in WRITTEN and not path.name.endswith(_OTHERS) and path.stat().st_size <= BIGGEST_COMPANION


def _object_faults(name: str, merged: Path, base: Path, *, apart: str) -> Iterator[Fault]:
    """Give a fault for each value of a JSON object that is not the base's, but for the key that the merge sets."""
    told, wanted = json_object(merged / name), json_object(base / name)
    for key in sorted((told.keys() | wanted.keys()) - {apart}):
        if key not in told or key not in wanted or told[key] != wanted[key]:
            expected, got = (json.dumps(side.get(key), ensure_ascii=False)[:80] for side in (wanted, told))
            yield Fault("merge", f"{name}: {key} is not the base's", expected, got)


def json_object(path: Path) -> dict[str, Any]:
    """Give a file's JSON object, an empty one where there is no file; ModelError where it is none."""
    try:
        return dict(json.loads(path.read_bytes())) if path.exists() else {}
    except (OSError, TypeError, ValueError) as error:
        raise ModelError(Fault(str(path), f"no JSON object: {error}")) from error
