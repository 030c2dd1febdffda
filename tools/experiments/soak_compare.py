"""Compare what the eight stages wrote on two sides, bit for bit."""

from collections.abc import Iterable
from pathlib import Path

from src.artifacts.checkpoints import read_trained
from src.artifacts.files import read_json, read_json_lines
from src.artifacts.paths import DataFolder, RunFolder
from src.artifacts.provenance import fingerprint
from src.artifacts.tables import read_table
from tools import make_demo_data

EVALUATIONS = ("stage1", "stage2", "end_to_end")


def compare(calm: Path, wild: Path, encoder: str, reasons: dict[str, str]) -> dict[str, str]:
    """Return for each thing compared the first difference between the sides, "" if there is none.

    calm, wild: folders with data/ and model/.
    reasons: with which each broken series of the wild side must have failed.
    """
    failed = read_table(DataFolder(wild / "data").failed_series).set_index("SeriesInstanceUID")
    differences = {"failed series": difference(reasons, failed.reason.to_dict())}
    expected, found = contents_of(calm, encoder), contents_of(wild, encoder)
    for what, values in expected.items():
        differences[what] = difference(values, found[what]) if values else "nothing was written"
    return differences


def difference(expected: dict, found: dict) -> str:
    """Say how many values of two dicts differ, and which is the first; "" if none does."""
    names = expected | found
    wrong = [name for name in names if expected.get(name) != found.get(name)]
    if not wrong:
        return ""
    first = wrong[0]
    return (
        f"{len(wrong)} of {len(names)} differ, the first is {first}: "
        f"{str(expected.get(first, 'missing'))[:40]} expected, "
        f"{str(found.get(first, 'missing'))[:40]} found"
    )


def contents_of(side: Path, encoder: str) -> dict[str, dict]:
    """Return {what: {name: value}} of all that must be the same on both sides."""
    data, run = DataFolder(side / "data"), RunFolder(side / "model", encoder, 0)
    count = data.fold_count()
    tables = [data.train_meta, data.slice_uids, data.geometry, data.labels, data.safe_slices]
    files = [*data.root.iterdir(), *run.root.rglob("*")]  # half-written ones, too
    contents = {
        "prepared arrays": hashes_of(data.sequences.iterdir()),
        "tables, folds and spots": hashes_of([*tables, data.folds(count), data.spots(count)]),
        "features": hashes_of(run.features.glob("*.npy")),
        "logits of stage 1": hashes_of(run.logits.iterdir()),
        "predictions": hashes_of(run.predictions(name) for name in EVALUATIONS),
        "names of files": {path.name: "" for path in files if path.name != make_demo_data.SETTINGS},
    }
    for stage in ("stage1", "stage2"):
        contents[f"weights of {stage}"] = weights_of(run, stage)
        epochs = read_json_lines(run.metrics(stage))
        contents[f"loss and scores of {stage}"] = {
            row["epoch"]: row | {"seconds": 0} for row in epochs
        }
    for name in EVALUATIONS:
        contents[f"scores of {name}"] = read_json(run.scores(name))
    return contents


def hashes_of(paths: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of files by name."""
    return {path.name: fingerprint(path) for path in paths}


def weights_of(run: RunFolder, stage: str) -> dict[str, bytes]:
    """Return a stage's weights of its best epoch and their moving average after the last one."""
    found = {}
    for select in ("best", "last"):
        trained = read_trained(run, stage, select)
        found[f"{select} epoch"] = trained["epoch"]
        for name, weight in trained["weights"].items():
            found[f"{select} {name}"] = weight.numpy().tobytes()
    return found
