"""What the tests share, by concern: processes, stores, machines, data, and what is known of them.

What a test asserts about memory, descriptors and processes comes from /proc, never from the store.
Fixtures are in the ``conftest.py`` of the directories that use them.
"""
