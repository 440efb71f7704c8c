"""What is wrong with what leaked: held-out samples that are not new, prompts that were as good as trained on."""

from __future__ import annotations

from collections.abc import Iterator

from tunemake.faults import Fault
from tunemake.findings import Finding, Severity, excerpt, unchecked
from tunemake.leakage import NEAR, Leakage, Overlap


def leakage_findings(found: Leakage) -> Iterator[Finding]:
    """Give what leaked. Prompts that are trained on word for word end the build: they are errors elsewhere."""
    yield from _held_out(found.held_out)
    for name, overlap in found.prompts.items():
        if overlap.near:
            what = f"nearly trained on: {_near(overlap, 'prompts')}"
            step = f"{_pair(overlap, same=False)}; ask in other words, or the score tells what was learnt by heart"
            yield Finding("warning", "prompts_near", Fault(f"evaluate.probe {name}", what, next_step=step))
    for name, overlap in found.prompts_held_out.items():
        if count := overlap.exact + overlap.near:
            what = f"asked in held-out samples too, the same or nearly: {count:,} of {overlap.texts:,} prompts"
            step = f"{_pair(overlap, same=overlap.exact > 0)}; score and held-out loss then tell the same twice"
            yield Finding("note", "prompts_held_out", Fault(f"evaluate.probe {name}", what, next_step=step))


def _held_out(found: Overlap) -> Iterator[Finding]:
    if found.exact:
        what = f"trained on but for case, punctuation and spaces: {found.exact:,} of {found.texts:,} held-out samples"
        step = f"{_pair(found, same=True)}; the held-out loss tells what was learnt by heart; leave doubles out"
        yield Finding("warning", "held_out_trained", Fault("data.held_out", what, next_step=step))
    if found.near:
        what = f"nearly trained on: {_near(found, 'held-out samples')}"
        step = f"{_pair(found, same=False)}; the held-out loss tells little of what is new"
        severity: Severity = "warning" if found.near * 2 > found.texts else "note"
        yield Finding(severity, "held_out_near", Fault("data.held_out", what, next_step=step))
    if found.left_out:
        yield unchecked(
            "data.held_out", f"whether {found.left_out:,} held-out samples are trained on; there are so many"
        )


def _near(found: Overlap, what: str) -> str:
    """Tell how many are near; with what was not looked at for them."""
    least = "at least " if found.unmeasured or found.compared < found.others else ""
    looked = "" if found.compared == found.others else f", looked for in {found.compared:,} of {found.others:,} samples"
    crowd = f", {found.unmeasured:,} likely pairs unmeasured" if found.unmeasured else ""
    return f"{least}{found.near:,} of {found.texts:,} {what} (similarity {NEAR} and more{looked}{crowd})"


def _pair(found: Overlap, *, same: bool) -> str:
    pair = next(pair for pair in found.examples if (pair.similarity == 1) == same)
    return f'"{excerpt(pair.text)}" is like "{excerpt(pair.like)}"'
