"""`docs/glossary.md` names files that are there, and each term once."""

import re

from tests.helpers.pages import DOCS, ROOT, rows, spans

_ELSEWHERE = ("integrations/", "docs/", "kmod/")


def test_each_term_stands_in_a_file_that_is_there() -> None:
    missing = []
    for term, _, where, *_ in rows(DOCS / "glossary.md", "term"):
        (name,) = spans(where)
        path = (ROOT if name.startswith(_ELSEWHERE) else ROOT / "zerrow_store") / name
        if not path.is_file():
            missing.append(f"{term}: there is no {name}")
            continue
        text = f"{name} {path.read_text()}".lower().replace("_", " ")
        words = re.findall(r"[\w']+", re.sub(r"\(.*?\)", "", term.lower()))
        # Its last letter may be another one there: "proxies", "spilled".
        missing += [f"{term}: not in {name}" for word in words if word[:-1] not in text]
    assert missing == []


def test_one_word_is_one_thing() -> None:
    terms = [term for row in rows(DOCS / "glossary.md", "term") for term in row[0].split(", ")]
    assert sorted(terms) == sorted(set(terms))
    assert {"pin", "reference", "hold", "arena", "put queue", "fork guard", "proxy"} <= set(terms)
