"""How the published embedding tables are laid out: defined here for embeddings, references, kernels and benchmarks.

Every feature has 512 rows in one table, after rows for padding; a value's row is the feature's first row plus the value.
"""

TABLE_ROWS = 512
"""Rows per feature."""

SPD_FIRST_ROW = 1
"""Row of distance 0 in the SPD table; row 0 is padding."""
UNREACHABLE_ROW = TABLE_ROWS - 1
"""Row of the SPD table for pairs with no path."""

DEGREE_FIRST_ROW = 1
"""Row of degree 0; row 0 is padding."""
ATOM_FIRST_ROW = 2
"""Row of the first atom feature's value 0."""
BOND_FIRST_ROW = 3
"""Row of the first bond feature's value 0."""

ELEMENT_ROWS = 3 * TABLE_ROWS
"""Rows of the distance encoding's mul and shift."""
FIRST_ELEMENT_ROW, SECOND_ELEMENT_ROW = 3, 3 + TABLE_ROWS
"""Rows of element 0 as a pair's first and as its second atom."""

HIDDEN = 255
"""Value of the atomic-number feature that stands for a hidden atom, wherever elements are looked up: no feature has it, it fits a byte."""
