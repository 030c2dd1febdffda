from src.labels import LABELS, LOCATIONS, MIRROR, PRESENT
from tests.conftest import ROOT


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
    sources = [*ROOT.glob("*.py"), *ROOT.glob("src/**/*.py"), *ROOT.glob("tools/**/*.py")]
    spelled = [path for path in sources if LABELS[11] in path.read_text()]
    assert spelled == [ROOT / "src" / "labels.py"]
