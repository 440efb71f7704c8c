"""tokens: the training samples as token ids and labels, cut and packed, in the rows that the training reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunemake import prompts
from tunemake.artifacts import read_record
from tunemake.chat_templates import resolved
from tunemake.contracts import Sample
from tunemake.engines import xtuner
from tunemake.faults import Fault, SampleError
from tunemake.samples import read_samples
from tunemake.stages import Job
from tunemake.stages.data import TRAIN, samples_file

if TYPE_CHECKING:
    from tunemake.engines.xtuner_rows import Encoder, Rows

_TOLD = 20_000  # samples between two words of progress


def run(job: Job) -> dict[str, Any]:
    """Write work/tokens.arrow, an Arrow stream with the columns input_ids, labels and length.

    parameters: prompt_template, max_length, packing, seed (that of the shuffle before packing, else None),
    trust_remote_code. inputs: base, of which the tokenizer's files are read, and data.
    """
    from tunemake.engines.xtuner_rows import Encoder, packed
    from tunemake.engines.xtuner_tokenizer import load_tokenizer

    told, folder = job.parameters, job.inputs["base"] / "model"
    template = resolved(told["prompt_template"], folder)
    tokenizer = load_tokenizer(
        str(folder), prompts.as_xtuner(template), trust_remote_code=told["trust_remote_code"], padding_side="right"
    )
    encoder = Encoder(tokenizer, template, told["max_length"])
    rows: Iterable[Rows] = encoder.rows(_watched(job, read_samples(samples_file(job.inputs["data"], TRAIN))))
    if told["packing"]:
        rows = packed(rows, told["max_length"], told["seed"], job.work)
    written, tokens, trained = _write(job.work / xtuner.TOKENS, rows)
    if not written:
        what = "nothing is left to train on: of no sample lies a part of an answer within data.max_length"
        raise SampleError(Fault("data.max_length", what, got=f"{told['max_length']} tokens"))
    facts = _facts(encoder, written, tokens, trained, packing=told["packing"])
    job.say(_line(facts, told["max_length"]))
    return facts


def _line(facts: Mapping[str, Any], max_length: int) -> str:
    share = f"{facts['trained_tokens'] / facts['tokens']:.0%} of them trained"
    told = f"{facts['samples'] - facts['left_out']:,} samples, {facts['tokens']:,} tokens, {share}"
    if "filled" in facts:
        told += f"; {facts['rows']:,} packs of {max_length:,}, {facts['filled']:.1%} full"
    if facts.get("dropped_tokens"):
        told += f"; {facts['dropped_tokens']:,} tokens at the end fill none and are left out"
    if facts["left_out"]:
        told += f"; left out, since nothing of an answer lies within max_length: {facts['left_out']:,}"
    return told


def _watched(job: Job, samples: Iterable[Sample]) -> Iterator[Sample]:
    record = read_record(job.inputs["data"])
    total = 0 if record is None else int(record["facts"][TRAIN]["samples"])
    for number, sample in enumerate(samples, 1):
        yield sample
        if number % _TOLD == 0 or number == total:
            job.progress(number, total, "samples")


def _write(path: Path, rows: Iterable[Rows]) -> tuple[int, int, int]:
    """Write rows as they come; give how many, their tokens, and those of them that the loss counts."""
    import numpy as np
    import pyarrow as pa

    from tunemake.engines.xtuner_rows import IGNORED

    shape = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32())), ("length", pa.int32())])
    count = tokens = trained = 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, shape) as stream:
        for some in rows:
            if not len(some.ends):
                continue
            places = pa.array(np.concatenate([[0], some.ends]).astype(np.int32))
            ids, labels = (pa.ListArray.from_arrays(places, pa.array(one)) for one in (some.ids, some.labels))
            lengths = pa.array(np.diff(some.ends, prepend=0).astype(np.int32))
            stream.write_batch(pa.record_batch([ids, labels, lengths], schema=shape))
            count += len(some.ends)
            tokens += len(some.ids)
            trained += int((some.labels != IGNORED).sum())
    return count, tokens, trained


def _facts(encoder: Encoder, rows: int, tokens: int, trained: int, *, packing: bool) -> dict[str, Any]:
    """Give the figures of the record. dropped_tokens: of the end, which fills no pack."""
    found: dict[str, Any] = {
        "samples": encoder.samples, "left_out": encoder.left_out, "rows": rows, "tokens": tokens,
        "trained_tokens": trained, "cut_tokens": encoder.cut,
    }  # fmt: skip
    if packing:
        found |= {"dropped_tokens": encoder.tokens - tokens, "filled": round(tokens / (rows * encoder.max_length), 4)}
    return found
