"""What rooms that know no fairseq use of torch's inner workings: one file for each, as in `fairseq_plugins/patches`.

`PINS` names that code, with a digest of its source, or, where it is compiled, with the test that holds what is relied on.
"""
