"""The `zerrow` command's view of a Ray cluster. The command is not a process of Ray."""
