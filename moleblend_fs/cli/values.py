"""Values of options, checked while the command line is read."""

import argparse


def seed(text: str) -> int:
    """A whole number from 0 on, less than 2**63."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"a seed is a whole number from 0 on, got {text!r}")
    return value
