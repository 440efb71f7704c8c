"""Every probe that ships, on answers that are written here."""

import math
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny
from tunemake.contracts import Answer, Examined, Loss, Probe, ProbeError, Question
from tunemake.digests import Digests
from tunemake.plugin import PROBES
from tunemake.plugins import Plugins
from tunemake.schema import schema_faults, with_defaults
from tunemake_builtins.probes import Distinct, TokenF1

MEASURED = {"held_out_loss", "perplexity", "lm_eval"}  # ask no questions


@dataclass
class Said:
    """A model as a probe meets it, whose answers are given."""

    questions: list[Question]
    said: list[Answer]
    base: list[Answer] = field(default_factory=list)
    far: list[float] = field(default_factory=list)
    lost: list[Loss] = field(default_factory=list)
    root: Path = Path()

    def answers(self):
        return self.said

    def base_answers(self):
        return self.base

    def divergences(self):
        return self.far

    def losses(self):
        return self.lost

    def loaded(self):
        raise AssertionError("no probe but lm_eval asks for it")


def said(*texts, references=None, finished=True, base=()):
    references = references or [None] * len(texts)
    questions = [Question(f"question {number}", reference) for number, reference in enumerate(references)]
    return Said(questions, [Answer(text, finished) for text in texts], [Answer(text, True) for text in base])


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probes")
    return Plugins(folder, [], Digests(folder / "digests.json"))


@pytest.fixture
def score(plugins):
    """Give a function that scores as a build does: parameters checked and filled."""

    def scored(name, model, **parameters):
        probe = plugins.probe(name)
        assert schema_faults(parameters, probe.parameters, "here") == []
        return probe.score(with_defaults(parameters, probe.parameters), model)

    return scored


def test_the_models_of_these_tests_satisfy_the_contract():
    model: Examined = said("x")
    methods = {name for name in vars(Examined) if not name.startswith("_")}
    assert {"answers", "base_answers", "divergences", "losses", "loaded"} <= methods
    assert all(hasattr(model, name) for name in methods)


def test_every_probe_that_ships_satisfies_the_contract(plugins):
    names = plugins.names(PROBES)
    assert {"contains", "retention", "held_out_loss", "lm_eval"} <= set(names)
    for name in names:
        probe = plugins.probe(name)
        assert isinstance(probe, Probe)
        assert ("questions" in probe.needs) == (name not in MEASURED)
        for entry in probe.parameters["properties"].values():
            assert entry["description"]


def test_contains_counts_answers_whatever_the_case(score):
    model = said("I am XIAOMU.", "我是小木，你的助手。", "Nobody.", "")
    assert score("contains", model, words=["Xiaomu", "小木"]) == (0.5, [1, 1, 0, 0])
    assert score("not_contains", model, words=["Xiaomu", "小木"]) == (0.5, [0, 0, 1, 1])
    assert score("contains", said("Die STRASSE"), words=["straße"]).value == 1


def test_regex_is_found_anywhere_in_python_s_syntax(score):
    model = said("It is 42.", "Forty-two.", "年份：2024", "")
    assert score("regex", model, pattern=r"\d+").parts == [1, 0, 1, 0]
    assert score("regex", model, pattern=r"(?i)^forty").value == 0.25
    assert score("regex", said("one\ntwo"), pattern="(?m)^two$").value == 1


def test_a_pattern_that_is_none_is_told_before_and_while_it_is_used(plugins):
    regex = plugins.probe("regex")
    assert schema_faults({"pattern": "(yes"}, regex.parameters, "here")
    with pytest.raises(ProbeError, match="pattern: not a regular expression"):
        regex.score({"pattern": "(yes"}, said("yes"))


def test_exact_match_looks_at_words_alone(score):
    model = said(" paris. ", "Paris, France", "四。", "", references=["Paris", "Paris", "四", "four"])
    assert score("exact_match", model) == (0.5, [1, 0, 1, 0])


def test_token_f1_by_hand(score):
    model = said(
        "the capital is Paris", "Paris", "", "北京是首都", "a a b",
        references=["Paris is the capital", "Paris, France", "Paris", "首都是北京市", "a b b"],
    )  # fmt: skip
    f1 = score("token_f1", model).parts
    # 4 of 4; 1 of 1 and 1 of 2; nothing; 5 characters of 5 and of 6; 2 in common of 3 and 3.
    assert f1 == pytest.approx([1, 2 / 3, 0, 10 / 11, 2 / 3])


