"""Search for settings: `moleblend tune`, whose trials are members as `moleblend finetune` trains them."""
