"""A bundle runs where neither data nor model folder is, and says the same, bit for bit."""

import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from src.artifacts.calibration import Calibration, write_calibration
from src.artifacts.files import write_json
from src.artifacts.paths import ALL_DATA, ArtifactError, EncoderFolder, RunFolder
from src.artifacts.provenance import MADE_BY
from src.artifacts.tables import read_folds
from src.dicom import open_series
from src.inference.sources import from_bundle, from_folder
from src.labels import LABELS, LOCATIONS, PRESENT
from src.progress import Clock
from src.script import UserError
from tests.networks import ENCODER, write_both
from tools import export_bundle, kaggle_server, predict, score
from tools.pages import model_card


@pytest.fixture(scope="module")
def networks(tiny, tmp_path_factory):
    model_dir = tmp_path_factory.mktemp("model")
    for fold in (0, 1):
        write_both(tiny, model_dir, fold, seed=fold, cut=7, lr=3e-3, data_dir="/home/roe/data")
    value = {"score": 0.75, "present": 0.8, "locations": dict.fromkeys(LOCATIONS, 0.7)}
    ends = {"score": [0.6, 0.9], "present": [0.7, 0.9]}
    ends["locations"] = {label: [0.1, 0.9] for label in LOCATIONS}
    scores = value | {"n_series": 24, "intervals": ends, "groups": {"Modality": {"secret": {}}}}
    write_json(RunFolder(model_dir, ENCODER, "all").scores("end_to_end"), scores)
    fitted = Calibration(0.5 + np.arange(14) / 10, np.arange(14) / 10, (0.5, 0.1))
    write_calibration(EncoderFolder(model_dir, ENCODER), fitted, {}, [0, 1])
    return model_dir


def export(tiny, networks, out, **options):
    options = {"folds": (0, 1), "dataset": "synthetic | series"} | options
    return export_bundle.main(
        export_bundle.Config(tiny.root, networks, ENCODER, out=out, **options)
    )


@pytest.fixture(scope="module")
def bundle(tiny, networks, tmp_path_factory):
    return export(tiny, networks, tmp_path_factory.mktemp("bundle") / "b.zip")


