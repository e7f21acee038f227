"""Shows fairseq's JSON log lines on standard input in short: python examples/progress.py RUN_NAME"""

import json
import sys

SCORES = {"mae": "MAE", "rmse": "RMSE", "roc_auc": "ROC-AUC"}


def short(line: str) -> str | None:
    """'update 120   loss 2.345' of a training or validation line; None for any other line."""
    start = line.find("{")
    if start < 0 or ('"num_updates"' not in line and '"valid_num_updates"' not in line):
        return None
    try:
        entry = json.loads(line[start:])
    except ValueError:
        return None
    if "valid_loss" in entry:
        scores = [f"   {title} {entry['valid_' + name]}" for name, title in SCORES.items() if "valid_" + name in entry]
        return f"update {entry['valid_num_updates']:>6}   validation loss {entry['valid_loss']}{''.join(scores)}"
    if "loss" in entry and "num_updates" in entry:
        return f"update {entry['num_updates']:>6}   loss {entry['loss']}"
    return None


if __name__ == "__main__":
    for line in sys.stdin:
        if (text := short(line)) is not None:
            print(f"{sys.argv[1]:<22} {text}", flush=True)
