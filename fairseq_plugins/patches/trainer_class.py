"""Replaces the class `Trainer` in the module that runs training (fairseq 0.12 has no registry of trainers).

Ours derives from fairseq's and replaces methods of it; `PINS` names these, and those whose steps ours count on.
"""

import sys
from typing import Any

from fairseq.trainer import Trainer

from fairseq_plugins.options import optimizer_name
from fairseq_plugins.trainer import MoleBlendTrainer

PINS = {
    "fairseq.trainer.Trainer._aggregate_logging_outputs": "91a27bd4c5af",
    "fairseq.trainer.Trainer._all_gather_list_sync": "3c250e169d5a",
    "fairseq.trainer.Trainer._build_optimizer": "a318ae24f7b9",
    "fairseq.trainer.Trainer._check_grad_norms": "6cb03db30a19",
    "fairseq.trainer.Trainer._prepare_sample": "2e60877dc16d",
    "fairseq.trainer.Trainer._reduce_and_log_stats": "c92822f60154",
    "fairseq.trainer.Trainer._sync_stats": "4494ce1b3ae0",
    "fairseq.trainer.Trainer.__init__": "3d5a14960d60",
    "fairseq.trainer.Trainer.clip_grad_norm": "e31a26810bea",
    "fairseq.trainer.Trainer.consolidate_optimizer": "fbe3f3650825",
    "fairseq.trainer.Trainer.get_train_iterator": "b4d5aac2d9b9",
    "fairseq.trainer.Trainer.get_valid_iterator": "8125e89919d9",
    "fairseq.trainer.Trainer.load_checkpoint": "3e9ad6268adc",
    "fairseq.trainer.Trainer.save_checkpoint": "11135258d4b3",
    "fairseq.trainer.Trainer.state_dict": "4ac3fd04c5da",
    "fairseq.trainer.Trainer.train_step": "86e84fbe89bd",
    "fairseq.trainer.Trainer.valid_step": "7baa02d5bb45",
    "fairseq_cli.train.main": "7b5c19d75199",
    "fairseq_cli.train.train": "82aafe7dfcd8",
}


def install() -> None:
    """Let fairseq-train build our trainer; the name is looked up in whichever module runs `main`."""
    for name in ("fairseq_cli.train", "__main__", "__mp_main__"):
        module = sys.modules.get(name)
        if module is not None and getattr(module, "Trainer", None) is Trainer:
            module.Trainer = build_trainer  # type: ignore[attr-defined]


def build_trainer(cfg: Any, *args: Any) -> MoleBlendTrainer:
    """The trainer that the optimizer needs."""
    if optimizer_name(cfg) == "deepspeed":
        from fairseq_plugins.deepspeed_trainer import DeepSpeedTrainer

        return DeepSpeedTrainer(cfg, *args)
    return MoleBlendTrainer(cfg, *args)
