"""What the documentation says is compared with the code."""
