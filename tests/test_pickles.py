"""What numpy, torch and this project write is read as numpy and torch read it."""

import pickle

import numpy as np
import pytest
import torch

from src.artifacts.checkpoints import read_checkpoint, read_trained, write_checkpoint
from src.artifacts.files import array_layout, read_array, read_json_lines, read_pickle
from src.artifacts.paths import ArtifactError, RunFolder

CODES = "bool i1 <i2 >i2 <i4 >i4 <i8 >i8 u1 <u2 >u4 <u8 <f2 >f2 <f4 >f4 <f8 >f8".split()
RNG = np.random.default_rng(0)


def arrays_of(code: str) -> dict[str, np.ndarray]:
    """Return arrays of one type in every order of the axes."""
    array = RNG.integers(0, 2 if code == "bool" else 100, (4, 3, 2)).astype(code)
    orders = {"C": array, "F": np.asfortranarray(array), "other": array.transpose(1, 0, 2)}
    parts = {"every second": array[::2], "read-only": array[:1], "empty": array[:0, 0, 0]}
    parts["read-only"].flags.writeable = False
    return orders | parts


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("code", CODES)
def test_arrays_of_any_type_order_and_protocol(tmp_path, code, protocol):
    content = arrays_of(code)
    content |= {"number": content["C"][0, 0, 0], "again": content["C"]}
    pickled = pickle.dumps(content, protocol=protocol)
    old_name = pickled.replace(b"numpy._core.", b"numpy.core.")  # as numpy 1 writes; protocol < 4
    for written in [pickled] + [old_name] * (protocol < 4):
        (tmp_path / "x.pkl").write_bytes(written)
        back = read_pickle(tmp_path / "x.pkl")
        assert back.keys() == content.keys()
        for name, expected in content.items():
            found = back[name]
            assert found.dtype == expected.dtype.newbyteorder("=") and found.shape == expected.shape
            np.testing.assert_array_equal(found, expected)
        assert back["C"].flags.writeable and back["again"] is back["C"]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_of_any_protocol(tmp_path, protocol):
    numbers = [0, 1, 255, 256, 65535, 65536, -1, 2**31, -(2**31), 2**63 - 1, -(2**63), 2**64 - 1]
    values = [*numbers, 0.5, -1e300, float("inf"), True, False, None, "", "λ\n\\ \udcff", "a" * 300]
    content = {
        "a": values,
        "b": tuple(values),
        "c": {"d": values[:], 3: ()},
        "e": [(1,), (1, 2), [[]]],
    }
    content["uids"] = [f"1.2.{k}" for k in range(3000)]  # more than one batch of the pickler
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    assert read_pickle(tmp_path / "x.pkl") == content


def test_checkpoints_are_read_as_torch_reads_them(tmp_path):
    torch.manual_seed(0)
    base = torch.randn(6, 5, 4, 3)
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8)
    weights = {str(kind): (base * 20).abs().to(kind) for kind in kinds}
    weights |= {"last": base.to(memory_format=torch.channels_last), "part": base[2:4], "same": base}
    weights |= {
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "turned": base.permute(3, 1, 0, 2),
    }
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    settings = {"holes": (10, 25), "again": (10, 25), "lr": 3e-5, "none": None}
    state = {"weights": weights, "settings": settings, "model": model.state_dict(), "epoch": 3}
    path = tmp_path / "best_stage1.pth"
    write_checkpoint(path, state)
    found, expected = read_checkpoint(path, ("weights",)), torch.load(path, weights_only=True)
    assert found.keys() == expected.keys() and found["settings"] == expected["settings"]
    for part in ("weights", "model"):
        assert list(found[part]) == list(expected[part])
        for name, tensor in expected[part].items():
            read = found[part][name]
            assert read.dtype == tensor.dtype and read.stride() == tensor.stride()
            assert read.shape == tensor.shape and torch.equal(read, tensor)
    assert found["weights"]["same"].data_ptr() == found["weights"]["part"].data_ptr() - 2 * 60 * 4
    model.load_state_dict(found["model"])


def test_a_bit_that_flipped_on_disk_is_noticed(tmp_path):
    path = tmp_path / "best_stage1.pth"
    write_checkpoint(path, {"weights": {"a": torch.full((1000,), 0.5)}})
    data = bytearray(path.read_bytes())
    data[data.index(torch.full((9,), 0.5).numpy().tobytes()) + 8] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="CRC"):
        read_checkpoint(path, ("weights",))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"learner": [1]}, r"no 'average\.module'"),
        ({"learner": {"average": {}}}, r"no 'average\.module'"),
        (
            {"learner": {"average": {"module": {"a": torch.tensor([np.nan])}}}},
            "weights a are not finite",
        ),
        ({"epoch": "3"}, "'epoch' is not of type int"),
        ({"settings": [3]}, "its settings have no names"),
        ({"settings": {}}, "setting encoder is missing"),
    ],
)
def test_a_malformed_state_is_one_sentence(tmp_path, state, message):
    run = RunFolder(tmp_path, "net", 0)
    good = {"learner": {"average": {"module": {"a": torch.ones(1)}}}, "settings": {}, "epoch": 1}
    write_checkpoint(run.last("stage1"), good | state)
    with pytest.raises(ArtifactError, match=rf"last_stage1\.pth.*{message}.*train"):
        read_trained(run, "stage1", "last")


@pytest.mark.parametrize("shape", [(1,), (7,), (2, 3), (3, 4, 5), (1, 1, 1, 2)])
@pytest.mark.parametrize("code", ["u1", "<i8", "<f2", "<f4"])
def test_arrays_are_read_as_numpy_reads_them(tmp_path, shape, code):
    array = RNG.integers(0, 100, shape).astype(code)
    path = tmp_path / "a.npy"
    for version in ((1, 0), (2, 0), (3, 0)):
        with open(path, "wb") as file:
            np.lib.format.write_array(file, array, version)
        found = read_array(path)
        assert found.dtype == array.dtype and np.array_equal(found, array)
        array_layout.cache_clear()
        assert array_layout(path)[1:] == (shape, array.dtype)


def test_a_loss_that_is_not_finite_may_stand_in_the_lines(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"loss": NaN}\n{"loss": 1e999}\n')
    assert len(read_json_lines(tmp_path / "m.jsonl")) == 2
