"""A model under probes: what they are given is what transformers itself computes, on a tiny Llama."""

import copy
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tiny
from tunemake.contracts import Loss, ProbeError, Question, Score
from tunemake.digests import Digests
from tunemake.examination import Asked, Base, Examination, Terms
from tunemake.faults import StageError
from tunemake.generation import Answers
from tunemake.plugins import Plugins
from tunemake.prompts import labelled_ids

PROMPTS = ["Who are you?", "你是谁？", "Count to three, and then to four, please.", "?"]
NEW_TOKENS = 6
HELD_OUT = [
    {"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello, I am Ada."}]},
    {
        "messages": [
            {"role": "user", "content": "你好"},
            {"role": "assistant", "content": "你好！"},
            {"role": "user", "content": "再见"},
            {"role": "assistant", "content": "再见！"},
        ]
    },
    {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "Because " * 15},
        ]
    },
] * 4  # fmt: skip - more than one forward pass of rows


class Asks:
    """A probe that gives what a function of the test gives."""

    summary, version, unit, parameters = "of a test", "1", "any", {}

    def __init__(self, give, *needs):
        self.give, self.needs = give, needs

    def score(self, parameters, model):
        assert parameters == {}
        return self.give(model)


def asked(give=lambda _: Score(0.0), *needs, prompts=PROMPTS, name="mine"):
    return Asked(name, "its_kind", Asks(give, *needs), {}, [Question(prompt) for prompt in prompts])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny Llama whose weights are large enough that its probabilities differ."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny.write_llama(folder, dtype="float32", seed=3)
    template = Plugins(folder, [], Digests(folder / "digests.json")).prompt_template("chatml")
    return changed(Answers.load(folder, template, trust_remote_code=False), 6.0)


def changed(model, factor):
    """Give a copy of a model with other weights."""
    import torch

    made = copy.deepcopy(model.model)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(factor if weight.ndim > 1 else 1)
    return Answers(made, model.tokenizer, model.template)


def examination(model, *probes, base=None, held_out=(), max_length=250):
    return Examination(model, probes, Terms(Path("root"), held_out, max_length, NEW_TOKENS), base)


def answered(model, *probes):
    found = examination(model, *probes)
    found.answer(lambda *_: None)
    return found


def base_of(model, *probes):
    found = answered(model, *probes)
    return Base(found.answers(), found.said(), found.likely(found.said(), Path(tempfile.mkdtemp())))


def scored(model, probe, base=None):
    (score,) = examination(model, probe, base=base).scores(lambda *_: None).values()
    return score


def test_losses_are_transformers_own_on_the_same_labels(model):
    import torch

    wanted = []
    for sample in HELD_OUT:
        row = labelled_ids(model.template, sample["messages"], model.tokenizer)
        ids = torch.tensor([[one for one, _ in row]])
        labels = torch.tensor([[one if trained else -100 for one, trained in row]])
        with torch.no_grad():
            loss = float(model.model(input_ids=ids, labels=labels).loss)
        tokens = sum(trained for _, trained in row)
        wanted.append((loss * tokens, tokens))
    losses = examination(model, held_out=HELD_OUT).losses()
    assert [loss.tokens for loss in losses] == [tokens for _, tokens in wanted]
    assert losses[0].tokens == len("Hello, I am Ada.") + 1  # a token a byte, and the suffix
    assert [loss.nats for loss in losses] == pytest.approx([nats for nats, _ in wanted], rel=1e-4)
    assert len({round(loss.nats, 2) for loss in losses}) == 3


def test_a_sample_is_cut_where_training_cuts_it(model):
    whole, cut = (examination(model, held_out=HELD_OUT, max_length=most).losses()[2] for most in (250, 90))
    row = labelled_ids(model.template, HELD_OUT[2]["messages"], model.tokenizer)
    assert 0 < cut.tokens == sum(trained for _, trained in row[:90]) < whole.tokens
    assert 0 < cut.nats < whole.nats


def test_a_sample_cut_before_its_answer_costs_nothing(model):
    assert examination(model, held_out=HELD_OUT[:1], max_length=5).losses() == [Loss(0.0, 0)]


def test_no_held_out_samples_are_no_losses(model):
    assert examination(model).losses() == []


def test_answers_of_a_batch_are_those_of_each_alone(model):
    together = answered(model, asked())
    assert list(together.answers()) == PROMPTS
    for prompt in PROMPTS:
        alone = answered(model, asked(prompts=[prompt]))
        assert together.said()[prompt] == alone.said()[prompt]
        assert together.answers()[prompt] == alone.answers()[prompt]
    assert len({tuple(ids) for ids in together.said().values()}) > 1  # else nothing was compared


def test_what_two_probes_ask_alike_is_asked_once(model):
    told = []
    found = examination(model, asked(prompts=PROMPTS[:3], name="a"), asked(prompts=PROMPTS[1:], name="b"))
    found.answer(lambda *event: told.append(event))
    assert told == [(number, 4, "answers") for number in range(1, 5)]
    found.answer(lambda *event: told.append(event))
    assert len(told) == 4


DISTANCE = asked(lambda seen: Score(sum(seen.divergences()), seen.divergences()), "divergence")


