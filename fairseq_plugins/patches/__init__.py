"""What is replaced or relied on of fairseq's inner workings, and of torch's where only training needs it: one file for each.

`PINS` in each file names that code, with a digest of the source that the file was written for: where another version moves it, a test
(`tests/patches`) names the file to look at. Nothing outside of folders called `patches` uses a private name of fairseq, DeepSpeed or torch.
"""
