"""The writable directories of a sandbox, as seen from inside."""

HOME = "/home/sandbox"
WRITABLE = ("/tmp", "/dev/shm", HOME)
