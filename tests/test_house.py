"""Rules of the house that neither ruff nor import-linter can check."""

import ast
import re
import subprocess
import sys

from tests.conftest import ROOT

SCRIPTS = sorted(ROOT.glob("*.py"))
SOURCES = sorted(ROOT.glob("src/**/*.py"))
TOOLS = sorted(ROOT.glob("tools/**/*.py"))
TESTS = sorted(ROOT.glob("tests/**/*.py"))
ARTIFACTS = [path for path in SOURCES if path.parent.name == "artifacts"]
PATH = re.compile(  # the names of files between the stages, without the rest of a path
    r"npy_s(equence|lice)|_dict|train_(meta|localizers|stage1_)|_folds|\.(pth|csv|pkl|npy|jsonl?)$"
)


def outside_artifacts(paths):
    """Return {path in the repository: syntax tree}."""
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text())
        for path in paths
        if path not in ARTIFACTS
    }


def opens_code(node):
    """Return whether a node uses torch.load or pickle."""
    if isinstance(node, ast.Import):
        return any(alias.name == "pickle" for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        imported = [f"{node.module}.{alias.name}" for alias in node.names]
        return node.module == "pickle" or "torch.load" in imported
    return isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load"


def spells_path(node):
    """Return whether a node is a text that names a file; docstrings and messages have spaces."""
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return is_text and " " not in node.value and PATH.search(node.value) is not None


def found(check, trees):
    """Return "file:line" of each node for which the check is true."""
    return [
        f"{name}:{node.lineno}"
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if check(node)
    ]


def test_artifacts_alone_opens_pickles_and_checkpoints():
    assert found(opens_code, outside_artifacts(SCRIPTS + SOURCES + TOOLS)) == []


def test_artifacts_alone_spells_paths():
    assert found(spells_path, outside_artifacts(SCRIPTS + SOURCES)) == []


def test_the_checks_find_what_they_look_for():
    trees = {path.name: ast.parse(path.read_text()) for path in ARTIFACTS}
    text = (ROOT / "src/artifacts/files.py").read_text()
    line = text.splitlines().index("import pickle") + 1
    assert found(opens_code, trees) == [f"files.py:{line}"]  # to write them
    ways = "import pickle", "from pickle import loads", "torch.load(a)", "from torch import load"
    for way in ways:
        assert found(opens_code, {"a": ast.parse(way)}) == ["a:1"]
    assert len(found(spells_path, trees)) > 20


def test_no_file_is_longer_than_300_lines():
    too_long = []
    for path in SCRIPTS + SOURCES + TOOLS + TESTS:
        length = len(path.read_text().splitlines())
        if length > 300:
            too_long.append(f"{path.relative_to(ROOT)} ({length})")
    assert not too_long, ", ".join(too_long)


def test_sampling_and_training_never_load_pydicom():
    """In one fresh process for all modules: if none of them loads it, each alone does not."""
    folders = [ROOT / "src" / name for name in ("sampling", "training")]
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in SOURCES
        if path.parent in folders
    ]
    assert not loaded_with(modules) & {"pydicom"}


def test_workers_that_read_dicom_load_neither_torch_nor_pandas():
    """These take longer to import than all that the workers need."""
    assert not loaded_with(["src.preprocess.series_job"]) & {"torch", "pandas"}


def loaded_with(modules: list[str]) -> set[str]:
    """Return what a fresh process has loaded once it has imported these."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())
