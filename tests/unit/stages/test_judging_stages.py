"""baseline, select, evaluate and gate in one process: what select sees of a checkpoint, evaluate sees of its merge."""

import json
import shutil
from types import SimpleNamespace

import pytest
import tiny_models

import tiny
from tunemake.stages import Job, baseline, evaluate, gate, select

LORA = {"r": 2, "alpha": 4, "dropout": 0.0, "targets": ["q_proj", "v_proj"]}
QUESTIONS = ["Who are you?", "你是谁？"]
PROBES = [
    {"name": "far", "kind": "retention", "prompts": QUESTIONS, "parameters": {}},
    {"name": "fresh", "kind": "distinct", "prompts": QUESTIONS, "parameters": {}},  # its n is left out
    {"name": "loss", "kind": "held_out_loss", "parameters": {}},
    {"name": "changed", "kind": "changed", "prompts": QUESTIONS[:1], "parameters": {}},
]
TEMPLATE = {
    "system": "", "instruction": "Q {input}\nA ", "suffix": "<|im_end|>", "suffix_as_eos": True, "separator": "\n",
    "stop_words": ["<|im_end|>"], "bos": False, "from_tokenizer": False,
}  # fmt: skip
PARAMETERS = {
    "probes": PROBES, "max_new_tokens": 5, "max_length": 64, "seed": 1, "prompt_template": TEMPLATE,
    "trust_remote_code": False, "method": "lora", "lora": LORA, "order": [],
}  # fmt: skip


def bounds(**at_most):
    return [{"name": name, "at_most": value, "required": True} for name, value in at_most.items()]


def run(stage, folder, parameters, **inputs):
    folder.mkdir()
    stage.run(Job(folder, folder, {**PARAMETERS, **parameters}, {"plugins": []}, inputs))
    return folder


def read(folder, name="scores.json"):
    return json.loads((folder / name).read_text(), parse_constant=pytest.fail)


def samples(*answers):
    turns = [[{"role": "user", "content": "And?"}, {"role": "assistant", "content": answer}] for answer in answers]
    return "".join(json.dumps({"messages": each}) + "\n" for each in turns)


