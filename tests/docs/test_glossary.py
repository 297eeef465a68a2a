"""`docs/glossary.md` names files that are there, and each term once."""

from tests.docs.pages import DOCS, ROOT, rows, spans

_ELSEWHERE = ("integrations/", "docs/", "kmod/")


def test_each_term_stands_in_a_file_that_is_there() -> None:
    missing = []
    for term, _, where, *_ in rows(DOCS / "glossary.md", "term"):
        (path,) = spans(where)
        folder = ROOT if path.startswith(_ELSEWHERE) else ROOT / "zerrow_store"
        if not (folder / path).is_file():
            missing.append(f"{term}: {path}")
    assert missing == []


def test_one_word_is_one_thing() -> None:
    terms = [term for row in rows(DOCS / "glossary.md", "term") for term in row[0].split(", ")]
    assert sorted(terms) == sorted(set(terms))
    assert {"pin", "reference", "hold", "arena", "put queue", "fork guard", "proxy"} <= set(terms)
