"""Plain English: idioms that made earlier texts hard to read stay out of code, documents and configurations."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What is refused, and what to write.
IDIOMS = {
    r"want of": "lack of, or what is missing",
    r"anew": "again",
    r"so many": "a number",
    r"whoever": "the user, or who it is",
    r"(?:is|are|was|were|be|been|being) told(?! apart)": "is reported, or who gets the message",
    r"tells|telling": "says, reports, shows",
    r"(?:go|goes|went|going) on": "resumes, continues",
    r"where there (?:is|are|was)": "if there is",
    r"(?:lie|lies|lay|lying) (?:in|under|beside|there|at|over)": "is in",
    r"of which(?! ones)": "a new sentence",
    r"beside": "next to, besides",
    r"without a word": "without a message",
    r"(?:object|sentence|line|pair|header) a (?:line|start|rank|node|pair)": "one per line",
    r"a byte a pair|a machine in": "per pair, per machine",
}


def texts() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.yaml", "Makefile", "*.toml", ".ci/run"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    paths = [ROOT / line for line in listed.stdout.splitlines()]
    return [path for path in paths if path.is_file() and path != Path(__file__)]


def idioms_in(text: str) -> list[str]:
    """Each idiom with the words around it; line breaks and comment signs do not hide it."""
    text = re.sub(r"\"?\s*\n\s*(?:#\s*)?(?:f?\")?|\s+", " ", text)
    pattern = re.compile(rf"\b(?:{'|'.join(IDIOMS)})\b", re.IGNORECASE)
    return [text[max(0, hit.start() - 40) : hit.end() + 30] for hit in pattern.finditer(text)]


def folder(path: Path) -> str:
    return str(path.relative_to(ROOT)).partition("/")[0]


@pytest.mark.parametrize("name", sorted({folder(path) for path in texts()}))
def test_no_idioms(name: str) -> None:
    paths = [path for path in texts() if folder(path) == name]
    found = [f"{path.relative_to(ROOT)}: {idiom}" for path in paths for idiom in idioms_in(path.read_text())]
    assert not found, "\n".join(found)


def test_an_idiom_is_found_across_a_line_break() -> None:
    assert idioms_in("# It ends where there\n    # is nothing, for want\n# of memory") != []
    assert idioms_in("It resumes if there is a checkpoint.") == []
