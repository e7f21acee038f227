"""The `moleblend` command."""
