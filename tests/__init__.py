"""A regular package, since others (molsets) install a `tests` of their own, which would come before a folder without this file."""
