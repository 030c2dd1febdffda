"""Names and tables of downloaded data sets: what is positive, healthy, left out, and whose."""

from collections import Counter
from pathlib import Path

import pytest

from src.artifacts.paths import ArtifactError
from src.script import UserError
from tests.conftest import ROOT
from tests.nifti_files import affine, ball, imported, picture, save
from tools.nifti.job import Job
from tools.nifti.layouts import READERS, layout_of
from tools.nifti.scans import LeftOut, Scan
from tools.nifti.tables import write_tables

TREES = ROOT.parent / "shared" / "openneuro"
RAS = affine()
real = pytest.mark.skipif(not TREES.exists(), reason="names of the real data sets are not here")


def tree_of(name: str, root: Path) -> Path:
    """Make the files of a real data set without content, and its tables as they are."""
    for line in (TREES / name / "paths.txt").read_text().splitlines():
        path = root / line
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for table in ("participants.tsv", "participants.json", "README"):
        (root / table).write_bytes((TREES / name / table).read_bytes())
    return root


def listed(root: Path, layout: str) -> tuple[list[Scan], list[LeftOut]]:
    assert layout_of(root) == layout
    found = list(READERS[layout](root))
    assert len({scan.name for scan in found}) == len(found)
    scans = [scan for scan in found if isinstance(scan, Scan)]
    return scans, [scan for scan in found if isinstance(scan, LeftOut)]


def reasons(left_out: list[LeftOut]) -> Counter:
    return Counter(scan.reason.partition(":")[0] for scan in left_out)


@real
def test_lausanne(tmp_path):
    scans, left_out = listed(tree_of("ds003949", tmp_path / "l"), "ds003949")
    assert Counter(scan.present for scan in scans) == {False: 128, True: 167}
    assert sum(len(scan.masks) for scan in scans) == 198  # lesions, as the authors count them
    assert left_out == [
        LeftOut("sub-482_ses-20140210", "not annotated: a patient without a mask of a lesion")
    ]
    assert len({scan.patient for scan in scans} | {"sub-482"}) == 284  # patients
    twice = [scan for scan in scans if scan.patient == "sub-074"]
    assert len(twice) == 2 and all("sub-074" in scan.image.name for scan in twice)
    for scan in scans:
        assert scan.image.name == f"{scan.name}_angio.nii.gz"
        assert all(mask.name.startswith(f"{scan.name}_desc-Lesion_") for mask in scan.masks)
        assert not scan.may_be_part and not scan.treated and not scan.points


@real
def test_brisbane(tmp_path):
    scans, left_out = listed(tree_of("ds005096", tmp_path / "b"), "ds005096")
    assert len(scans) + len(left_out) == 126  # scans
    assert reasons(left_out) == {"not annotated": 65, "doubtful mask": 2}
    assert len(scans) == 59 and all(scan.present and scan.masks for scan in scans)
    assert len({scan.patient for scan in scans}) == 59
    by_name = {scan.name: scan for scan in scans}
    # Of two scans of a session, the one that its folder Mask names.
    assert "sub-015_ses-20121216_acq-multislab" in by_name
    assert not any("singleslab" in name for name in by_name)
    # A copy of sub-002's folder is in that of sub-001: each counts once.
    assert len(by_name["sub-002_ses-20200324_acq-highres"].masks) == 1
    assert len(by_name["sub-001_ses-20190607_acq-tra"].masks) == 1
    # Names that contradict their folders.
    doubtful = {scan.name: scan.reason for scan in left_out if "doubtful" in scan.reason}
    assert "sub-014" in doubtful["sub-039_ses-20160903_acq-multislab"]
    assert "artery" in doubtful["sub-018_ses-20210315_acq-multislab"]
    for scan in scans:
        session = scan.image.parents[1]
        for mask in scan.masks:
            assert mask.parent.name == "Nifti Aneurysm Only"
            assert mask.parents[2].name == session.name and scan.patient in str(mask)


def test_a_control_with_a_mask_and_a_scan_of_no_group(tmp_path):
    for subject in ("sub-1", "sub-2"):
        save(tmp_path / subject / "ses-1" / "anat" / f"{subject}_ses-1_angio.nii", picture(), RAS)
    folder = tmp_path / "derivatives" / "manual_masks" / "sub-1" / "ses-1" / "anat"
    save(folder / "sub-1_ses-1_desc-Lesion_1_mask.nii", ball(), RAS)
    (tmp_path / "participants.tsv").write_text(
        "participant_id\texam_date\tgroup\r\nsub-1\t1\tcontrol\r\n\r\n"
    )
    scans, left_out = listed(tmp_path, "ds003949")
    assert not scans and reasons(left_out) == {"contradiction": 1, "unknown group": 1}
    for text in ("participant_id,exam_date,group\n", ""):
        (tmp_path / "participants.tsv").write_text(text)
        with pytest.raises(ArtifactError, match=r"participants\.tsv"):
            listed(tmp_path, "ds003949")
    (tmp_path / "participants.tsv").unlink()
    with pytest.raises(ArtifactError, match=r"participants\.tsv is missing"):
        listed(tmp_path, "ds003949")


