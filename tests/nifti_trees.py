"""A data set of NIfTI angiographies as OpenNeuro ds003949 is laid out, for tests."""

from pathlib import Path

import numpy as np

from tests.nifti_files import affine, ball, save

SIDE = (40, 44, 24)
CODES = ("RAS", "LAS", "LPS", "PIR", "SRA", "LIP")
BRIGHT = 3000  # of an aneurysm; all around it is below 1500


def scan(root: Path, subject: str, date: str, seed: int, lesions: int, **how) -> list[Path]:
    """Write a scan with bright balls, and a mask of each ball; return their paths.

    how: shape, dtype, code, turn
    """
    shape, dtype = how.get("shape", SIDE), how.get("dtype", np.int16)
    to_ras = affine(how.get("code", "RAS"), (0.5, 0.55, 0.7), how.get("turn", (0, 0, 0)))
    generator = np.random.default_rng(seed)
    image = generator.uniform(100, 1400, shape)
    name = f"{subject}_ses-{date}"
    folder = Path(subject) / f"ses-{date}" / "anat"
    paths = [root / folder / f"{name}_angio.nii.gz"]
    for number in range(1, lesions + 1):
        mask = ball(shape[:3], [side * number // 3 for side in shape[:3]], radius=2.5)
        image[mask > 0] = BRIGHT
        path = f"{name}_desc-Lesion_{number}_mask.nii.gz"
        paths.append(save(root / "derivatives/manual_masks" / folder / path, mask, to_ras))
    save(paths[0], image.astype(dtype), to_ras)
    return paths


def table(root: Path, groups: dict[tuple[str, str], str]) -> None:
    rows = ["participant_id\texam_date\tgroup"]
    rows += [f"{subject}\t{date}\t{group}" for (subject, date), group in groups.items()]
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")
    (root / "derivatives" / "manual_masks").mkdir(parents=True, exist_ok=True)


def bids(root: Path, scans: int = 40) -> Path:
    """Write scans of patients and controls, some twice, in any orientation; the last is 4D."""
    groups = {}
    for number in range(scans):
        subject, date = f"sub-{number // 5 * 4 + min(number % 5, 3):03d}", f"2011010{number % 5}"
        lesions = (1, 2, 0, 1, 1)[number % 5]  # the fourth of five is of one patient with the fifth
        how = {
            "code": CODES[number % len(CODES)],
            "dtype": (np.int16, np.float32)[number % 2],
            "turn": (0.2, -0.1, 0.05) if number % 3 else (0, 0, 0),
        }
        if number == scans - 1:
            how["shape"] = (*SIDE, 2)
            lesions = 0
        groups[subject, date] = "patient" if lesions or number == scans - 1 else "control"
        paths = scan(root, subject, date, number, lesions, **how)
        if number == scans - 1:
            mask = ball(SIDE, (9, 9, 9))
            name = paths[0].name.replace("_angio", "_desc-Lesion_1_mask")
            where = root / "derivatives/manual_masks" / paths[0].parent.relative_to(root)
            save(where / name, mask, affine())
    table(root, groups)
    return root
