"""Folders of `moleblend finetune` and `moleblend tune`, told from others, for commands that are given the whole and read a part."""

from pathlib import Path

RUN, SEARCH = "model.json", "study.journal"
"""Files that such folders have."""
STORE, MEMBER = "store", "members/NAME/checkpoint_best.pt"
"""Parts of a folder of `moleblend finetune`."""


def of_run(folder: Path, part: str = MEMBER) -> str:
    """What to give in place of a run's folder, to end a message with; "" for other folders.

    Args:
        part: of a folder of `moleblend finetune`, that is needed.
    """
    if (folder / RUN).is_file():
        return f"; it is a folder of `moleblend finetune`, of which {folder / part} is meant"
    if (folder / SEARCH).is_file():
        found = ", ".join(str(path.parent) for path in sorted(folder.glob(f"best-trial*/{RUN}"))) or "none yet"
        return f"; it is a folder of `moleblend tune`, whose model is another one in it: {found}"
    return ""
