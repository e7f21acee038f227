"""Words that stand for classes in tables."""

TRUE, FALSE = frozenset(("true", "yes", "t", "y")), frozenset(("false", "no", "f", "n"))
"""Texts, in lower case, of classes 1 and 0."""
