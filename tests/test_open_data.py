"""The commands of docs/open_data.md, one after the other, as they stand there: NIfTI to report."""

import importlib
import re
import shlex
import subprocess

import pandas as pd
import pytest
import tyro

from src.artifacts.files import read_json
from src.artifacts.paths import DataFolder, EncoderFolder, RunFolder
from tests.conftest import ROOT
from tests.nifti_trees import bids
from tools.scoring.output import rate_text

ENCODER = "test_resnet"  # of the page
SOURCE = "path/to/ds003949"
pytestmark = pytest.mark.timeout(600)  # all stages on a busy machine
SHOW = 'python() { printf "%q " "$@"; echo; }\n'  # in place of running it


def documented(heading: str) -> list[list[str]]:
    """Return the words of each command of the first block of bash under a heading."""
    text = (ROOT / "docs" / "open_data.md").read_text()
    block = re.search(rf"^## {heading}$.*?^```bash\n(.*?)^```", text, flags=re.M | re.S)[1]
    done = subprocess.run(["bash", "-ec", SHOW + block], capture_output=True, text=True, check=True)
    return [shlex.split(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """What each script returned that was run, in a folder of nine good scans and one refused."""
    root = tmp_path_factory.mktemp("walked")
    bids(root / SOURCE, 10)
    results = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for script, *words in documented("From a folder of NIfTI to a report"):
            words += ["--panels", "1"] if "audit" in script else []  # pictures take seconds
            module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
            results[script] = module.main(tyro.cli(module.Config, args=words))
    return root, results


def test_all_eight_stages_and_the_tools_are_run(walked):
    root, results = walked
    readme = (ROOT / "README.md").read_text()
    assert set(re.findall(r"^\| \d \| `python (\w+\.py)`", readme, flags=re.M)) < results.keys()
    assert [reason for _, reason, _ in results["tools/import_nifti.py"].failed] == ["not_3d"]
    page = EncoderFolder(root / "model", ENCODER).report_page.read_text()
    assert "The weighted score is that of presence alone" in page
    assert len(results["tools/audit_labels.py"]) > 0


def test_patients_are_those_of_the_import(walked):
    root, results = walked
    train = pd.read_csv(root / "data" / "train.csv")
    folds = pd.read_csv(DataFolder(root / "data").folds(2))
    assert results["tools/score.py"]["n_patients"] == train.PatientID.nunique() == 8
    assert results["tools/score.py"]["n_series"] == len(train) == 9
    assert (folds.patient_id == folds.PatientID).all()


def test_score_says_what_the_report_and_measure_findings_say(walked):
    """By other ways: measure_findings.py never asks where a slice is in the patient.

    Its intervals draw the patients in another order.
    """
    root, results = walked
    found, folder = results["tools/score.py"], EncoderFolder(root / "model", ENCODER)
    scores = read_json(RunFolder(root / "model", ENCODER, "all").scores("end_to_end"))
    for name in ("score", "present", "intervals"):
        assert found[name] == scores[name]
    assert f"{found['present']:.3f}" in folder.report_page.read_text()
    said = {row["name"]: row["value"] for row in read_json(folder.localisation)["rows"]}
    assert said["    location named rightly, of those within 10 mm"] == "n/a"
    assert len(found["froc"]["rules"]) == 2
    for rule, figures in found["froc"]["rules"].items():
        assert figures["aneurysms"] == 9
        for row in figures["rows"]:
            name = f"aneurysms hit {rule} at {row['rate']:g} false findings a series"
            assert said[name].split(";")[0] == rate_text(row).split(";")[0]
