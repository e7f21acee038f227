"""What a process that others are forked from has done for all of them, imported there as the last: it has read what runs are told most,
and garbage is no longer looked for among what it has imported, which would also copy all of it into each process."""

import gc
from importlib.util import find_spec

from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from tests.support import configurations

PRETRAIN = ("--task", "moleblend", "--criterion", "blend_then_predict")
FINETUNE = ("--task", "moleblend_finetune", "--criterion", "property_prediction")
ADAM = ("--optimizer", "adam", "--lr-scheduler")
KINDS = [
    *((*PRETRAIN, *ADAM, "fixed"), (*FINETUNE, *ADAM, "fixed"), (*FINETUNE, *ADAM, "cosine", "--max-update", "9")),
    *([(*PRETRAIN, "--optimizer", "deepspeed", "--zero-stage", "2", "--lr-scheduler", "fixed")] if find_spec("deepspeed") else []),
]
"""Of training commands."""

configurations.hasten()
for words in KINDS:
    parser = options.get_training_parser()
    convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, ["STORE", "--arch", "moleblend_tiny", *words]))
gc.freeze()
