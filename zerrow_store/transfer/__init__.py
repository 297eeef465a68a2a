"""Objects between machines, with Arrow Flight."""