def test_adam(tmp_path):
    for name in ("10001", "10074B", "10074F", "10080"):
        save(tmp_path / name / "orig" / "TOF.nii.gz", picture(), RAS)
        save(tmp_path / name / "pre" / "TOF.nii.gz", picture(), RAS)
    for name in ("10001", "10074B"):
        save(tmp_path / name / "aneurysms.nii.gz", ball(), RAS)
    (tmp_path / "10001" / "location.txt").write_text("8, 9, 5, 2.5\n")
    (tmp_path / "10074F" / "location.txt").write_text("8, 9, 5, 2.5\n1, 2, 3, 1.25\n\n")
    scans, left_out = listed(tmp_path, "adam")
    one, before, after = scans
    assert [scan.patient for scan in scans] == ["10001", "10074", "10074"]
    assert len(one.masks) == 1 and not one.points and one.treated == 2 and one.present is None
    assert not after.masks and after.points == ((8, 9, 5, 2.5), (1, 2, 3, 1.25))
    assert before.image == tmp_path / "10074B" / "orig" / "TOF.nii.gz"
    assert [scan.name for scan in left_out] == ["10080"]


def test_a_damaged_location_is_a_problem_of_its_scan_alone(tmp_path):
    for name in ("1", "2"):
        save(tmp_path / name / "orig" / "TOF.nii", picture(), RAS)
    (tmp_path / "1" / "location.txt").write_text("8, 9\n")
    (tmp_path / "2" / "location.txt").write_text("8, 9, 5, 2.5\n")
    (one, two), _ = listed(tmp_path, "adam")
    assert "location.txt is not lines of" in one.problem and not two.problem


def pair(root: Path, **tables: str) -> tuple[dict[str, Scan], list[LeftOut]]:
    for name in "abcde":
        save(root / "images" / f"{name}.nii.gz", picture(), RAS)
    for name in "ab":
        save(root / "masks" / f"{name}.nii", ball(), RAS)
    for name, text in tables.items():
        (root / f"{name}.csv").write_text(text)
    scans, left_out = listed(root, "pairs")
    return {scan.name: scan for scan in scans}, left_out


def test_pairs_without_tables(tmp_path):
    scans, left_out = pair(tmp_path)
    assert {scan.name: scan.present for scan in scans.values()} == {"a": None, "b": None}
    assert scans["a"].masks[0].name == "a.nii" and scans["a"].patient == "a"
    assert [scan.name for scan in left_out] == ["c", "d", "e"]


def test_pairs_with_tables(tmp_path):
    scans, left_out = pair(
        tmp_path,
        scans="image,patient,present,age,sex\n"
        "a.nii.gz,p1,1,57,F\nc,p1,0,,male\nd,p2,,,\ngone,p3,0,,\n",
        points="image,i,j,k,radius_mm,who\ne,1,2,3.5,,me\ne,4,5,6,2.5,me\n",
    )
    assert {name: scan.present for name, scan in scans.items()} == {
        "a": True, "b": None, "c": False, "e": True, "gone": False,
    }  # fmt: skip
    assert scans["a"].patient == scans["c"].patient == "p1"
    assert (scans["a"].age, scans["a"].sex, scans["c"].sex) == ("57", "Female", "Male")
    assert scans["e"].points == ((1, 2, 3.5, None), (4, 5, 6, 2.5))
    assert [scan.name for scan in left_out] == ["d"]
    assert not scans["gone"].image.exists()
    assert not any(scan.is_pseudonym for scan in scans.values())


@pytest.mark.parametrize(
    "tables, where",
    [
        ({"scans": "image,present\na,2\n"}, r"scans.csv, line 2: present is '2'"),
        ({"scans": "image,present\na,1\na,0\n"}, "scans.csv, line 3 names an image again"),
        ({"scans": "picture,present\na,1\n"}, "scans.csv, line 1 has no column 'image'"),
        ({"scans": "image,age\na,old\n"}, "scans.csv, line 2: age"),
        ({"points": "image,i,j,k\na,1,x,3\n"}, "points.csv, line 2: 'x' is no number"),
        ({"points": "image,i,j,k\na,1,nan,3\n"}, "points.csv, line 2: 'nan' is no number"),
        ({"points": "image;i;j;k\na;1;2;3\n"}, "separated by semicolons"),
    ],
)
def test_tables_with_faults(tables, where, tmp_path):
    with pytest.raises(ArtifactError, match=where):
        pair(tmp_path, **tables)


def test_two_masks_of_one_image(tmp_path):
    save(tmp_path / "masks" / "a.nii.gz", ball(), RAS)
    scans, _ = pair(tmp_path)
    assert "two masks of a" in scans["a"].problem and not scans["b"].problem


def test_names_are_no_patterns(tmp_path):
    save(tmp_path / "images" / "[ab]*.nii", picture(), RAS)
    save(tmp_path / "masks" / "[ab]*.nii", ball(), RAS)
    scans, _ = pair(tmp_path)
    assert [mask.name for mask in scans["[ab]*"].masks] == ["[ab]*.nii"]


def test_images_without_annotation(tmp_path):
    pair(tmp_path)
    save(tmp_path / "deep" / "er" / "a.nii", picture(), RAS)
    read = READERS["images"]
    assert [scan.name for scan in read(tmp_path / "images")] == list("abcde")
    [scan] = read(tmp_path / "deep")
    assert scan.name == "er/a" and not scan.annotated
    task = Job(scan, "set", "MRA", tmp_path / "out")
    record = imported(task)
    write_tables(tmp_path / "out", {task.uid: record}, [], [])
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"series", "imported_scans.csv"} < made and "train.csv" not in made
    [alone] = read(tmp_path / "images" / "a.nii.gz")
    assert alone.name == "a"


def test_a_folder_of_no_layout(tmp_path):
    for root in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=r"layouts|no folder"):
            layout_of(root)
