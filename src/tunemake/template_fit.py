"""Whether a prompt template fits a base model and the data, told before the training starts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunemake import prompts
from tunemake.chat_templates import ChatTemplate, RenderError, conversation, derived, read_chat_template, resolved
from tunemake.contracts import Message, Sample
from tunemake.cures import install_cures
from tunemake.faults import Fault, InputError, ModelError, PluginError
from tunemake.findings import Finding, errors
from tunemake.plugin import PROMPTS
from tunemake.plugins import Plugins
from tunemake.seams import PROBES, chat_template_for, encoder, first_seam

FIRST = 20  # samples looked at
# Markup that a tokenizer is expected to hold as one token: <|im_start|>, <eoh>, <｜end▁of▁sentence｜>, <reserved_102>.
_MARKUP = re.compile(r"<[|｜]?[^\s<>|｜]{1,40}[|｜]?>")
_WHERE = "model.prompt_template"
Shipped = Callable[[], Mapping[str, Mapping[str, Any]]]


def find(
    folder: Path,
    name: str,
    template: Mapping[str, Any],
    samples: Sequence[Sample],
    *,
    shipped: Shipped,
    trust_remote_code: bool,
    tokenizer: Any = None,
) -> list[Finding]:
    """Hold a prompt template against a base model's folder and some samples.

    An error is where what is asked later would not be what is trained now; a warning, where the template is not what
    the model learnt; a note, where that may well be meant.
    template: as Plugins gives it, `name` being its name. shipped: the templates to choose from instead, by name, asked
    for only where this one does not fit. tokenizer: the folder's, as transformers gives it; where None, transformers is
    imported to give it. InputError where the template cannot be resolved.
    """
    template = resolved(template, folder)
    if tokenizer is None:
        install_cures()
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    own = read_chat_template(folder)
    broken = _contract(folder, name, template, samples, tokenizer, trust_remote_code=trust_remote_code)
    found = errors("template_contract", broken)
    found += _unlike_own(name, template, own, samples, shipped)
    found += [Finding("warning", "template_tokens", fault) for fault in _tokens(name, template, own, tokenizer)]
    found += [Finding("warning", "template_in_samples", fault) for fault in _in_samples(template, samples, tokenizer)]
    return found


def at_hand(plugins: Plugins) -> dict[str, dict[str, Any]]:
    """Give the prompt templates of all plugins that work, by name; one that does not is no choice."""
    found = {}
    for name in plugins.names(PROMPTS):
        with suppress(PluginError):
            found[name] = plugins.prompt_template(name)
    return found


def tell(found: Sequence[Finding], mode: str, say: Callable[[str], None]) -> None:
    """Say what was found; raise ModelError for errors, and in mode "error" for warnings. "off": errors alone count."""
    ending = {"error", "warning"} if mode == "error" else {"error"}
    for finding in found:
        if finding.severity not in ending and mode != "off":
            say(str(finding))
    if faults := [finding.fault for finding in found if finding.severity in ending]:
        raise ModelError(faults)


def _contract(
    folder: Path, name: str, template: Mapping[str, Any], samples: Sequence[Sample], tokenizer: Any,
    *, trust_remote_code: bool,
) -> Iterator[Fault]:  # fmt: skip
    """Tell where the merged model's chat template would ask for other token ids than XTuner trains."""
    if type(tokenizer).__name__ == "ChatGLMTokenizer":
        yield Fault(_WHERE, "XTuner puts tokens of its own before a ChatGLMTokenizer's text, which no template says")
        return
    if not template["suffix_as_eos"] and tokenizer.eos_token is None:
        yield Fault(_WHERE, f"{name} ends answers with the end-of-sequence token, and the tokenizer has none")
        return
    systems = [number for number, sample in enumerate(samples, 1) if sample["messages"][0]["role"] == "system"]
    if systems and not template["system"]:
        what = f"{name} has no place for a system message: sample {systems[0]} and {len(systems) - 1} more of the first"
        yield Fault(_WHERE, f"{what} {len(samples)} would lose theirs")
    made = chat_template_for(template, folder, encoder(folder, trust_remote_code=trust_remote_code))
    asked = [("whatever the text", messages) for messages in PROBES]
    asked += [(f"sample {number}", sample["messages"]) for number, sample in enumerate(samples, 1)]
    for place, messages in asked:
        trained = prompts.ids_of(template, messages, tokenizer)
        chatted = tokenizer.apply_chat_template(messages, chat_template=made.source, tokenize=True)
        if trained != chatted:
            seam = first_seam(trained, chatted, lambda ids: [tokenizer.decode([index]) for index in ids])
            step = "choose another prompt template" if place.startswith("what") else "change this sample's text"
            yield Fault(_WHERE, f"{name} does not fit this tokenizer, {place}: {seam}", next_step=step)
            return