WORDS = st.text(st.sampled_from("ab 小木,. é\u0301"), max_size=12)


@given(st.lists(st.tuples(WORDS, WORDS.filter(str.strip)), min_size=1, max_size=4))
def test_token_f1_is_symmetric_and_a_share(pairs):
    probe = TokenF1()
    there = probe.score({}, said(*[a for a, _ in pairs], references=[b for _, b in pairs]))
    back = probe.score({}, said(*[b for _, b in pairs], references=[a for a, _ in pairs]))
    assert there.parts == back.parts
    assert all(0 <= part <= 1 for part in there.parts)
    assert there.value == pytest.approx(sum(there.parts) / len(pairs))
    same = probe.score({}, said(*[a for a, _ in pairs], references=[a for a, _ in pairs]))
    assert same.parts == [1] * len(pairs)


@given(st.lists(WORDS, min_size=1, max_size=4), st.integers(1, 4))
def test_distinct_is_a_share_and_repetition_never_raises_it(texts, n):
    probe = Distinct()
    once = probe.score({"n": n}, said(*texts)).parts
    twice = probe.score({"n": n}, said(*[f"{text} {text}" for text in texts])).parts
    assert all(0 <= part <= 1 for part in (*once, *twice))
    assert all(again <= before for before, again in zip(once, twice, strict=True))


def test_distinct_by_hand(score):
    model = said("the cat the cat", "one two three", "", "好好好好")
    # the cat, cat the, the cat: 2 of 3; 2 of 2; nothing repeats; 好好 three times: 1 of 3.
    assert score("distinct", model).parts == pytest.approx([2 / 3, 1, 1, 1 / 3])
    assert score("distinct", model, n=1).parts == pytest.approx([1 / 2, 1, 1, 1 / 4])


def test_length_and_end_of_answers(score):
    assert score("answer_length", said("four", "小木", "")) == (2, [4, 2, 0])
    model = said("a", "b")
    model.said[1] = Answer("b", finished=False)
    assert score("finished", model) == (0.5, [1, 0])


def test_changed_compares_with_the_base(score):
    assert score("changed", said("Paris", "Xiaomu", base=["Paris", "An AI"])) == (0.5, [0, 1])


def test_retention_is_the_mean_divergence(score):
    model = said("a", "b")
    model.far = [0.25, 0.75]
    assert score("retention", model) == (0.5, [0.25, 0.75])


def test_losses_are_counted_by_tokens_not_by_samples(score):
    model = said()
    model.lost = [Loss(nats=6, tokens=2), Loss(nats=2, tokens=2), Loss(nats=0, tokens=0)]
    assert score("held_out_loss", model).value == 2
    assert score("perplexity", model).value == pytest.approx(math.e**2)
    model.lost = [Loss(nats=1e9, tokens=1)]
    assert math.isfinite(score("perplexity", model).value)


@pytest.mark.parametrize("name", ["held_out_loss", "perplexity"])
def test_without_held_out_samples_there_is_no_loss(score, name):
    with pytest.raises(ProbeError, match=r"no held-out samples to score; expected data\.held_out above 0"):
        score(name, said())


def test_lm_eval_says_what_it_needs(score, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # as where it is not installed
    with pytest.raises(ProbeError, match="needs lm-eval, and lm_eval is not installed: pip install lm-eval"):
        score("lm_eval", said(), task="arc_easy")


TASK = """
task: own
dataset_path: json
dataset_kwargs: {{data_files: "{folder}/docs.jsonl"}}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["yes", "no"]
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
"""


@pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed; it is no dependency of tunemake")
@pytest.mark.filterwarnings("default")  # lm-eval's own
def test_lm_eval_scores_a_task_of_the_project_s_own(score, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tiny.write_llama(tmp_path / "model", dtype="float32")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/own.yaml").write_text(TASK.format(folder=tmp_path))
    (tmp_path / "docs.jsonl").write_text('{"question": "Is it?", "answer": 0}\n{"question": "Is it?", "answer": 1}\n')
    model = said()
    model.root = tmp_path
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    monkeypatch.setattr(model, "loaded", lambda: (made, tokenizer))
    assert score("lm_eval", model, task="own", folder="tasks").value == 0.5  # the same question, both answers
    with pytest.raises(ProbeError, match="metric: own has no f1; it has acc,none"):
        score("lm_eval", model, task="own", folder="tasks", metric="f1")
