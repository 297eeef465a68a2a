"""Whole jobs. Each module has `prepare(full)`, which makes the data and the answers, and
`run(side, full)`, which runs the job in the Ray that is there, and raises AssertionError if an
answer is wrong.
"""
