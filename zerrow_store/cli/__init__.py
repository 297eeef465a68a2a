"""The `zerrow` command."""
