"""Where a sandbox can write, as seen from inside."""

HOME = "/home/sandbox"
WRITABLE = ("/tmp", "/dev/shm", HOME)
