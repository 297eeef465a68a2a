"""All cases, in the report's order."""

from benchmarks.report import resharing, sharing, zero_copy

CASES = (
    zero_copy.CASE,
    sharing.CASE,
    resharing.CASE,
)
