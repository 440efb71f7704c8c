import ast
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemake import schema
from tunemake.engines import xtuner

TEMPLATE = {
    "system": "", "instruction": "Q: {input} A: ", "suffix": "", "suffix_as_eos": False, "separator": "\n",
    "stop_words": [],
}  # fmt: skip


def values(**train):
    shape = schema.load_schema("project.schema.json")["properties"]
    return {
        "template": train.pop("template", train.get("method", "lora")), "declared": [],
        "project": "p", "seed": 1, "model": "m", "model_path": "build/base/m/model", "data_path": "d.json",
        "tokens_path": train.pop("tokens_path", "t.arrow"),
        "trust_remote_code": False, "prompt_template": TEMPLATE, "data": schema.with_defaults({}, shape["data"]),
        "train": schema.with_defaults({"steps": 3, **train}, shape["train"]),
    }  # fmt: skip


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("tokens_path", ["t.arrow", ""])
def test_every_combination_gives_python_without_unused_imports(method, schedule, precision, tokens_path, tmp_path):
    told = values(method=method, schedule=schedule, precision=precision, tokens_path=tokens_path)
    text = xtuner.render_config(told, tmp_path)
    tree = ast.parse(text)
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    # Blocks of a template of one's own may name them whatever the precision.
    assert imported - used == ({"LoggerHook", "OptimWrapper"} if "Paced" in text else set())


def test_values_that_only_decide_how_it_runs_change_the_config_but_not_what_decides(tmp_path):
    plain, loud = values(), values(log_every=7, num_workers=3, checkpoints={"every": 2}, answers={"prompts": ["x"]})
    assert xtuner.render_config(plain, tmp_path) != xtuner.render_config(loud, tmp_path)
    deciding = [xtuner.render_config(xtuner.deciding_values(v), tmp_path) for v in (plain, loud)]
    assert deciding[0] == deciding[1]


@pytest.mark.parametrize("train", [{"lr": 1e-3}, {"batch_size": 2}, {"lora": {"r": 4}}, {"schedule": "linear"}])
def test_values_that_decide_the_weights_change_what_decides(tmp_path, train):
    deciding = [xtuner.render_config(xtuner.deciding_values(v), tmp_path) for v in (values(), values(**train))]
    assert deciding[0] != deciding[1]


@given(st.text(max_size=30))
def test_no_text_of_the_users_can_leave_its_string(text):
    made = xtuner.render_config(values(answers={"prompts": [text]}), None)
    tree = ast.parse(made)
    prompts = next(n for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "evaluation_inputs")
    assert ast.literal_eval(prompts.value) == [text]


def checkpoint(folder, number, content=b"x" * 5000):
    with zipfile.ZipFile(folder / f"iter_{number}.pth", "w") as archive:
        archive.writestr("data.pkl", content)
    return folder / f"iter_{number}.pth"


def test_the_newest_whole_checkpoint_is_found_and_torn_ones_are_set_aside(tmp_path):
    checkpoint(tmp_path, 9)
    good = checkpoint(tmp_path, 10)
    torn = checkpoint(tmp_path, 20)
    torn.write_bytes(torn.read_bytes()[:-100])
    flipped = checkpoint(tmp_path, 30)
    data = bytearray(flipped.read_bytes())
    data[1000] ^= 1
    flipped.write_bytes(data)
    found, aside = xtuner.newest_whole_checkpoint(tmp_path)
    assert found == good
    assert [path.name for path in aside] == ["iter_30.pth.torn", "iter_20.pth.torn"]
    assert [path.name for path in xtuner.checkpoints(tmp_path)] == ["iter_9.pth", "iter_10.pth"]


def deepspeeds(folder, number, processes):
    """Write a checkpoint as DeepSpeed does: a folder in which each process has its part."""
    whole = folder / f"iter_{number}.pth"
    whole.mkdir()
    for part in ["mp_rank_00_model_states.pt", *(f"zero_pp_rank_{n}_mp_rank_00_optim_states.pt" for n in processes)]:
        checkpoint(whole, 1).rename(whole / part)
    return whole


def test_a_folder_of_deepspeeds_is_whole_when_each_process_has_written_its_part(tmp_path):
    good = deepspeeds(tmp_path, 10, [0, 1])
    deepspeeds(tmp_path, 20, [0])
    torn = next(deepspeeds(tmp_path, 30, [0, 1]).glob("zero*"))
    torn.write_bytes(torn.read_bytes()[:-100])
    found, aside = xtuner.newest_whole_checkpoint(tmp_path, 2)
    assert found == good
    assert [path.name for path in aside] == ["iter_30.pth.torn", "iter_20.pth.torn"]
    (tmp_path / xtuner.STOPPED).write_text("iter_10.pth\n")
    xtuner.remove_litter(tmp_path, tmp_path / "iter_40.pth")
    assert not list(tmp_path.glob("iter_*"))


def test_no_checkpoint_at_all(tmp_path):
    assert xtuner.newest_whole_checkpoint(tmp_path) == (None, [])
