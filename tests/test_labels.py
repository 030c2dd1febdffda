import subprocess
from pathlib import Path

from src.labels import LABELS, LOCATIONS, MIRROR, PRESENT

ROOT = Path(__file__).resolve().parents[1]


def test_mirror_swaps_left_and_right_and_nothing_else():
    for k, label in enumerate(LABELS):
        swapped = label.replace("Left", "left").replace("Right", "Left").replace("left", "Right")
        assert LABELS[MIRROR[k]] == swapped
        assert MIRROR[MIRROR[k]] == k


def test_presence_is_the_last_of_14():
    assert len(LABELS) == 14
    assert LABELS[PRESENT] == "Aneurysm Present"
    assert LABELS[:PRESENT] == LOCATIONS


def test_labels_are_spelled_once():
    found = subprocess.run(
        ["git", "grep", "-l", "--untracked", LABELS[11], "--", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert [name for name in found.stdout.split() if not name.startswith("tests/")] == [
        "src/labels.py"
    ]
