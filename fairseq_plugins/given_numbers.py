"""Numbers of the command line that no run can mean, told before anything is made: fairseq takes them all, and ends in a traceback, or
trains without the loss whose weight is no number."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from moleblend_fs.errors import UserError
from moleblend_fs.shared_options import MOST_SEED

LEAST: dict[str, dict[str, int]] = {
    "common": {"log_interval": 1, "seed": 0},
    "dataset": {
        **dict.fromkeys(("batch_size", "batch_size_valid", "max_tokens", "max_tokens_valid", "validate_interval"), 1),
        **dict.fromkeys(("num_workers", "data_buffer_size", "validate_interval_updates", "validate_after_updates", "curriculum"), 0),
        "max_valid_steps": 1,
    },
    "optimization": {"update_freq": 1, "lr": 0, "stop_time_hours": 0, "max_epoch": 0, "max_update": 0},
    "lr_scheduler": {"warmup_updates": 0},
    "checkpoint": {"save_interval": 1, "save_interval_updates": 0},
    "task": {"max_pairs": 0, "pool_batches": 0},
}
"""Section of fairseq's configuration -> option -> the least that it may be, itself or each of a list."""


def check_numbers(cfg: DictConfig) -> None:
    """UserError names an option whose number is not finite, or below the least that means anything."""
    sections = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(sections, dict)
    for section, content in sections.items():
        if not isinstance(content, dict):
            continue
        for name, value in content.items():
            least = LEAST.get(str(section), {}).get(str(name), -math.inf)
            for number in numbers_of(value):
                if not math.isfinite(number):
                    raise UserError(f"{flag(name)} must be a finite number, got {number}")
                if number < least:
                    raise UserError(f"{flag(name)} must be at least {least}, got {number}")
    if cfg.common.seed > MOST_SEED:
        raise UserError(f"--seed must be at most {MOST_SEED}, got {cfg.common.seed}")


def flag(name: Any) -> str:
    """An option as it is given."""
    return f"--{str(name).replace('_', '-')}"


def numbers_of(value: Any) -> Iterator[float]:
    """The numbers that an option has."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for each in value:
            yield from numbers_of(each)
