"""What the README and docs/ say to type exists, and does what they say."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT, help_of

README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
PAGES = {
    path: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def code_lines(text: str) -> list[str]:
    """Return the lines of all code blocks, continued lines joined, and all code in running text."""
    blocks = "".join(block for _, block in FENCE.findall(text)).replace("\\\n", " ").splitlines()
    spans = re.findall(r"`([^`]+)`", FENCE.sub("", text))
    return blocks + [" ".join(span.split()) for span in spans]


def commands(line: str) -> list[str]:
    """Return the scripts that a line of shell starts, each with its arguments."""
    line = re.sub(r"\$\([^()]*\)", "FOLDERS", line.split(" #")[0])
    return re.findall(r"(?:python|torchrun\b[^;&|\"]*?) ([\w/]+\.py[^;&|\")]*)", line)


LINES = [line for text in PAGES.values() for line in code_lines(text)]
COMMANDS = sorted({found.strip() for line in LINES for found in commands(line)})


def flags_of(script: str, *subcommand: str) -> set[str]:
    return set(re.findall(r"--[\w-]+", help_of(script, *subcommand)))


def test_commands_are_found():
    assert commands("torchrun --nnodes 2 train_stage1.py --batch-size 32 # all")[0].split() == [
        "train_stage1.py",
        "--batch-size",
        "32",
    ]
    assert commands('sbatch --wrap "python a.py --b"; python c/d.py') == ["a.py --b", "c/d.py"]
    assert commands("python a.py $(ls b | head -2) --out c && echo") == ["a.py FOLDERS --out c "]
    assert len(COMMANDS) > 40


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_exists_and_knows_its_flags(command):
    script, *words = command.split()
    assert (ROOT / script).exists()
    subcommand = words[:1] if script == "tools/benchmark.py" else []
    given = {word for word in words if word.startswith("--")}
    assert given <= flags_of(script, *subcommand)


def flag_tables() -> set[tuple[str, str]]:
    rows = re.findall(r"^\| (`--.*?) \| (.*?) \| .* \|$", "\n".join(PAGES.values()), flags=re.M)
    pairs = set()
    for flags, scripts in rows:
        named = re.findall(r"[\w/]+\.py", scripts) or ["train_stage1.py", "eval_stage2.py"]
        for script in named:
            pairs.update((script, flag) for flag in re.findall(r"--[\w-]+", flags))
    return pairs


@pytest.mark.parametrize(("script", "flag"), sorted(flag_tables()))
def test_each_flag_of_the_settings_tables_exists(script, flag):
    assert flag in flags_of(script)


def test_the_stages_table_names_all_eight_in_order():
    named = re.findall(r"^\| (\d) \| `python (\w+)\.py`", README, flags=re.M)
    assert [int(number) for number, _ in named] == list(range(1, 9))
    for number, script in named:
        assert help_of(f"{script}.py").count(f"Stage {number} of 8") == 1


def test_the_environment_is_activated_before_the_first_script():
    lines = [line for line in code_lines(README) if not line.startswith("make ")]
    first = next(i for i, line in enumerate(lines) if commands(line))
    assert ". .venv/bin/activate" in lines[:first]
    assert "-m venv .venv" in MAKEFILE


def test_commands_on_the_demo_name_what_make_demo_makes():
    on_demo = [line for line in LINES if "demo/" in line and commands(line)]
    assert on_demo
    makes = re.search(r"^DEMO \?= (\w+)$", MAKEFILE, flags=re.M)[1]
    encoder = re.search(r"^OF_DEMO = .* ENCODER=(\w+)", MAKEFILE, flags=re.M)[1]
    for line in on_demo:
        assert set(re.findall(r"(\w+)/(?:data|model)\b", line)) <= {makes}
        assert re.findall(r"--encoder (\S+)", line) in ([], [encoder])
        assert ("--model-dir" in line) == ("--encoder" in line)


def test_each_make_target_and_variable_exists():
    made = [line.split() for line in LINES if line.startswith("make ")]
    assert len(made) > 5
    for words in made:
        assert re.search(rf"^{words[1]}:", MAKEFILE, flags=re.M), words
        for variable in re.findall(r"\b([A-Z]\w*)=", " ".join(words)):
            assert re.search(rf"^{variable} \?=", MAKEFILE, flags=re.M), words


def heading_ids(text: str) -> set[str]:
    """Return the anchors that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), flags=re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_link_leads_to_a_file_and_a_heading(page: Path):
    for link in LINK.findall(PAGES[page]):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in heading_ids(target.read_text()), link


def test_the_readme_names_every_page_of_docs_and_every_room():
    for path in PAGES:
        assert path.name == "README.md" or f"docs/{path.name}" in README
    for room in (path.parent.name for path in (ROOT / "src").glob("*/__init__.py")):
        assert re.search(rf"^  {room}/ ", README, flags=re.M), room


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_have_100_columns_except_in_tables_and_links(page: Path):
    for line in PAGES[page].splitlines():
        may_be_longer = line.startswith(("|", "![")) or "https://" in line
        assert may_be_longer or len(line) <= 100, line
