"""Where fairseq looks for plugins: `--user-dir moleblend_fs` imports the modules of this folder, and only then."""
