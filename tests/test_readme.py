"""What the README and docs/ say to type exists, and does what they say."""

import re

import pytest

from tests.conftest import ROOT, help_of

README = (ROOT / "README.md").read_text()
PAGES = "\n".join([README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))])
COMMANDS = sorted(set(re.findall(r"python ([\w/]+\.py[^`\n#]*)", PAGES)))
LAUNCHED = sorted(set(re.findall(r"torchrun [^`\n#]*?(\w+\.py[^`\n#]*)", PAGES)))


@pytest.mark.parametrize("command", COMMANDS + LAUNCHED)
def test_each_command_exists_and_knows_its_flags(command):
    script, *words = command.split()
    assert (ROOT / script).exists()
    shown = help_of(script, *words[: bool(words) and not words[0].startswith("--")])
    assert [
        word for word in words if word.startswith("--") and word != "--help" and word not in shown
    ] == []


def settings_table():
    rows = re.findall(r"^\| (`--.*?) \| (.*?) \| .* \|$", README, flags=re.M)
    for flags, scripts in rows:
        named = re.findall(r"[\w/]+\.py", scripts) or [
            "train_stage1.py",
            "train_stage2.py",
            "eval_stage2.py",
        ]
        for script in named:
            yield from ((script, flag) for flag in re.findall(r"--[\w-]+", flags))


@pytest.mark.parametrize(("script", "flag"), sorted(set(settings_table())))
def test_each_flag_of_the_settings_table_exists(script, flag):
    assert flag in help_of(script)


def test_the_stages_table_names_all_eight_in_order():
    named = re.findall(r"^\| (\d) \| `python (\w+)\.py`", README, flags=re.M)
    assert [int(number) for number, _ in named] == list(range(1, 9))
    for number, script in named:
        assert help_of(f"{script}.py").count(f"Stage {number} of 8") == 1
        assert f"\npython {script}.py\n" in README


def test_each_make_target_exists():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"`make (\w+)`|^make (\w+)", README, flags=re.M))
    assert targets
    for target in targets:
        assert re.search(rf"^{''.join(target)}:", makefile, flags=re.M), target


def test_files_that_the_readme_shows_are_there():
    for name in re.findall(r"\]\(([\w/.-]+)\)", README):
        assert (ROOT / name).exists(), name
