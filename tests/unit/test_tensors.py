import json
import os
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load_file, save_file

from tunemake.faults import ModelError
from tunemake.tensors import FLOATS, Block, Files, Tensor, blocks, create, read_header, read_model

NAMES = {"F32": np.float32, "F64": np.float64, "F16": np.float16, "I64": np.int64, "U8": np.uint8, "BOOL": np.bool_}
some_arrays = st.sampled_from(list(NAMES.values())).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
)
some_names = st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__")


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(some_names, some_arrays, max_size=4))
def test_files_written_here_and_there_are_the_same_to_both(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("round")
    shorts = {np.dtype(dtype): name for name, dtype in NAMES.items()}
    specs = [(name, shorts[array.dtype], array.shape) for name, array in values.items()]
    with Files() as files:
        for name, tensor in create(folder / "ours", specs).items():
            files.write(tensor, 0, np.frombuffer(values[name].tobytes(), np.uint8))
    read = load_file(folder / "ours")
    assert read.keys() == values.keys()
    assert all(read[name].tobytes() == array.tobytes() for name, array in values.items())
    save_file(values, folder / "theirs")
    with Files() as files:
        for name, tensor in read_header(folder / "theirs").items():
            raw = np.empty(tensor.size, np.uint8)
            files.read(tensor, 0, raw)
            assert (raw.tobytes(), tensor.shape) == (values[name].tobytes(), values[name].shape)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 50), st.integers(1, 30))
def test_blocks_cover_every_value_once_and_are_contiguous(first, rows, columns, limit):
    seen = []
    for block in blocks(range(first, first + rows), columns, limit):
        assert block.rows * block.columns <= limit
        assert block.rows == 1 or block.columns == columns
        start = block.row * columns + block.column
        seen += range(start, start + block.rows * block.columns)
    assert seen == list(range(first * columns, (first + rows) * columns))
    assert list(blocks(range(2), 3, 6)) == [Block(0, 2, 0, 3)]


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float32, 20, elements=st.floats(width=32, allow_nan=False)))
def test_bfloat16_is_rounded_to_nearest_even_once(values):
    bits = values.view(np.uint32).astype(np.uint64)
    expected = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    assert values.astype(FLOATS["BF16"]).view(np.uint16).tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_are_loaded_as_float32(tmp_path, dtype):
    values = np.array([[0.5, -2.0, 1e4], [np.inf, 3.0, 0.1]]).astype(FLOATS[dtype])
    tensor = create(tmp_path / "x", [("x", dtype, values.shape)])["x"]
    with Files() as files:
        files.write(tensor, 0, values.reshape(-1).view(np.uint8))
        loaded = files.load(tensor)
    assert loaded.dtype == np.float32
    assert loaded.tolist() == values.astype(np.float32).tolist()


def test_tensors_are_aligned_to_their_dtype(tmp_path):
    made = create(tmp_path / "x", [("byte", "U8", (3,)), ("half", "BF16", (5,)), ("wide", "F64", (1,))])
    assert all(tensor.offset % size == 0 for tensor, size in ((made["wide"], 8), (made["half"], 2)))
    assert read_header(tmp_path / "x").keys() == {"byte", "half", "wide"}


