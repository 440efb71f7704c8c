"""NF4 held against bitsandbytes' own, which runs in a process of its own: it is not the one that XTuner pins."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tunemake import nf4

pytestmark = pytest.mark.slow

# For 8 bits, bitsandbytes takes a short cut on a CPU that errs beside a bound, but in float64 looks at all distances.
# What it keeps: levels and numbers; of each matrix magnitudes, their mean, what of them comes back by each of the two
# ways, and the values.
THEIRS = """
import sys, numpy, torch
from bitsandbytes import functional as F
given = numpy.load(sys.argv[1])
device, found = sys.argv[3], {"levels": F.get_4bit_type("nf4", device="cpu").numpy(),
                              "numbers": F.create_dynamic_map().numpy()}
for name, values in given.items():
    dtype = getattr(torch, name.split()[0])
    weight = torch.from_numpy(values).to(dtype).to(device)
    _, plain = F.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    packed, state = F.quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
    found[f"exact {name}"] = plain.absmax
    found[f"mean {name}"] = state.offset
    found[f"kept {name}"] = F.dequantize_blockwise(state.absmax, state.state2) + state.offset
    found[f"values {name}"] = F.dequantize_4bit(packed, state).float()
    if device == "cpu":
        rest = plain.absmax - state.offset
        code = F.create_dynamic_map()
        number, tops = torch.ops.bitsandbytes.quantize_blockwise(rest.double(), code, 256)
        nearest = code[number.long()] * tops.repeat_interleave(256)[: rest.numel()]
        found[f"nearest {name}"] = nearest + state.offset
numpy.savez(sys.argv[2], **{name: getattr(made, "cpu", lambda: made)() for name, made in found.items()})
"""
SHAPES = {"square": (64, 64), "large": (1000, 1024), "wide": (96, 40), "odd": (33, 35), "tiny": (5, 7)}
TYPES = ("float32", "bfloat16", "float16")


def given():
    random = np.random.default_rng(3)
    made = {name: (random.standard_normal(shape) * 0.05).astype(np.float32) for name, shape in SHAPES.items()}
    made["zeros in it"] = made["square"].copy()
    made["zeros in it"][3:6] = 0
    made["of all sizes"] = (made["square"] * 10.0 ** random.integers(-6, 2, (64, 1))).astype(np.float32)
    return {f"{dtype} {name}": values for name, values in made.items() for dtype in TYPES}


def asked(folder, bitsandbytes, device):
    np.savez(folder / "given.npz", **given())
    path = os.pathsep.join([str(bitsandbytes), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", THEIRS, str(folder / "given.npz"), str(folder / "made.npz"), device]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})
    return dict(np.load(folder / "made.npz"))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory, bitsandbytes):
    return asked(tmp_path_factory.mktemp("theirs"), bitsandbytes, "cpu")


def ours(name, values):
    loaded = nf4.through(values.reshape(-1), name.split()[0])
    scales = nf4.scales_of(nf4.largest(loaded))
    return loaded, scales, nf4.through(nf4.dequantised(loaded, 0, scales), name.split()[0])


def test_levels_and_numbers_are_theirs(theirs):
    np.testing.assert_array_equal(nf4.LEVELS, theirs["levels"])
    np.testing.assert_array_equal(nf4.EIGHT_BITS, theirs["numbers"])


@pytest.mark.parametrize("name", given())
def test_what_comes_back_is_theirs(name, theirs):
    loaded, scales, _ = ours(name, given()[name])
    exact, mean = theirs[f"exact {name}"], theirs[f"mean {name}"]
    np.testing.assert_array_equal(scales.exact, exact)
    # Their sum, in float32, may round the mean another way: by its last bit or two.
    assert abs(exact.mean(dtype=np.float64) - mean) <= 2 * np.spacing(mean)
    if np.float32(exact.mean(dtype=np.float64)) == mean:
        np.testing.assert_array_equal(scales.kept, theirs[f"nearest {name}"])
    # With the scales that they kept, each value is theirs, bit for bit.
    kept = nf4.Scales(exact, theirs[f"kept {name}"])
    made = nf4.through(nf4.dequantised(loaded, 0, kept), name.split()[0])
    np.testing.assert_array_equal(made.reshape(-1), theirs[f"values {name}"].reshape(-1))


def test_their_table_of_8_bits_changes_few_scales_by_one_number(theirs):
    share, far = [], []
    for name, values in given().items():
        _, scales, _ = ours(name, values)
        unlike = ~np.isclose(scales.kept, theirs[f"kept {name}"], rtol=1e-6, atol=0)
        share.append(unlike.mean() if scales.kept.size > 1000 else 0)
        far.append(np.abs(scales.kept - theirs[f"kept {name}"]).max() / scales.exact.max())
    assert max(share) < 0.005
    assert max(far) < 0.02


@pytest.fixture(scope="module")
def theirs_on_a_gpu(tmp_path_factory, bitsandbytes):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return asked(tmp_path_factory.mktemp("gpu"), bitsandbytes, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("name", given())
def test_a_gpu_keeps_the_same_but_for_rounding(name, theirs_on_a_gpu):
    loaded, scales, _ = ours(name, given()[name])
    exact, kept = theirs_on_a_gpu[f"exact {name}"], theirs_on_a_gpu[f"kept {name}"]
    np.testing.assert_array_equal(scales.exact, exact)
    # A scale between two numbers of 8 bits may be rounded to the other one.
    unlike = ~np.isclose(scales.kept, kept, rtol=1e-5, atol=1e-6 * exact.max())
    assert unlike.sum() <= max(1, 0.005 * kept.size)
    assert np.abs(scales.kept - kept).max() <= 0.02 * exact.max()
    # With the scales that they kept, so may a value between two levels.
    made = nf4.through(nf4.dequantised(loaded, 0, nf4.Scales(exact, kept)), name.split()[0]).reshape(-1)
    found = theirs_on_a_gpu[f"values {name}"].reshape(-1)
    zero = np.repeat(exact == 0, nf4.VALUES)[: made.size]
    assert (~np.isclose(made, found, rtol=1e-5, atol=0))[~zero].mean() < 0.002
    # In a block of zeros their kernel divides zero by zero, and takes what comes of it for the lowest level.
    spread = nf4.through(np.repeat(kept, nf4.VALUES)[: made.size], name.split()[0])
    np.testing.assert_allclose(found[zero], -spread[zero], rtol=1e-5)


def test_parts_of_a_matrix_are_the_whole():
    values = given()["bfloat16 odd"]
    loaded, scales, made = ours("bfloat16 odd", values)
    for first, count in ((0, 1), (63, 2), (64, 64), (100, 500), (loaded.size - 3, 3)):
        part = nf4.dequantised(loaded[first : first + count], first, scales)
        np.testing.assert_array_equal(nf4.through(part, "bfloat16"), made[first : first + count])


def test_the_size_of_the_change_is_that_of_4_bits():
    values = given()["float32 large"].reshape(-1)
    _, _, made = ours("float32 large", values)
    assert 0.07 < np.linalg.norm(made - values) / np.linalg.norm(values) < 0.1


def test_zeros_stay_zeros():
    nothing = np.zeros(200, np.float32)
    scales = nf4.scales_of(nf4.largest(nothing))
    np.testing.assert_array_equal(nf4.dequantised(nothing, 0, scales), nothing)
