"""The ONNX files (tools/export_onnx.py): PyTorch's numbers; no wrong, stale or broken file."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch

from src.artifacts.checkpoints import write_checkpoint
from src.artifacts.paths import RunFolder
from src.inference.both_stages import BothStages
from src.inference.encode import device_of
from src.inference.onnx import CPU, OnnxSliceCNN, OnnxTransformer, digest
from src.labels import LABELS
from src.networks.sequence_transformer import build_transformer, new_transformer
from src.networks.slice_cnn import SliceCNN, build_slice_cnn
from src.preprocess.images import PreparedSeries
from src.preprocess.intensity import TOP
from src.progress import Clock
from src.script import UserError
from tests.conftest import CROP, IMAGE_SIZE
from tools import export_onnx
from tools.export_onnx import Config, random_images, random_series

NETWORKS = [("test_convnext", 0.3), ("test_resnet", 0.0)]  # encoder, weight of the heatmap


def write_joined(run: RunFolder, encoder: str, heatmap_weight: float, seed: int = 0) -> dict:
    """Write weights_inference.pth with random weights and several heads; return its content."""
    torch.manual_seed(seed)
    slice_cnn = SliceCNN(encoder, heatmap=heatmap_weight > 0)
    shape = {
        "channels": slice_cnn.channels,
        "width": 16,
        "layers": 2,
        "heads": 2,
        "dropout": 0.1,
        "attention_dropout": 0.1,
    }
    transformer = new_transformer(shape)
    torch.nn.init.normal_(transformer.distance_bias.values)
    joined = {
        "stage1": slice_cnn.state_dict(),
        "stage1_settings": {
            "encoder": encoder,
            "crop_size": CROP,
            "view_mm": 0.0,
            "step_mm": (0.0, 0.0),
            "heatmap_weight": heatmap_weight,
            "image_size": 20,
            "mr_window": "percentile",
        },
        "stage2": transformer.state_dict(),
        "stage2_settings": shape | {"cut": 7, "step": 2, "stage1_weight": 0.6},
        "prior": [0.1] * len(LABELS),
    }
    write_checkpoint(run.inference, joined)
    return joined


@pytest.fixture(scope="module", params=NETWORKS, ids=str)
def exported(request, tmp_path_factory):
    """The folder of a network, the content of its weights, and what the tool returned."""
    encoder, heatmap_weight = request.param
    config = Config(tmp_path_factory.mktemp("model"), 0, encoder)
    run = RunFolder(config.model_dir, encoder, 0)
    return run, write_joined(run, encoder, heatmap_weight), export_onnx.main(config)


@pytest.fixture
def one(tmp_path):
    """A network that is not exported yet."""
    run = RunFolder(tmp_path, "test_resnet", 0)
    return run, write_joined(run, "test_resnet", 0.3), Config(tmp_path, 0, "test_resnet")


def close(one, other):
    torch.testing.assert_close(one, other, atol=export_onnx.CLOSE, rtol=0)


@torch.inference_mode()
def test_slices_at_any_batch_size(exported):
    run, joined, _ = exported
    expected = build_slice_cnn(joined["stage1_settings"], joined["stage1"], CPU)
    found = OnnxSliceCNN(run.slice_cnn_onnx, digest(joined["stage1"]))
    for batch in (1, 3, 32):
        images = random_images(batch, CROP, torch.Generator().manual_seed(batch))[0].contiguous(
            memory_format=torch.channels_last
        )
        one, other = expected(images), found(images)
        close(other.logits, one.logits)
        close(other.features, one.features)
        assert (other.heatmap is None) == (joined["stage1_settings"]["heatmap_weight"] == 0)
        if other.heatmap is not None:
            close(other.heatmap, one.heatmap)


@torch.inference_mode()
@pytest.mark.parametrize("length", [1, 7, 200])
def test_series_of_any_length_and_number_with_padding(exported, length):
    run, joined, _ = exported
    expected = build_transformer(joined["stage2_settings"], joined["stage2"], CPU)
    found = OnnxTransformer(run.transformer_onnx, digest(joined["stage2"]))
    for batch in (1, 2, 5):
        features, positions, present = random_series(
            batch,
            length,
            joined["stage2_settings"]["channels"],
            torch.Generator().manual_seed(batch),
        )
        assert batch == 1 or length == 1 or not present.all()
        logits = found(features, positions, present)
        close(logits, expected(features, positions, present))
        features[~present], positions[~present] = 9.0, -50.0
        close(found(features, positions, present), logits)


def test_the_files_say_what_is_in_them(exported):
    run, joined, differences = exported
    assert all(difference < export_onnx.CLOSE for difference in differences.values())
    for path in (run.slice_cnn_onnx, run.transformer_onnx):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        assert json.loads(session.get_modelmeta().custom_metadata_map["labels"]) == list(LABELS)
        assert differences[path.name] >= 0
        ports = {port.name: port.shape for port in (*session.get_inputs(), *session.get_outputs())}
        assert ports["logits"] == ["batch", len(LABELS)]
        if path == run.slice_cnn_onnx:
            assert ports["images"] == ["batch", 3, CROP, CROP] and ports["features"] == [
                "batch",
                joined["stage2_settings"]["channels"],
            ]
            assert ("heatmap" in ports) == (joined["stage1_settings"]["heatmap_weight"] > 0)
        else:
            assert ports["features"] == ["batch", "length", joined["stage2_settings"]["channels"]]
            assert ports["positions"] == ports["present"] == ["batch", "length"]
            assert session.get_modelmeta().custom_metadata_map["stage1_weight"] == "0.6"
    assert sorted(path.name for path in run.root.iterdir()) == [
        "sequence_transformer.onnx",
        "slice_cnn.onnx",
        "weights_inference.pth",
    ]


def test_both_stages_on_the_files_are_both_stages_in_pytorch(exported):
    run, joined, _ = exported
    options = {"both_steps": True, "mirror": True}
    pytorch, onnx = BothStages(joined, CPU, **options), BothStages(joined, CPU, **options, onnx=run)
    assert device_of(onnx.slice_cnn) == onnx.device == pytorch.device == CPU
    generator, series = np.random.default_rng(0), []
    for length in (1, 5, 40):
        numbers = pytorch.needed(length, None)
        images = generator.random((len(numbers), IMAGE_SIZE, IMAGE_SIZE)) * TOP
        opened = SimpleNamespace(
            slices=[None] * length,
            positions=np.arange(length) * 1.5,
            plane="axial",
            shape=(length, IMAGE_SIZE, IMAGE_SIZE),
            spacing=(None, None, None),
            orientation="",
        )
        series.append((length, PreparedSeries(opened, numbers, images.astype(np.float16))))
    expected, found = (dict(model.predict(series, 16, Clock())) for model in (pytorch, onnx))
    assert expected.keys() == found.keys() == {1, 5, 40}
    assert (
        np.ptp(np.stack(list(expected.values())), axis=0).max() > 10 * export_onnx.CLOSE
    )  # the pictures count
    for length in expected:
        np.testing.assert_allclose(found[length], expected[length], atol=1e-4, rtol=0)


def test_missing_weights_are_one_sentence(tmp_path):
    with pytest.raises(
        UserError, match=r"weights_inference\.pth is missing: run train_stage2\.py first$"
    ):
        export_onnx.main(Config(tmp_path))


def test_a_network_that_differs_is_not_written(one, monkeypatch):
    """The weights of the file are 1 % larger than those that it is compared with."""
    run, _, config = one
    run.slice_cnn_onnx.write_bytes(b"an earlier one")
    real = export_onnx.to_onnx

    def spoilt(model, *arguments):
        larger = build_slice_cnn(
            {"encoder": "test_resnet", "heatmap_weight": 0.3, "crop_size": CROP},
            {k: v * 1.01 for k, v in model.state_dict().items()},
            CPU,
        )
        return real(larger, *arguments)

    monkeypatch.setattr(export_onnx, "to_onnx", spoilt)
    with pytest.raises(
        UserError,
        match=r"^slice_cnn\.onnx differs from PyTorch by .*, more than 0\.0001, and is not written",
    ):
        export_onnx.main(config)
    assert sorted(path.name for path in run.root.iterdir()) == [
        "slice_cnn.onnx",
        "weights_inference.pth",
    ]
    assert run.slice_cnn_onnx.read_bytes() == b"an earlier one"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda out: out._replace(heatmap=None),
        lambda out: out._replace(features=out.features[:, 1:]),
    ],
)
def test_outputs_that_are_missing_or_of_another_shape_differ(one, wrong):
    _, joined, _ = one
    model = build_slice_cnn(joined["stage1_settings"], joined["stage1"], CPU)
    samples = [random_images(2, CROP, torch.Generator().manual_seed(0))]
    assert export_onnx.largest_difference(model, model, samples) == 0
    assert (
        export_onnx.largest_difference(model, lambda images: wrong(model(images)), samples)
        == np.inf
    )
    assert np.isnan(
        export_onnx.largest_difference(model, lambda images: model(images * np.nan), samples)
    )


def test_files_that_are_not_those_of_the_checkpoint_are_refused(one, tmp_path):
    run, joined, config = one
    with pytest.raises(
        UserError, match=r"slice_cnn\.onnx is missing: run tools/export_onnx\.py first"
    ):
        BothStages(joined, CPU, onnx=run)
    export_onnx.main(config)
    other = write_joined(RunFolder(tmp_path, "test_resnet", 1), "test_resnet", 0.3, seed=1)
    for stage, name in (("stage1", "slice_cnn"), ("stage2", "sequence_transformer")):
        with pytest.raises(UserError, match=rf"{name}\.onnx was made from other weights"):
            BothStages(joined | {stage: other[stage]}, CPU, onnx=run)
    slice_cnn, transformer = run.slice_cnn_onnx.read_bytes(), run.transformer_onnx.read_bytes()
    run.transformer_onnx.write_bytes(slice_cnn)
    with pytest.raises(
        UserError,
        match=r"sequence_transformer\.onnx reads images instead of features, positions, present",
    ):
        BothStages(joined, CPU, onnx=run)
    for broken in (b"", b"no network", transformer[: len(transformer) // 2]):
        run.transformer_onnx.write_bytes(broken)
        with pytest.raises(UserError, match=r"sequence_transformer\.onnx is not a whole ONNX file"):
            BothStages(joined, CPU, onnx=run)


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
def test_a_missing_package_is_one_sentence(one, monkeypatch, name):
    run, joined, config = one
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"need the package {name}: pip install onnx onnxruntime$"):
        export_onnx.main(config)
    assert not run.slice_cnn_onnx.exists()
    BothStages(joined, CPU)


def test_an_operator_without_a_counterpart_is_one_sentence():
    class Bessel(torch.nn.Module):
        def forward(self, images):
            return torch.special.bessel_j0(images)

    with pytest.raises(
        UserError, match=r"cannot become an ONNX file \(.*bessel_j0.*\): train another --encoder$"
    ):
        export_onnx.to_onnx(
            Bessel(), OnnxSliceCNN.axes, random_images(2, CROP, torch.Generator().manual_seed(0))
        )
