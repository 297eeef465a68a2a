"""What runs in a process that uses a node store."""
