"""The only room that touches checkpoint files: reading, writing, moments, published weights."""