def written(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def told(shape=(2,), offsets=(0, 8), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


INVALID = {
    "its header does not fit into it": (b"", b""),
    "its header is no valid JSON": (b"{nonsense", b""),
    "a name is there twice": (b'{"x": 1, "x": 2}', b""),
    "its header is no JSON object": ([1], b""),
    "x lacks dtype, shape or data_offsets": ({"x": {"dtype": "F32"}}, b""),
    "x has an unknown dtype; got F7": ({"x": told(dtype="F7")}, b"01234567"),
    "x has an invalid shape or offset": ({"x": told(shape=(-2,))}, b"01234567"),
    "x has other offsets than its shape and dtype need": ({"x": told(shape=(3,))}, b"01234567"),
    "x does not begin where the tensor before it ends": ({"x": told(offsets=(4, 12))}, b"0123456789ab"),
    r"its size is not what its header says; expected \d+ bytes, got \d+": ({"x": told()}, b"0123"),
    "its size is not": ({"x": told()}, b"01234567890"),
    "b does not begin where": ({"a": told(), "b": told(offsets=(4, 12))}, b"0123456789ab"),
}


@pytest.mark.parametrize("message", INVALID)
def test_an_invalid_file_is_told(tmp_path, message):
    header, data = INVALID[message]
    path = written(tmp_path / "x.safetensors", header, data)
    if header == b"":
        path.write_bytes(struct.pack("<Q", 10**9))
    with pytest.raises(ModelError, match=message):
        read_header(path)


def test_a_file_cut_anywhere_is_told(tmp_path):
    save_file({"a": np.arange(6.0), "b": np.ones(3, np.float32)}, tmp_path / "x")
    whole = (tmp_path / "x").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(ModelError, match="torn or invalid safetensors file"):
            read_header(tmp_path / "cut")


def test_a_file_cut_while_it_is_read_is_told(tmp_path):
    save_file({"a": np.arange(6.0)}, tmp_path / "x")
    tensor = read_header(tmp_path / "x")["a"]
    os.truncate(tmp_path / "x", tensor.offset + 8)
    with Files() as files, pytest.raises(ModelError, match="ends inside a"):
        files.load(tensor)


def test_a_missing_file_and_a_deep_header_are_told(tmp_path):
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        read_header(tmp_path / "x")
    with pytest.raises(ModelError, match="torn or invalid"):
        read_header(written(tmp_path / "deep", b"[" * 200_000))


@pytest.fixture
def sharded(tmp_path):
    save_file({"a": np.ones(2)}, tmp_path / "one.safetensors")
    save_file({"b": np.ones(3)}, tmp_path / "two.safetensors")

    def index(weight_map):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        return tmp_path

    return index


def test_shards_are_read_through_their_index(sharded):
    folder = sharded({"b": "two.safetensors", "a": "one.safetensors"})
    assert list(read_model(folder)) == ["a", "b"]
    save_file({"single": np.ones(1, ml_dtypes.bfloat16)}, folder / "model.safetensors")
    assert list(read_model(folder)) == ["single"]  # as transformers chooses


@pytest.mark.parametrize(
    "shard", ["../one.safetensors", "/etc/one.safetensors", "a/b.safetensors", "one.bin", "", 7, "a\\b.safetensors"]
)
def test_a_shard_outside_the_folder_is_refused(sharded, shard):
    with pytest.raises(ModelError, match="not the name of a shard in this folder"):
        read_model(sharded({"a": shard}))


def test_an_index_that_is_not_true_is_told(sharded):
    with pytest.raises(ModelError, match=r"c is not in two\.safetensors"):
        read_model(sharded({"a": "one.safetensors", "c": "two.safetensors"}))
    with pytest.raises(ModelError, match=r"a is not in two\.safetensors"):
        read_model(sharded({"a": "two.safetensors", "b": "two.safetensors"}))
    with pytest.raises(ModelError, match="no weight_map"):
        read_model(sharded([]))
    folder = sharded({"a": "one.safetensors", "b": "two.safetensors"})
    save_file({"a": np.ones(2)}, folder / "two.safetensors")
    with pytest.raises(ModelError, match=r"a is also in one\.safetensors"):
        read_model(folder)


def test_a_folder_without_safetensors_says_what_to_do(tmp_path):
    with pytest.raises(ModelError, match=r"no model\.safetensors and no"):
        read_model(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match="convert the model to safetensors"):
        read_model(tmp_path)


def test_sizes(tmp_path):
    tensor = Tensor("x", "BF16", (3, 5), tmp_path, 0)
    assert (tensor.count, tensor.size) == (15, 30)
    assert Tensor("x", "F32", (), tmp_path, 0).count == 1
