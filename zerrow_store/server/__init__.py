"""What runs in the node store's process, and in its supervisors."""
