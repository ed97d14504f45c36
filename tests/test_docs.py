"""The pages in docs/ and the README: their links lead somewhere, and repeated statements agree."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
README, CHINESE = PROJECT / "README.md", PROJECT / "README.zh-CN.md"
PAGES = [README, CHINESE, PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub derives from the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_a_file_and_a_heading(page):
    for link in links(page):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_is_read_in_a_minute():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120 and len(text.split()) <= 900
    assert max(map(len, text.splitlines())) <= 120


def test_every_page_is_linked_from_the_readme():
    assert {page.relative_to(PROJECT).as_posix() for page in PAGES if page.parent == PROJECT / "docs"} <= set(
        links(README)
    )


def test_both_languages_say_the_same():
    def shared(page: Path) -> list[list[str]]:
        text = page.read_text(encoding="utf-8")
        own = {README.name, CHINESE.name}
        return [
            [link for link in links(page) if link not in own],
            re.findall(r"0\.\d{4}", text),
            re.findall(r"^```|^#+ |^\| ", text, flags=re.MULTILINE),
        ]

    assert shared(README) == shared(CHINESE)


def test_every_option_of_the_whole_job_is_explained():
    command = [sys.executable, str(PROJECT / "src" / "run_all.py"), "--help"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    section = (PROJECT / "docs" / "options.md").read_text(encoding="utf-8").partition("## Reads and writes")[0]
    options = set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", output, flags=re.MULTILINE))
    assert len(options) > 10
    assert {option for option in options if f"`{option}" not in section} == {"--help"}


def test_the_tests_that_verify_a_promise_exist():
    """In guarantees.md `test_x.py::test_name..` is the start of a test's name, `..part` a part of one in that file."""
    text = (PROJECT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)?(?:::)?(\.\.)?(\w+)?(?:\.\.)?`", text)
    file = ""
    for name, part, test in named:
        file = name or file
        if not name and not part:
            continue
        source = (PROJECT / "tests" / file).read_text(encoding="utf-8")
        assert not test or re.search(rf"^def {'test_.*' if part else ''}{test}", source, flags=re.MULTILINE), (
            file,
            test,
        )