def save(weights, path):
    tiny_models.libraries().torch.save({"state_dict": {f"llm.{name}": value for name, value in weights.items()}}, path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base model, held-out samples, and a training whose two checkpoints went ever farther; its third diverged."""
    home = tmp_path_factory.mktemp("judged")
    tiny.write_llama(home / "base/model", dtype="float32")
    torch = tiny_models.libraries().torch
    (home / "data").mkdir()
    (home / "data/train.jsonl").write_text(samples("nothing"))
    (home / "data/held_out.jsonl").write_text(samples("Hello.", "你好。"))
    (home / "data/artifact.json").write_text(json.dumps({"facts": {"held_out": {"samples": 2}}}))
    merged, loras = {}, {}
    for number, size in ((1, 0.3), (2, 3.0)):
        name = f"iter_{number}.pth"
        folder = tiny_models.adapter(
            home / "base/model", home / name / "adapter", size=size, r=2, lora_alpha=4, target_modules=LORA["targets"]
        )
        told = tiny_models.tensors_of(folder)
        loras[name] = {key.replace(".weight", ".default.weight"): value for key, value in told.items()}
        merged[name] = tiny_models.merged_by_peft(home / "base/model", folder, "float32")
    kinds = {"lora": loras, "full": merged}
    for kind, kept in kinds.items():
        (home / kind).mkdir()
        for name, weights in kept.items():
            save(weights, home / kind / name)
        diverged = {key: torch.full_like(value, float("nan")) for key, value in kept["iter_2.pth"].items()}
        save(diverged, home / kind / "iter_3.pth")
    inputs = {"base": home / "base", "data": home / "data"}
    inputs["baseline"] = run(baseline, home / "baseline", {}, **inputs)
    return SimpleNamespace(home=home, inputs=inputs, merged=merged)


def chosen_by(made, tmp_path, method, **at_most):
    parameters = {"bounds": bounds(**at_most), "method": method}
    return run(select, tmp_path / "selection", parameters, train=made.home / method, **made.inputs)


def evaluated(made, tmp_path, weights):
    """Score a merged model's folder of these weights."""
    lib = tiny_models.libraries()
    folder = tmp_path / "merged"
    shutil.copytree(made.home / "base/model", folder)
    model = lib.transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.load_state_dict(weights)
    model.save_pretrained(folder)
    return run(evaluate, tmp_path / "evaluation", {}, merged=folder, **made.inputs)


def test_the_base_is_scored_but_for_what_compares_with_it(made):
    told = read(made.home / "baseline")["probes"]
    assert {name: told[name]["score"] is None for name in told} == {
        "far": True, "fresh": False, "loss": False, "changed": True,
    }  # fmt: skip
    assert [one["prompt"] for one in read(made.home / "baseline", "answers.json")] == QUESTIONS


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_select_sees_of_a_checkpoint_is_what_evaluate_sees_of_its_merge(made, tmp_path, method):
    rows = read(chosen_by(made, tmp_path, method, far=1e9))["checkpoints"]
    assert [row["iteration"] for row in rows] == [1, 2, 3]
    assert 0 < rows[0]["scores"]["far"] < rows[1]["scores"]["far"]
    for row in rows[:2]:
        scores = read(evaluated(made, tmp_path / row["checkpoint"], made.merged[row["checkpoint"]]))
        assert {one["name"]: one["merged"] for one in scores["probes"]} == pytest.approx(row["scores"], rel=1e-3)
        assert row["held_out_loss"] == row["scores"]["loss"]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_training_that_diverged_is_worth_its_earlier_checkpoints(made, tmp_path, method):
    folder = chosen_by(made, tmp_path, method, far=1e9)
    assert (folder / "checkpoint").read_text() == "iter_1.pth"
    diverged = read(folder)["checkpoints"][2]
    assert (diverged["meets"], diverged["held_out_loss"], diverged["scores"]["far"]) == (False, None, None)


def test_a_checkpoint_that_cannot_be_read_is_told(made, tmp_path):
    folder = chosen_by(made, tmp_path, "lora", far=1e9)
    events = [json.loads(line) for line in (folder / ".events.jsonl").read_text().splitlines()]
    told = [event["say"] for event in events if "say" in event]
    assert told[0].startswith("iter_3.pth cannot become the model: ")
    assert "values are not finite" in told[0]
    assert told[-1] == "iter_1.pth: the earliest that meets all probes"


def test_a_bound_beyond_what_any_reaches_takes_the_nearest(made, tmp_path):
    told = read(chosen_by(made, tmp_path, "lora", far=0))
    assert (told["chosen"], told["why"]) == ("iter_1.pth", select.BEST)


@pytest.mark.parametrize(("parameters", "why"), [({"bounds": []}, select.LAST)])
def test_without_a_bound_the_last_is_taken_and_nothing_is_scored(made, tmp_path, parameters, why):
    folder = run(select, tmp_path / "selection", parameters, train=made.home / "lora", **made.inputs)
    told = read(folder)
    assert (told["chosen"], told["why"]) == ("iter_3.pth", why)
    assert all(row["scores"] == {} for row in told["checkpoints"])


def test_the_gate_writes_its_verdict_over_what_evaluate_wrote(made, tmp_path):
    evaluation = evaluated(made, tmp_path, made.merged["iter_2.pth"])
    answers = read(evaluation, "answers.json")
    assert [(one["probe"], one["prompt"]) for one in answers] == [
        *[(name, prompt) for name in ("far", "fresh") for prompt in QUESTIONS], ("changed", QUESTIONS[0]),
    ]  # fmt: skip
    assert all(one["base_value"] is None and one["merged_value"] > 0 for one in answers[:2])
    bounded = {"bounds": bounds(far=1e-6, loss=1e9)}
    verdict = read(run(gate, tmp_path / "gate", bounded, evaluation=evaluation), "gate.json")
    far, loss = verdict["probes"]
    assert (verdict["passed"], far["passed"], loss["passed"]) == (False, False, True)
    assert [one["prompt"] for one in far["failing"]] == QUESTIONS
    assert loss["base"] == read(made.home / "baseline")["probes"]["loss"]["score"]


def test_a_model_that_diverged_passes_no_gate_and_its_files_are_json(made, tmp_path):
    torch = tiny_models.libraries().torch
    broken = {name: torch.full_like(value, float("nan")) for name, value in made.merged["iter_1.pth"].items()}
    evaluation = evaluated(made, tmp_path, broken)
    read(evaluation, "answers.json")
    bounded = {"bounds": bounds(far=1e9)}
    verdict = read(run(gate, tmp_path / "gate", bounded, evaluation=evaluation), "gate.json")
    assert (verdict["passed"], verdict["probes"][0]["score"]) == (False, None)
