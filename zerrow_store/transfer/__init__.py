"""Objects between machines.

A machine's store has one *transfer agent*, a process of its own (`agent`), which serves the store's
objects to other machines (`sender`) and lands theirs (`receiver`). Whoever wants an object of
another machine asks the agent of its own (`local`).
"""
