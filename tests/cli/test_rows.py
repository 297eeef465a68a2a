"""Which rows are wanted, and how they are printed."""

import json

import pytest
import yaml

from zerrow_store.cli.output import print_record, print_rows
from zerrow_store.cli.rows import Wanted, columns

KNOWN = columns("name bytes seconds held node secret", sizes="bytes", detail="secret")
ROWS = [
    {"name": "b", "bytes": 3 << 20, "seconds": 0.5, "held": True, "node": "n" * 56, "secret": 1},
    {"name": "a", "bytes": 1 << 30, "seconds": 1.5, "held": False, "node": "m" * 56, "secret": 2},
    {"name": "c", "bytes": 10, "seconds": 0.0, "held": True, "node": "n" * 56, "secret": 3},
]


def names(*conditions, **wanted):
    return "".join(row["name"] for row in Wanted(conditions, **wanted).of(ROWS, KNOWN))


def test_without_wishes_all_rows_are_there_in_their_order():
    assert names() == "bac"


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("name=a", "a"),
        ("name != a", "bc"),
        ("bytes>1MiB", "ba"),
        ("bytes>=3MiB", "ba"),
        ("bytes<3 MiB", "c"),
        ("bytes<=3145728", "bc"),
        ("seconds=0.5", "b"),
        ("held=yes", "bc"),
        ("held=FALSE", "a"),
        ("name=", ""),
    ],
)
def test_conditions(condition, expected):
    assert names(condition) == expected


def test_all_conditions_hold_then_rows_are_sorted_then_cut():
    assert names("held=yes", "bytes>10") == "b"
    assert names(sort_by="bytes") == "abc"
    assert names(sort_by="name") == "abc"
    assert names("held=yes", sort_by="name", limit=1) == "b"
    assert names(limit=0) == ""


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("nonsense", "no condition"),
        ("colour=red", "no column 'colour'; there are name, bytes"),
        ("bytes>lots", "not a size"),
        ("held=perhaps", "yes or no"),
        ("seconds>soon", "soon"),
    ],
)
def test_what_is_no_condition_is_said(condition, reason):
    with pytest.raises(ValueError, match=reason):
        names(condition)
    with pytest.raises(ValueError, match="no column"):
        names(sort_by="colour")


def test_columns_that_are_looked_at_are_needed():
    assert not Wanted(("name=a",), sort_by="bytes").needs("secret", "node")
    assert Wanted(("secret=1",)).needs("secret")
    assert Wanted(sort_by="secret").needs("secret")
    assert Wanted(detail=True).needs("secret")


def test_formats_have_the_same_rows(capsys):
    print_rows(ROWS, KNOWN, "json", detail=False)
    assert json.loads(capsys.readouterr().out) == ROWS
    print_rows(ROWS, KNOWN, "yaml", detail=False)
    assert yaml.safe_load(capsys.readouterr().out) == ROWS
    print_record(ROWS[0], sizes=["bytes"], form="yaml")
    assert yaml.safe_load(capsys.readouterr().out) == ROWS[0]
    for form in ("default", "table"):
        print_rows(ROWS, KNOWN, form, detail=False)
        assert capsys.readouterr().out.splitlines() == [
            "NAME  BYTES  SECONDS  HELD  NODE",
            "b     3 MiB  0.5      yes   nnnnnnnnnnnn",
            "a     1 GiB  1.5      no    mmmmmmmmmmmm",
            "c     10 B   0        yes   nnnnnnnnnnnn",
        ]
    print_rows(ROWS, KNOWN, "table", detail=True)
    assert capsys.readouterr().out.splitlines()[0].endswith("NODE          SECRET")


def test_a_long_line_is_not_broken_and_markup_is_text(capsys):
    row = {"name": "[red]" + "x" * 3000}
    print_rows([row], columns("name"), "table", detail=False)
    assert capsys.readouterr().out.splitlines() == ["NAME", row["name"]]


def test_nested_fields_have_both_names(capsys):
    record = {"pid": 7, "evicted": {"spill": {"bytes": 2048, "seconds": 0.25}}}
    print_record(record, sizes=[], form="default")
    assert capsys.readouterr().out.splitlines() == [
        "pid:                   7",
        "evicted spill bytes:   2 KiB",
        "evicted spill seconds: 0.25",
    ]
