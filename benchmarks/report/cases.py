"""All cases, in the report's order."""

from benchmarks.report import (
    break_even,
    eviction,
    foreground_swaps,
    no_help,
    peers,
    resharing,
    sharing,
    single_dag,
    throughput,
    whole_jobs,
    zero_copy,
)

CASES = (
    zero_copy.CASE,
    sharing.CASE,
    resharing.CASE,
    eviction.CASE,
    single_dag.CASE,
    foreground_swaps.CASE,
    throughput.CASE,
    peers.CASE,
    no_help.CASE,
    break_even.BYTES,
    break_even.CONSUMING,
    whole_jobs.CASE,
)
