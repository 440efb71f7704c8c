from collections import Counter
from itertools import islice

import pytest
from reading import Read, fault

from tunemake import schema
from tunemake.contracts import Context, GeneratorError, UsesGenerators
from tunemake_builtins.mix import Mix


def pair(text):
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "x"}]}


def samples_of(name, parameters):
    if name == "broken":
        raise GeneratorError("x.csv: no such file")
    return (pair(f"{name}{number}") for number in range(parameters.get("there", 10**9)))


def part(name, there=10**9, **more):
    return {"generator": name, "parameters": {"there": there}, **more}


def mixed(tmp_path, parts, seed=1, **more):
    made = Read(Mix(), tmp_path, {"parts": parts, **more}, seed, samples_of)
    return [asked for asked, _ in made.pairs], made.said


def shares(asked):
    return Counter(text[0] for text in asked)


def test_counts_and_weights_are_exact_and_each_keeps_its_order(tmp_path):
    asked, said = mixed(tmp_path, [part("a", count=30), part("b", count=10)])
    assert shares(asked) == {"a": 30, "b": 10}
    assert not said
    assert [text for text in asked if text[0] == "a"] == [f"a{number}" for number in range(30)]
    assert shares(asked[:20])["b"] > 0
    assert shares(asked[20:])["b"] > 0
    asked, _ = mixed(tmp_path, [part("a", weight=1), part("b", weight=1), part("c", weight=0.5)], samples=99)
    assert shares(asked) == {"a": 40, "b": 39, "c": 20}


def test_the_seed_decides_the_order(tmp_path):
    parts = [part("a", count=30), part("b", count=30)]
    assert mixed(tmp_path, parts) == mixed(tmp_path, parts)
    assert mixed(tmp_path, parts) != mixed(tmp_path, parts, seed=2)


def test_a_part_that_runs_dry(tmp_path):
    parts = [part("a", 5, count=20), part("b", count=20)]
    asked, said = mixed(tmp_path, parts)
    assert shares(asked) == {"a": 5, "b": 20}
    assert said == ["mix: parts[0] (a): 5 samples instead of 20"]
    asked, said = mixed(tmp_path, parts, when_dry="stop")
    assert 5 <= len(asked) < 25
    assert said == ["mix: parts[0] (a): 5 samples instead of 20; the mix ends there"]
    asked, said = mixed(tmp_path, parts, when_dry="repeat")
    assert shares(asked) == {"a": 20, "b": 20}
    assert Counter(asked)["a0"] == 4
    assert said == ["mix: parts[0] (a): begun 4 times for 20 samples"]


def test_faults_name_the_part(tmp_path):
    def told(parts, **more):
        with pytest.raises(GeneratorError) as caught:
            mixed(tmp_path, parts, **more)
        return str(caught.value)

    assert told([part("a", count=1), part("broken", count=1)]) == "parts[1] (broken): x.csv: no such file"
    assert told([part("a", 0, count=1)], when_dry="repeat") == "parts[0] (a): gives no samples that could be repeated"
    assert "no other generators are at hand" in fault(Mix(), tmp_path, {"parts": [part("a", count=1)]})


@pytest.mark.parametrize(
    "wrong",
    [
        {"parts": [part("a")]},
        {"parts": [part("a", weight=1)]},
        {"parts": [part("a", count=1)], "samples": 4},
        {"parts": [part("a", count=1, weight=1)], "samples": 4},
        {"parts": []},
        {"parts": [part("a", count=1), part("b", weight=1)]},
    ],
)
def test_counts_or_weights_never_both(wrong):
    assert schema.schema_faults(wrong, Mix.parameters, "test")


def test_it_streams_and_names_what_it_uses(tmp_path):
    parts = {"parts": [part("a", weight=1), part("b", weight=3)], "samples": 10**9}
    first = list(islice(Mix().samples(parts, Context(tmp_path, 1, samples_of=samples_of)), 100))
    assert len(first) == 100
    assert isinstance(Mix(), UsesGenerators)
    assert list(Mix().uses(parts)) == [("a", {"there": 10**9}), ("b", {"there": 10**9})]
