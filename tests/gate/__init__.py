"""The gate against regressions: counts of a handful of operations, compared exactly."""
