"""What the `zerrow` command asks of a Ray cluster; it is no process of Ray's."""
