"""Write the table of encoders of docs/encoders.md: what each is, and whether it works at 448.

    python tools/experiments/list_encoders.py

Each is built and run on torch's meta device: no weights, no network, a second each.

Reads   docs/encoders.md    the names in the first column of its table

Writes  docs/encoders.md    its table, computed
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import timm
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.networks.encoder import plan_encoder
from src.script import UserError, run_script

PAGE = Path(__file__).resolve().parents[2] / "docs" / "encoders.md"
CROP_SIZE = 448  # pixels
HEADER = (
    "| encoder | parameters | features | strides | crop size | licence of its weights |",
    "|---|---|---|---|---|---|",
)


@dataclass
class Config:
    page: Path = PAGE  # whose table to write


def main(config: Config) -> None:
    lines = config.page.read_text().splitlines()
    is_row = [line.startswith("| `") for line in lines]
    rows = [row_of(name) for name in names_of(config.page)]
    first, last = is_row.index(True), len(lines) - is_row[::-1].index(True)
    lines[first - len(HEADER) : last] = [*HEADER, *rows]
    config.page.write_text("\n".join(lines) + "\n")


def names_of(page: Path) -> list[str]:
    """Return the encoders of the page's table."""
    rows = [line for line in page.read_text().splitlines() if line.startswith("| `")]
    return [row.split("`")[1] for row in rows]


def row_of(name: str) -> str:
    """Return the table's row of an encoder."""
    options, features, strides, size = {}, "–", "–", "any"
    try:
        plan = plan_encoder(name, CROP_SIZE)
    except UserError as error:
        size = f"not {CROP_SIZE}; {str(error).rpartition('such as ')[2]}"
    else:
        options, features, strides = plan.options, plan.features, ", ".join(map(str, plan.strides))
        size = "one" if options else "any"
    with torch.device("meta"):
        encoder = timm.create_model(name, num_classes=0, **options)
    millions = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
    weights = encoder.pretrained_cfg
    licence = "no weights" if weights["tag"] == "untrained" else weights["license"]
    cells = (f"`{name}`", f"{millions:.0f} M", str(features), strides, size, licence)
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    run_script(main, Config, __doc__)