def test_elsewhere_it_predicts_the_same_bits(tiny, networks, bundle, tmp_path, clean_process):
    """Another folder, another process, neither data nor model."""
    folder = next((tiny.root / "series").iterdir())
    predict.main(
        predict.Config((folder,), tmp_path / "here", networks, ENCODER, (0, 1), calibrate=True)
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = elsewhere / "renamed.bundle"
    moved.write_bytes(bundle.read_bytes())
    words = [folder, "--bundle", moved.name, "--out", "out", "--calibrate"]
    done = clean_process.run("tools/predict", *words, cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    written = (elsewhere / "out" / "predictions.csv").read_bytes()
    assert written == (tmp_path / "here" / "predictions.csv").read_bytes()
    says = json.loads((elsewhere / "out" / f"{folder.name}.json").read_text())["networks"]
    assert says["bundle"] == bundle.read_bytes()[-64:].decode()
    assert says["encoder"] == ENCODER and says["networks"] == ["fold-0", "fold-1"]


def test_the_kaggle_server_runs_it(tiny, networks, bundle, tmp_path):
    one = export(tiny, networks, tmp_path / "one.zip", folds=(1,))
    series = open_series(next((tiny.root / "series").iterdir()))
    rows = []
    for options in ({"bundle": one}, {"model_dir": networks, "encoder": ENCODER, "folds": (1,)}):
        config = kaggle_server.Config(device="cpu", **options)
        kaggle_server.require_networks(config)
        predictor = kaggle_server.load(config)
        ((_, row),) = predictor.predict([("", predictor.prepare(series))], 32, Clock())
        rows.append(row)
    assert np.array_equal(*rows)
    spoilt = bytearray(one.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    one.write_bytes(spoilt)
    with pytest.raises(ArtifactError, match="it was changed or cut"):
        kaggle_server.require_networks(kaggle_server.Config(bundle=one))


@pytest.mark.parametrize(
    "other", [{"folds": (1,)}, {"encoder": "x"}, {"train_on_all": True}, {"onnx": True}]
)
def test_networks_are_named_once(other, bundle, tmp_path):
    with pytest.raises(UserError, match=f"without --{next(iter(other)).replace('_', '-')}"):
        predict.main(predict.Config((tmp_path,), tmp_path, bundle=bundle, **other))


def test_without_calibration_it_does_not_calibrate(tiny, networks, tmp_path):
    model_dir = tmp_path / "model"
    write_both(tiny, model_dir, 0, cut=7)
    alone = export(tiny, model_dir, tmp_path / "b.zip", folds=(0,))
    with pytest.raises(ArtifactError, match="holds no calibration"):
        predict.main(predict.Config((tmp_path,), tmp_path, bundle=alone, calibrate=True))
    with zipfile.ZipFile(alone) as archive:
        assert "None: no evaluation was found" in archive.read("MODEL_CARD.md").decode()


def test_the_same_networks_give_the_same_bytes(tiny, networks, bundle, tmp_path):
    assert export(tiny, networks, tmp_path / "b.zip").read_bytes() == bundle.read_bytes()
    other = export(tiny, networks, tmp_path / "c.zip", date="2026-01-02")
    assert other.read_bytes() != bundle.read_bytes()


def test_the_card_says_what_it_was_trained_on(tiny, bundle):
    with zipfile.ZipFile(bundle) as archive:
        card = archive.read("MODEL_CARD.md").decode()
        about = json.loads(archive.read("bundle.json"))["about"]
    series = read_folds(tiny)
    for fold in (0, 1):
        outside = series[series.fold != fold]
        present = int(outside[LABELS[PRESENT]].sum())
        row = f"| fold-{fold} | {len(outside)} | {present} | 0 | {len(series) - len(outside)} |"
        assert row in card
        counts = outside.Modality.value_counts().to_dict()
        assert about["trained_on"][f"fold-{fold}"]["modalities"] == counts
    assert "Data: synthetic \\| series." in card
    assert "0.750  0.600 to 0.900" in card and "fold-all, end to end" in card
    assert "apache-2.0" in card and "not a medical device" in card
    assert "| Left Infraclinoid Internal Carotid Artery | 0.500 |" in card
    assert "| `lr` | 0.003 |" in card
    everything = bundle.read_bytes().decode("latin-1")
    for secret in ("/home/roe", "secret", *series.SeriesInstanceUID):
        assert secret not in everything


@pytest.mark.parametrize(
    ("settings", "says", "not_says"),
    [
        ({"pretrained": True}, "pretrained weights of timm.\n\nLicence of these", "random"),
        ({"pretrained": False}, "random weights.", "dinov3"),
        ({"checkpoint": "/home/roe/w.pth", "pretrained": True}, "weights of a file", "roe"),
        ({}, "not recorded.\n\nLicence of these weights: dinov3-license", "random"),
    ],
)
def test_the_card_names_the_licence_of_the_encoder(settings, says, not_says):
    encoder = "convnext_base.dinov3_lvd1689m"
    found = export_bundle.weights_of_encoder({"encoder": encoder} | settings)
    part = model_card.licence_part({"encoder": encoder, "weights_of_encoder": found})
    assert says in part and not_says not in part.lower()
    assert ("DINOv3 licence](https://" in part) == (settings.get("pretrained") is not False)


def test_folds_that_have_changed_are_refused(tiny, networks, copied, tmp_path):
    path = copied.folds(copied.fold_count())
    table = read_folds(copied)
    table["fold"] = (table.fold + 1) % 3
    table.to_csv(path, index=False)
    with pytest.raises(ArtifactError, match="the folds have changed"):
        export(copied, networks, tmp_path / "b.zip")


def test_scores_and_calibration_of_other_weights_are_refused(tiny, networks, tmp_path):
    shutil.copytree(networks, tmp_path / "model")
    run = RunFolder(tmp_path / "model", ENCODER, "all")
    marks = run.predictions("end_to_end").with_suffix(MADE_BY)
    made = {"0": {"weights_inference.pth": "0" * 64}}
    write_json(marks, {"weights": made})
    refused = rf"{run.predictions('end_to_end')} was predicted by other weights"
    with pytest.raises(ArtifactError, match=refused):
        export(tiny, tmp_path / "model", tmp_path / "b.zip")
    write_both(tiny, tmp_path / "model", ALL_DATA, cut=7)  # shows the scores of all folds, too
    with pytest.raises(ArtifactError, match=refused):
        export(tiny, tmp_path / "model", tmp_path / "b.zip", train_on_all=True)
    assert not (tmp_path / "b.zip").exists()
    export(tiny, tmp_path / "model", tmp_path / "b.zip", folds=(1,))  # shows those of fold 1: none
    write_both(tiny, tmp_path / "model", 1, seed=2, cut=7)  # trained again
    with pytest.raises(
        ArtifactError, match=r"calibration\.json was fitted on predictions of other"
    ):
        export(tiny, tmp_path / "model", tmp_path / "b.zip", folds=(0,))  # it is of both


@pytest.mark.parametrize(
    ("options", "said"), [({"folds": ()}, "--folds"), ({"date": "yesterday"}, "--date")]
)
def test_flags_that_make_no_sense(options, said, tiny, networks, tmp_path):
    with pytest.raises(UserError, match=said):
        export(tiny, networks, tmp_path / "b.zip", **options)


def test_figures_of_a_test_set_stand_in_the_card(tiny, networks, tmp_path):
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(UserError, match=r"no json of tools/score\.py"):
        export(tiny, networks, tmp_path / "b.zip", figures=tmp_path / "no.json")
    truth = read_folds(tiny)[["SeriesInstanceUID", *LABELS]]
    guesses = truth.copy()
    guesses[list(LABELS)] = 0.2 + 0.5 * truth[list(LABELS)]
    truth.to_csv(tmp_path / "truth.csv", index=False)
    guesses.to_csv(tmp_path / "guesses.csv", index=False)
    config = score.Config(tmp_path / "truth.csv", tmp_path / "guesses.csv", draws=20)
    score.main(replace(config, out=tmp_path / "yes.json", thresholds=(0.35,)))
    out = export(tiny, networks, tmp_path / "b.zip", figures=tmp_path / "yes.json")
    with zipfile.ZipFile(out) as archive:
        card = archive.read("MODEL_CARD.md").decode()
    assert "Aneurysm Present from   sensitivity" in card and "\n0.35 " in card
    source = from_bundle(out)
    names, [point] = source.names, source.operating_points(calibrated=False)
    assert source.operating_points(calibrated=True) == []  # the guesses are not
    assert point["threshold"] == 0.35 and point["sensitivity"] == 1.0  # as the guesses are
    assert names["data"] == "synthetic | series" and names["date"] == export_bundle.day_of(
        [RunFolder(networks, ENCODER, fold) for fold in (0, 1)]
    )
    source = from_folder(networks, ENCODER, (0,))
    assert source.names["data"] == "data"  # no path of a person
    assert source.operating_points(calibrated=False) == []