def _unlike_own(
    name: str, template: Mapping[str, Any], own: ChatTemplate, samples: Sequence[Sample], shipped: Shipped
) -> Iterator[Finding]:
    if not own.source:
        yield Finding(
            "note",
            "template_unlike_model",
            Fault(_WHERE, "the model has no chat template of its own to hold this one against"),
        )
        return
    unlike = difference(template, own, samples)
    if unlike is not None:
        fits = [other for other, its in sorted(shipped().items()) if _fits(its, own)]
        step = f"these say the same as it: {', '.join(fits)}" if fits else "no template at hand says the same as it"
        what = f"{name} is not the model's own chat template: {unlike}"
        yield Finding("warning", "template_unlike_model", Fault(_WHERE, what, next_step=step))
    elif (default := default_system(template, own)) is not None:
        what = f"where there is no system message the model's own chat template puts {default!r}, and {name} none"
        yield Finding("note", "template_default_system", Fault(_WHERE, what))


def difference(template: Mapping[str, Any], own: ChatTemplate, samples: Sequence[Sample] = ()) -> str | None:
    """Say where a prompt template's text first differs from a chat template's; None where they say the same.

    A default system message is no difference.
    """
    default = default_system(template, own)
    for messages in [*_probes(template, own), *(sample["messages"] for sample in samples)]:
        shown = messages
        if default is not None and messages[0]["role"] != "system":
            shown = [{"role": "system", "content": default}, *messages]
        ask = messages[-1]["role"] == "user"
        try:
            theirs = own.render(messages, ask=ask)
        except RenderError:
            continue  # a conversation that the model does not know
        ours = _text(template, own, shown)
        if ours == theirs or (not ask and ours.rstrip() == theirs.rstrip()):
            continue
        at = next(
            (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
        )
        begin = max(0, at - 12)
        return f"it says {theirs[begin : at + 28]!r} where this one says {ours[begin : at + 28]!r}"
    return None


def default_system(template: Mapping[str, Any], own: ChatTemplate) -> str | None:
    """Give the system message that a chat template puts where there is none; None where it puts none."""
    asked, mark = conversation([("Sentinelask", "")]), "Sentinelsystem"
    if not template["system"]:
        return None
    before, _, after = _text(template, own, [{"role": "system", "content": mark}, *asked]).partition(mark)
    try:
        theirs = own.render(asked, ask=True)
    except RenderError:
        return None
    if theirs.startswith(before) and theirs.endswith(after) and len(theirs) > len(before + after):
        return theirs[len(before) : len(theirs) - len(after)]
    return None


def _probes(template: Mapping[str, Any], own: ChatTemplate) -> Iterator[list[Message]]:
    for messages in PROBES:
        if messages[0]["role"] != "system" or (template["system"] and _takes_system(own)):
            yield messages[:-1]
            yield messages


def _takes_system(own: ChatTemplate) -> bool:
    try:
        return "Sentinelsystem" in own.render(conversation([("Sentinelask", "")], "Sentinelsystem"))
    except RenderError:
        return False


def _text(template: Mapping[str, Any], own: ChatTemplate, messages: Sequence[Message]) -> str:
    bos = prompts.bos_of(template, own.tokens.get("bos_token"), own.tokenizer_class)
    return prompts.text_of(template, messages, bos=bos, eos=own.tokens.get("eos_token"))


def _fits(template: Mapping[str, Any], own: ChatTemplate) -> bool:
    if template.get("from_tokenizer"):
        try:
            derived(own)
        except InputError:
            return False
        return True
    return difference(template, own) is None


def _tokens(name: str, template: Mapping[str, Any], own: ChatTemplate, tokenizer: Any) -> Iterator[Fault]:
    """Tell markup and stop words that the tokenizer cuts into pieces, unless the model's own template has them too."""
    for kind, words in (("markup", _markup(template)), ("stop words", template["stop_words"])):
        counts = {word: len(tokenizer.encode(word, add_special_tokens=False)) for word in words}
        cut = [f"{word} ({count})" for word, count in counts.items() if count > 1 and word not in own.source]
        if cut:
            yield Fault(_WHERE, f"{name}'s {kind}: the tokenizer cuts into several tokens {', '.join(cut)}")


def _in_samples(template: Mapping[str, Any], samples: Sequence[Sample], tokenizer: Any) -> Iterator[Fault]:
    known = {word for word in _markup(template) if len(tokenizer.encode(word, add_special_tokens=False)) == 1}
    named = [
        (number, word)
        for number, sample in enumerate(samples, 1)
        for word in sorted(known)
        if any(word in message["content"] for message in sample["messages"])
    ]
    if named:
        number, word = named[0]
        more = f"sample {number} contains {word}, which the model reads as the template's own"
        count = len({number for number, _ in named})
        yield Fault("data", f"{more}; so do {count} of the first {len(samples)} samples")


def _markup(template: Mapping[str, Any]) -> list[str]:
    texts = [template[part] for part in ("system", "instruction", "suffix", "separator")]
    return list(dict.fromkeys(word for text in texts for word in _MARKUP.findall(text)))
