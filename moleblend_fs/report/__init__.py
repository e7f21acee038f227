"""Self-contained HTML pages about stores and runs."""