def test_the_base_is_at_no_distance_from_itself(model):
    score = scored(model, DISTANCE, base_of(model, DISTANCE))
    assert all(0 <= part < 1e-3 for part in score.parts)  # the base's probabilities are kept in half precision


def naive_divergence(base, model, prompt, answer):
    """Give KL(base || model), one token after another, over the whole vocabulary, in Python's own floats."""
    import torch

    ids = base.ids_of([{"role": "user", "content": prompt}])
    found = []
    for token in answer:
        with torch.no_grad():
            p, q = (torch.log_softmax(one.model(input_ids=torch.tensor([ids])).logits[0, -1].double(), 0).tolist()
                    for one in (base, model))  # fmt: skip
        found.append(sum(math.exp(before) * (before - now) for before, now in zip(p, q, strict=True)))
        ids = [*ids, token]
    return sum(found) / len(found)


def test_the_distance_of_a_changed_model_is_that_of_a_naive_computation(model):
    base, other = base_of(model, DISTANCE), changed(model, 1.3)
    wanted = [naive_divergence(model, other, prompt, base.ids[prompt]) for prompt in PROMPTS]
    assert min(wanted) > 1e-2
    assert scored(other, DISTANCE, base).parts == pytest.approx(wanted, rel=1e-2)


def test_a_model_whose_weights_are_no_numbers_is_at_no_distance_that_keeps_to_a_bound(model):
    found = examination(changed(model, math.nan), DISTANCE, base=base_of(model, DISTANCE), held_out=HELD_OUT[:1])
    assert all(math.isnan(found.divergence(prompt)) for prompt in PROMPTS)
    assert math.isnan(found.losses()[0].nats)


def test_an_empty_answer_of_the_base_is_no_distance(model, tmp_path):

    np.save(tmp_path / "none.npy", np.zeros((0, 3)))
    empty = Base({}, {PROMPTS[0]: []}, {PROMPTS[0]: tmp_path / "none.npy"})
    assert examination(model, DISTANCE, base=empty).divergence(PROMPTS[0]) == 0


def test_only_what_is_compared_is_kept_of_the_base(model):
    compared = asked(lambda _: Score(0.0), "divergence", prompts=PROMPTS[2:], name="near")
    base = base_of(model, asked(), compared)
    assert set(base.likely) == set(PROMPTS[2:])
    assert set(base.ids) == set(base.answers) == set(PROMPTS)
    rows = np.load(base.likely[PROMPTS[2]])
    assert rows.shape == (len(base.ids[PROMPTS[2]]), model.model.config.vocab_size)


@pytest.mark.parametrize("need", ["base", "divergence"])
def test_the_base_itself_is_not_compared_with_the_base(model, need):
    def never(_):
        raise AssertionError

    found = examination(model, asked(never, need, name="far"), asked(name="near")).scores(lambda *_: None)
    assert found == {"far": None, "near": Score(0.0, [])}


def test_a_probe_sees_its_own_questions_in_their_order(model):
    seen = []

    def look(view):
        seen.append(([one.prompt for one in view.questions], view.answers(), view.base_answers(), view.root))
        assert view.loaded() == (model.model, model.tokenizer)
        return Score(1)

    first, second = asked(look, "base", prompts=PROMPTS[2:0:-1], name="a"), asked(look, "base", name="b")
    base = base_of(model, first, second)
    examination(model, first, second, base=base).scores(lambda *_: None)
    for prompts, answers, before, root in seen:
        assert answers == before == [base.answers[prompt] for prompt in prompts]
        assert root == Path("root")
    assert [prompts for prompts, *_ in seen] == [PROMPTS[2:0:-1], PROMPTS]


def raising(error):
    def give(_):
        raise error

    return give


@pytest.mark.parametrize(
    ("give", "told"),
    [
        (raising(ProbeError("no such voice")), "no such voice"),
        (raising(KeyError("x")), "score failed at probe its_kind: KeyError: 'x'"),
        (raising(ValueError("two\nlines")), r"score failed at probe its_kind: ValueError: two\nlines"),
        (lambda _: None, "score: wrong value given; expected a Score, got NoneType"),
        (lambda _: 0.5, "score: wrong value given; expected a Score, got float"),
        (lambda _: Score("high"), "score failed at probe its_kind: ValueError: could not convert string to float"),
        (lambda _: Score(1, [1, 2, 3]), "score: 3 parts for 4 questions; expected one for each question, or none"),
    ],
)
def test_what_a_stranger_s_probe_does_wrong_is_one_line(model, give, told):
    with pytest.raises(StageError) as error:
        scored(model, asked(give))
    line = str(error.value)
    assert line.startswith(f"evaluate.probe mine: {told}")
    assert "\n" not in line


def test_the_line_of_the_probe_s_own_file_is_told(model, tmp_path):
    file = tmp_path / "my_probe.py"
    file.write_text("def give(model):\n    return 1 / 0\n")
    space = {}
    exec(compile(file.read_text(), str(file), "exec"), space)  # noqa: S102 - the test's own file
    with pytest.raises(StageError, match=r"evaluate\.probe mine: score failed at my_probe\.py:2: ZeroDivisionError"):
        scored(model, replace(asked(space["give"]), code=[file]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_left_to_the_gate(model, value):
    score = scored(model, asked(lambda _: Score(value, [1, value, 1, 1])))
    assert not math.isfinite(score.value)
