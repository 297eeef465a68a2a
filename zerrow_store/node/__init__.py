"""The node store: descriptors and books of one machine's objects."""
