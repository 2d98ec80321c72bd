"""What the documents name as proof is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
TESTS = {
    node.name
    for path in (ROOT / "tests").rglob("test_*.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.FunctionDef)
}

every_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


@every_document
def test_a_test_that_a_document_names_exists(document: Path) -> None:
    named = set(re.findall(r"\btest_\w+\b(?!\.py)", document.read_text(encoding="utf-8")))
    assert named <= TESTS


@every_document
def test_a_file_of_ours_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:tests|bench|migrations|docs)/[\w./-]+\.\w+)`", text))
    assert {name for name in named if not (ROOT / name).exists()} == set()


@every_document
def test_a_link_between_documents_leads_somewhere(document: Path) -> None:
    targets = re.findall(
        r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document.read_text(encoding="utf-8")
    )
    assert [target for target in targets if not (document.parent / target).exists()] == []
