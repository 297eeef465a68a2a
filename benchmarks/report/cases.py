"""All cases, in the report's order."""

from benchmarks.report import (
    eviction,
    peers,
    resharing,
    sharing,
    single_dag,
    throughput,
    zero_copy,
)

CASES = (
    zero_copy.CASE,
    sharing.CASE,
    resharing.CASE,
    eviction.CASE,
    single_dag.CASE,
    throughput.CASE,
    peers.CASE,
)
