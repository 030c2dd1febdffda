"""Training scripts one after the other in the same process, a rank that torchrun starts.

`ranks.py [[port, script, flag, ...], ...]` as JSON: a new Python would import torch for each.
"""

import json
import os
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(runs: list[list[str]]) -> None:
    from src.training import run_folder

    run_folder.draw_progress = lambda *_: None  # as in tests/conftest.py
    for number, (port, script, *flags) in enumerate(runs):
        if number:  # in torchrun's store they would find the addresses of the run before
            os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_PORT": port}
        sys.argv = [str(ROOT / f"{script}.py"), *flags]
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(json.loads(sys.argv[1]))
