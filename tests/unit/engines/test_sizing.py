import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemake import schema
from tunemake.engines import sizing
from tunemake.engines.memory import Shape
from tunemake.engines.sizing import FOR, WHY, Training
from tunemake.engines.xtuner import autocast
from tunemake.faults import InputError
from tunemake.machine import Memory

NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BIG = Shape(1_889_110_016, 2048, 24, 2048, 1024, 8192, 92544, NAMES)
BATCH, ACCUMULATION, CHECKPOINTING = "train.batch_size", "train.accumulation", "train.activation_checkpointing"
GPU, SMALL_GPU, CPU = Memory(126 * 10**9, of_gpu=True), Memory(12 * 10**9, of_gpu=True), Memory(10**11, of_gpu=False)


def asked(gpus=1, length=1024, shape=BIG, *, stock=False, **train):
    whole = schema.with_defaults({"steps": 3, "precision": "bfloat16", **train},
                                 schema.load_schema("project.schema.json")["properties"]["train"])  # fmt: skip
    if "effective_batch" in train:
        whole = {name: value for name, value in whole.items() if name not in {"batch_size", "accumulation"}}
    cast = autocast(whole, "xtuner:one" if stock else "lora")
    return Training(whole, gpus, length, shape, sizing.way_of(whole, autocast=cast, fused_loss=True))


def numbers(choice):
    return choice.get(BATCH), choice.get(ACCUMULATION), choice.get(CHECKPOINTING)


def test_a_big_device_takes_what_keeps_it_busy_and_no_more():
    assert numbers(sizing.choose(asked(effective_batch=16), GPU)) == (16, 1, False)
    assert numbers(sizing.choose(asked(effective_batch=64), GPU)) == (16, 4, False)
    assert numbers(sizing.choose(asked(effective_batch=64, length=8192), GPU)) == (2, 32, False)
    assert numbers(sizing.choose(asked(effective_batch=64, length=32768), GPU))[:2] == (1, 64)


def test_a_small_device_takes_fewer_first_and_then_computes_twice():
    assert numbers(sizing.choose(asked(effective_batch=16), Memory(16 * 10**9, of_gpu=True))) == (4, 4, False)
    batch, accumulation, twice = numbers(sizing.choose(asked(effective_batch=16), SMALL_GPU))
    assert (batch * accumulation, twice) == (16, True)  # off, an iteration would have less than 4,096 tokens
    assert batch * 1024 >= 4096


def test_several_devices_and_a_cpu():
    assert numbers(sizing.choose(asked(effective_batch=32, gpus=4), GPU)) == (8, 1, False)
    assert numbers(sizing.choose(asked(effective_batch=30, precision="float32", length=64), CPU)) == (6, 5, False)


def test_what_is_declared_stays():
    assert sizing.choose(asked(activation_checkpointing=False), GPU) == {}
    assert numbers(sizing.choose(asked(batch_size=16), GPU)) == (None, None, False)
    assert numbers(sizing.choose(asked(batch_size=16), SMALL_GPU)) == (None, None, True)
    batch, accumulation, twice = numbers(sizing.choose(asked(effective_batch=16, activation_checkpointing=True), GPU))
    assert (batch, accumulation, twice) == (16, 1, None)


def test_reasons_are_told_in_one_line():
    why = sizing.choose(asked(effective_batch=16), GPU)[WHY]
    assert why == (
        "batch_size 16 × accumulation 1 (effective 16): about 36.7 GB of 126 GB (weights 3.8 GB, adapter 138 MB, "
        "activations 32.5 GB, logits 336 MB); activation checkpointing off"
    )
    assert "activation checkpointing on (off: " in sizing.choose(asked(effective_batch=16), SMALL_GPU)[WHY]
    tight = sizing.choose(asked(effective_batch=16, method="full"), SMALL_GPU)
    assert numbers(tight) == (1, 16, True)
    assert "GB of 12.0 GB, more than there is" in tight[WHY]
    assert " of " not in sizing.choose(asked(precision="float32"), CPU)[WHY]  # it is another each time


def test_without_the_device_only_checkpointing_can_be_left_open():
    nowhere = Memory(None, of_gpu=True)
    assert numbers(sizing.choose(asked(), nowhere)) == (None, None, False)
    with pytest.raises(InputError, match=r"effective_batch.*not here.*machine\.memory"):
        sizing.choose(asked(effective_batch=4), nowhere)
    unknown = sizing.choose(asked(effective_batch=64, shape=None), nowhere)
    assert numbers(unknown) == (16, 4, False)
    assert "no estimate" in unknown[WHY]


TRAININGS = st.fixed_dictionaries({
    "method": st.sampled_from(["full", "lora", "qlora"]), "stock": st.booleans(),
    "activation_checkpointing": st.sampled_from([True, False, "auto"]), "length": st.integers(1, 4096),
})  # fmt: skip


