"""The generation thread: what waits is bounded, what nobody wants stops, and a fault ends only what it struck."""

import queue
import threading
from collections import Counter

import pytest
import torch

import tiny
from tunemake.serving.generation_thread import GenerationThread, Lane, Limits, QueueFullError
from tunemake.serving.sampling import Wish
from tunemake.serving.speech import Speech
from tunemake.serving.work import Work


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("llama")
    tiny.write_llama(folder, dtype="float32")
    made = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    return made, AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def begun(model):
    """Begin a thread with limits, whose steps wait until they are let go on."""
    threads = []

    def begin(limits, go_on=None):
        lane, counts = Lane(model[0], 256), Counter()
        step = lane.rows.step

        def watched():
            if go_on is not None:
                assert go_on.wait(10)
            step()

        lane.rows.step = watched
        threads.append(GenerationThread({"it": lane}, limits, lambda what, n: counts.update({what: n})))
        threads[-1].start()
        return threads[-1], lane, counts

    yield begin
    for thread in threads:
        thread.close(wait=True)


@pytest.fixture
def work(model):
    def make(longest=5, prompt=(5, 6, 7), **given):
        told = queue.Queue()
        made = Work(prompt, Wish(temperature=0), longest, frozenset(), Speech(model[1], ()), told.put, **given)
        made.told = told
        return made

    return make


def finish(work):
    while (part := work.told.get(timeout=20)).finish is None:
        pass
    return part.finish


def test_all_that_is_taken_is_answered_and_the_rest_is_refused(begun, work):
    go_on = threading.Event()
    thread, lane, counts = begun(Limits(rows=2, queue=3), go_on)
    taken, refused = [], []
    for new in (work() for _ in range(12)):
        try:
            thread.submit("it", new)
        except QueueFullError as full:
            refused.append(full.seconds)
        else:
            taken.append(new)
    assert len(taken) in {5, 7}  # two rows may have been filled before the last came, or not
    assert len(taken) + len(refused) == 12
    assert all(1 <= seconds <= 60 for seconds in refused)
    go_on.set()
    assert [finish(one) for one in taken] == ["length"] * len(taken)
    assert counts["length"] == len(taken)
    thread.close(wait=True)  # an answer is told before its row is let go
    assert (thread.working, thread.waiting, lane.rows.here) == (0, 0, [])


def test_what_nobody_wants_any_more_stops(begun, work):
    thread, lane, counts = begun(Limits(rows=1))
    first, second = work(longest=10**6), work()
    thread.submit("it", first)
    first.told.get(timeout=20)
    thread.submit("it", second)
    thread.drop(first)
    assert finish(second) == "length"
    assert counts["cancelled"] == 1
    assert first.made < 10**6
    thread.close(wait=True)
    assert lane.rows.here == []


def test_what_takes_too_long_ends_whether_it_waits_or_is_made(begun, work):
    thread, *_ = begun(Limits(rows=1, timeout=0.3))
    made, waits = work(longest=10**6), work()
    thread.submit("it", made)
    thread.submit("it", waits)
    assert finish(made) == "timeout"
    assert finish(waits) in {"timeout", "length"}


def test_a_model_that_fails_ends_what_it_worked_on_and_goes_on(begun, work, capfd):
    thread, lane, _ = begun(Limits(rows=4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lane.rows, "step", lambda: 1 / 0)
        broken = work()
        thread.submit("it", broken)
        assert finish(broken) == "failed"
    fine = work()
    thread.submit("it", fine)
    assert finish(fine) == "length"
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_closing_ends_all(begun, work):
    thread, *_ = begun(Limits(rows=1))
    works = [work(longest=10**6) for _ in range(3)]
    for one in works:
        thread.submit("it", one)
    thread.close(wait=True)
    assert [finish(one) for one in works] == ["closed"] * 3
    assert not thread.alive


def said(work):
    parts = [work.told.get(timeout=20)]
    while parts[-1].finish is None:
        parts.append(work.told.get(timeout=20))
    return "".join(part.text for part in parts)


def test_answers_share_the_room_until_they_have_grown_and_none_is_changed_by_that(begun, work):
    prompts = [(5, 6, 7), (9, 8), (20, 21, 22, 23), (40,), (50, 51, 52), (60, 61)]
    alone, *_ = begun(Limits(rows=1))
    works = [work(longest=150, prompt=prompt) for prompt in prompts]
    for one in works:
        alone.submit("it", one)
    right = [said(one) for one in works]
    go_on = threading.Event()
    thread, lane, counts = begun(Limits(rows=16, tokens=400), go_on)
    works, kept, step = [work(longest=150, prompt=prompt) for prompt in prompts], [], lane.rows.step

    def watched():
        step()
        kept.append((len(lane.rows.here), lane.rows._mask.numel()))

    lane.rows.step = watched
    for one in works:
        thread.submit("it", one)
    go_on.set()
    assert [said(one) for one in works] == right
    assert max(rows for rows, _ in kept) == 5  # not two, though each might come to need its 150
    assert max(tokens for _, tokens in kept) <= 400
    assert counts["length"] == 6
