"""Nothing that a file says crashes, hangs, fills the memory or runs code: it gets one sentence.

The files are read in other processes, by the functions that the stages call.
"""

import json
from pathlib import Path

import pytest

from tests import hostile_checkpoints, hostile_pickles, hostile_reader, hostile_texts
from tests.clean_process import CleanProcess

MOST = 500  # MiB
SPARSE = 2**31  # bytes of a file that is one hole
KINDS = ("pickle", "npy", "json", "lines", "calibration", "checkpoint")
GOOD = "as it should be"

pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="measures memory in /proc")


def listed(trace: Path) -> dict[str, dict]:
    """Return {kind of file: {name: its bytes, or a function that returns them}}."""
    listed = {
        "pickle": hostile_pickles.pickles(trace),
        "npy": hostile_texts.arrays(),
        "json": hostile_texts.jsons(),
        "lines": hostile_texts.lines(),
        "calibration": hostile_texts.calibrations(),
        "checkpoint": hostile_checkpoints.checkpoints(trace),
    }
    for files in listed.values():
        files["2 GB of nothing"] = None
    return listed


CASES = [(kind, name) for kind, files in listed(Path("trace")).items() for name in files]


def path_of(root: Path, kind: str, number: int) -> Path:
    folder = root / f"{kind}-{number}"
    names = {
        "pickle": "f_dict_hard.pkl",
        "npy": "npy_sequence/1.2.npy",
        "json": "npy_sequence/1.2.json",
        "lines": "metrics_stage1.jsonl",
        "calibration": "net/calibration.json",
        "checkpoint": "net/fold-0/weights_inference.pth",
    }
    return folder / names[kind]


def write(path: Path, content) -> None:
    path.parent.mkdir(parents=True)
    if content is None:
        with open(path, "wb") as file:
            file.truncate(SPARSE)
    else:
        path.write_bytes(content() if callable(content) else content)


def read_all(cases: list[tuple[str, str, str]], clean_process: CleanProcess) -> dict[str, dict]:
    """Return {name: outcome}; a file that ends the reader costs only itself."""
    found = {}
    while cases:
        ended = clean_process.call(hostile_reader.read_all, cases)
        outcomes = [json.loads(line) for line in ended.stdout.splitlines()]
        found |= {outcome["name"]: outcome for outcome in outcomes}
        cases = cases[len(outcomes) :]
        if cases:
            text = f"exit code {ended.returncode}: {ended.stderr[-500:]}"
            found[cases[0][0]] = {"kind": "end of the process", "text": text}
            cases = cases[1:]
    return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, clean_process) -> tuple[dict[str, dict], Path]:
    root = tmp_path_factory.mktemp("hostile")
    trace = root / "trace"
    good = {"checkpoint": hostile_checkpoints.packed(hostile_checkpoints.whole())}
    cases = []
    for kind, files in listed(trace).items():
        named = ({GOOD: good[kind]} if kind in good else {}) | files
        for number, (name, content) in enumerate(named.items()):
            path = path_of(root, kind, number)
            write(path, content)
            cases.append((f"{kind}: {name}", kind, str(path)))
    return read_all(cases, clean_process), trace


def test_the_list_is_long():
    assert len(CASES) >= 70


def test_a_good_checkpoint_is_read(outcomes):
    assert outcomes[0][f"checkpoint: {GOOD}"]["kind"] is None


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_one_sentence(kind, name, outcomes):
    found, trace = outcomes
    outcome = found[f"{kind}: {name}"]
    assert outcome["kind"] == "UserError", outcome
    assert "\n" not in outcome["text"] and len(outcome["text"]) < 600
    assert outcome["text"].isprintable()
    assert outcome["mib"] < MOST, outcome
    assert not trace.exists()