@given(TRAININGS, st.integers(1, 300), st.sampled_from([1, 2, 3, 8]), st.integers(1, 200), st.booleans())
def test_it_always_comes_to_the_effective_batch_and_fits_where_anything_does(told, share, gpus, gigabytes, gpu):
    memory = Memory(gigabytes * 10**9, of_gpu=gpu)
    made, length = asked(gpus, effective_batch=share * gpus, **told), told["length"]
    choice = sizing.choose(made, memory)
    batch, accumulation, twice = numbers(choice)
    assert batch * accumulation * gpus == share * gpus
    assert batch == 1 or (batch * length <= sizing.FULL if gpu else batch <= sizing.FULL_CPU)
    on = told["activation_checkpointing"] if twice is None else twice
    least = made.takes(1, checkpointing=on or twice is not None)
    assert made.takes(batch, checkpointing=on).total <= memory.size or least.total > memory.size
    kept = {**choice, FOR: "x"}
    assert sizing.kept(made, [{FOR: "y"}, kept], "x") == kept
    values = sizing.settled({"train": made.train, "declared": ["train.effective_batch"]}, kept)
    assert (values["train"]["batch_size"], values["train"]["accumulation"]) == (batch, accumulation)
    assert values["declared"] == [BATCH, ACCUMULATION]
    assert sizing.settled(values, {}) == values


WHOLE = {BATCH: 4, ACCUMULATION: 4, CHECKPOINTING: False, WHY: "so", FOR: "x"}


@pytest.mark.parametrize(
    "damage", [{BATCH: 5}, {BATCH: -4, ACCUMULATION: -4}, {BATCH: 4.0}, {CHECKPOINTING: 1}, {WHY: None}, {"more": 1}]
)
def test_a_damaged_choice_is_told(damage):
    assert sizing.kept(asked(effective_batch=16), [WHOLE], "x") == WHOLE
    with pytest.raises(InputError, match=r"tunemake\.lock.*chosen"):
        sizing.kept(asked(effective_batch=16), [WHOLE | damage], "x")


def test_a_choice_is_kept_for_what_it_was_made_for():
    values = {"train": asked(effective_batch=16).train, "data": {"max_length": 8, "packing": False}, "template": "lora"}
    made = sizing.made_for(values, "m")
    assert made == sizing.made_for({**values, "project": "another"}, "m")
    others = [{**values, "gpus": 2}, {**values, "memory": 4}, {**values, "data": {"max_length": 9, "packing": False}}]
    others += [{**values, "train": {**values["train"], **t}} for t in ({"effective_batch": 8}, {"method": "full"})]
    assert made not in {sizing.made_for(values, "n"), *(sizing.made_for(other, "m") for other in others)}
    same = {**values, "train": {**values["train"], "lr": 1, "num_workers": 4}}
    assert made == sizing.made_for(same, "m")


def test_what_the_lock_has_otherwise():
    record = {"facts": {"chosen": WHOLE}}
    other = {**WHOLE, BATCH: 2, ACCUMULATION: 8}
    assert sizing.unlike(record, [WHOLE]) is None
    assert sizing.unlike(record, [other, WHOLE]) is None
    assert sizing.unlike(record, [{**other, FOR: "y"}]) is None
    assert sizing.unlike(record, [other]) == "train.batch_size: 4 → 2, train.accumulation: 4 → 8"
    assert sizing.unlike(record, [{**WHOLE, WHY: "else"}]) == "chosen for another device"
    assert sizing.unlike(None, [other]) is None
    assert sizing.unlike({"facts": {}}, [other]) is None


def test_how_trainings_run():
    def way(**train):
        return asked(**train).way

    assert (way().autocast, way().shared, way().rank, way().bits) == (False, True, 8, 16)
    assert way(precision="float16").autocast
    assert (way(method="full").autocast, way(method="full").rank) == (True, 0)
    assert not way(method="full", precision="float32").autocast
    assert not way(method="full", deepspeed="zero2").autocast
    assert [way(**told).fused_loss for told in ({}, {"method": "full"}, {"precision": "float32"})] == [
        True,
        False,
        False,
    ]
    stock = asked(stock=True).way
    assert (stock.autocast, stock.fused_loss) == (True, False)


@pytest.mark.parametrize(
    ("deepspeed", "fused"),
    [("zero2", True), ("zero3", False), ("zero3_offload", False), ("own.json", False),
     ({"zero_optimization": {"stage": 3}}, False), ({"zero_optimization": {"stage": 1}}, True), ({}, True)],
)  # fmt: skip
def test_zero3_keeps_a_models_own_layers(deepspeed, fused):
    assert asked(deepspeed=deepspeed).way.fused_loss is fused


def test_a_gpu_that_trainings_share_is_another_device():
    values = {"train": {"effective_batch": 16}, "data": {"max_length": 64}, "template": "lora"}
    assert sizing.made_for(values, "m") != sizing.made_for({**values, "trainings_per_gpu": 2}, "m")


def test_what_cannot_fit_is_told():
    tiny = Memory(10**9, of_gpu=True)
    one = asked(effective_batch=1)
    (finding,) = sizing.findings(one, tiny, sizing.choose(one, tiny))
    assert (finding.severity, finding.code) == ("warning", "memory")
    assert not list(sizing.findings(one, GPU, sizing.choose(one, GPU)))
    fixed = asked(batch_size=1, accumulation=1, activation_checkpointing=False)
    assert not list(sizing.findings(fixed, tiny, sizing.choose(fixed, tiny)))  # nothing was to be chosen
