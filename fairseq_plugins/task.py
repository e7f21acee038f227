"""What the tasks of pretraining and finetuning share: the splits of a store as datasets, in batches by budget."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fairseq.data import iterators
from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import FairseqTask
from omegaconf import II, MISSING

from fairseq_plugins import splits
from fairseq_plugins.batch_plan import BatchPlan
from fairseq_plugins.dataset import StoreDataset
from fairseq_plugins.patches.epoch_iterator import epoch_iterator
from moleblend_fs.checkpoint.read import FinetunedFor
from moleblend_fs.data.batch import MoleculeBatch
from moleblend_fs.data.batching import BatchBudget
from moleblend_fs.data.mixture import open_stores
from moleblend_fs.data.sidecar import Sidecar
from moleblend_fs.data.trained_on import TrainedOn
from moleblend_fs.inference.checkpoint_fit import TOPICS, Purpose, Use, parse_allowed
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.moleblend import MoleBlend
from moleblend_fs.ops import dispatch


@dataclass
class StoreTaskConfig(FairseqDataclass):
    data: str = field(
        default=MISSING, metadata={"help": "store made by `moleblend preprocess`, or several joined by ':', whose molecules are mixed"}
    )
    max_pairs: int = field(default=0, metadata={"help": "most ordered atom pairs in a batch; 0 for no limit"})
    pool_batches: int = field(
        default=32, metadata={"help": "batches' worth of random molecules that are sorted by size together; 0 for plain random batches"}
    )
    ops: str = field(
        default="auto",
        metadata={
            "help": "implementation of the ops: auto (Triton kernels on GPUs that can run them), triton or reference (plain torch), "
            "or a list such as attention=reference,relation_bias=triton; the variable MOLEBLEND_OPS has precedence"
        },
    )
    allow_differences: str = field(
        default="",
        metadata={
            "help": "what may differ between this run and the checkpoint that it starts from or goes on from, separated by commas: "
            f"{', '.join(TOPICS)}; the message that refuses names what differs"
        },
    )
    split_file: str = field(
        default="", metadata={"help": "JSON file with splits to take in place of the store's own, as rows of the source: see docs/data.md"}
    )
    fold: str = field(default="", metadata={"help": "which fold of --split-file, where it has several"})
    train_subset: str = II("dataset.train_subset")
    valid_subset: str = II("dataset.valid_subset")
    disable_validation: bool = II("dataset.disable_validation")


class StoreTask(FairseqTask):
    """What both tasks share: splits as datasets, batches by budget, and the epoch that random draws depend on."""

    cfg: StoreTaskConfig
    finetuned: FinetunedFor | None = None

    def __init__(self, cfg: StoreTaskConfig):
        super().__init__(cfg)
        dispatch.configure(cfg.ops)
        self.allowed = parse_allowed(cfg.allow_differences)
        self.store = open_stores(cfg.data, cfg.split_file, cfg.fold)
        self.epoch = 1
        self.validated: dict[str, StoreDataset] = {}
        self.sidecars: dict[str, Sidecar] = {}
        splits.check(self.store, cfg.train_subset, None if cfg.disable_validation else cfg.valid_subset)

    @property
    def trained_on(self) -> TrainedOn:
        """What checkpoints say of the store and its splits."""
        return TrainedOn.of(self.store.manifest, train_subset=self.cfg.train_subset, valid_subset=self.cfg.valid_subset)

    def use(self, purpose: Purpose) -> Use:
        """What this run does with a checkpoint, to be compared with what that was trained on."""
        inputs = "" if self.finetuned is None else self.finetuned.inputs
        name = str(self.store.path)
        return Use(purpose=purpose, store=self.trained_on, name=name, inputs=inputs, run=self.finetuned, allowed=self.allowed)

    def model_config(self, cfg: Any) -> ModelConfig:
        """The model's configuration: its size from the command line, its heads from the task."""
        raise NotImplementedError

    def begin_model(self, model: MoleBlend) -> None:
        """Set what a new model begins with where that follows from data."""

    def label_columns(self) -> list[int]:
        """Columns of the store's labels that batches carry."""
        return []

    @property
    def pretraining(self) -> dict[str, Any] | None:
        """What is to be said of the objective; None in finetuning."""
        return None

    @property
    def group(self) -> int | None:
        """Molecules of a batch that are compared with each other (0: the default number); None where none are."""
        return None

    @property
    def conformers(self) -> int:
        """How many conformers of each molecule batches carry."""
        return 1

    def load_dataset(self, split: str, combine: bool = False, task_cfg: Any = None, **kwargs: Any) -> None:
        """Make the dataset of a split, or of several; UserError names the splits that there are."""
        self.datasets[split] = self.dataset_of(split)

    def has_sharded_data(self, split: str) -> bool:
        """No: fairseq would take stores joined by ":" for parts of a split, one for each epoch."""
        return False

    def dataset_of(self, split: str) -> StoreDataset:
        return StoreDataset(self.store, splits.indices(self.store, split), self.label_columns(), self.sidecars, self.conformers)

    def validation_dataset(self, split: str) -> StoreDataset:
        """A dataset of its own, also where the split is trained on: fairseq keeps one iterator for each."""
        if split not in self.validated:
            self.validated[split] = self.dataset_of(split)
        return self.validated[split]

    def batch_of(self, molecules: Sequence[int]) -> MoleculeBatch:
        """A batch of some molecules of the training split, given by their ids."""
        rows = np.asarray(self.store.source_row)
        dataset = self.datasets[self.cfg.train_subset]
        return dataset.collater(self.store.records(np.flatnonzero(np.isin(rows, molecules))))["batch"]

    def begin_epoch(self, epoch: int, model: Any) -> None:
        """Called before every epoch, also of a resumed run."""
        self.epoch = epoch

    def train_step(
        self, sample: dict[str, Any], model: Any, criterion: Any, optimizer: Any, update_num: int, ignore_grad: bool = False
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Forward and backward of a micro-batch. What a rank runs in place of a batch that it lacks counts for nothing:
        fairseq forgets only its gradient where the rank has another, real one in the same update."""
        loss, molecules, log = super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)
        return (loss, 0, {name: value * 0 for name, value in log.items()}) if ignore_grad else (loss, molecules, log)

    def get_batch_iterator(
        self,
        dataset: StoreDataset,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        *,
        seed: int = 1,
        num_shards: int = 1,
        shard_id: int = 0,
        num_workers: int = 0,
        epoch: int = 1,
        data_buffer_size: int = 0,
        disable_iterator_cache: bool = False,
        **_: Any,
    ) -> iterators.EpochBatchIterator:
        """Batches of a split, each molecule once per epoch.

        fairseq's own batching drops the end of an epoch that does not fill --required-batch-size-multiple molecules and
        keeps one set of batches for all epochs; here nothing is dropped and training batches are drawn anew each epoch.
        """
        if dataset in self.dataset_to_epoch_iter and not disable_iterator_cache:
            return self.dataset_to_epoch_iter[dataset]
        training = dataset is self.datasets.get(self.cfg.train_subset) and dataset not in self.validated.values()
        budget = BatchBudget(molecules=max_sentences, tokens=max_tokens, pairs=self.cfg.max_pairs or None)
        dataset.group = None if self.group is None else budget.group(self.group, dataset.num_atoms)
        plan = BatchPlan(dataset, budget, self.cfg.pool_batches, seed if training else None)
        iterator = epoch_iterator(
            dataset,
            plan,
            seed=seed,
            num_shards=num_shards,
            shard_id=shard_id,
            num_workers=num_workers,
            epoch=epoch,
            buffer_size=data_buffer_size,
        )
        if not disable_iterator_cache:
            self.dataset_to_epoch_iter[dataset] = iterator
        return iterator

    def max_positions(self) -> None:
        """No limit: molecules of any size."""

    @property
    def source_dictionary(self) -> None:
        return None

    @property
    def target_dictionary(self) -> None:
        return None

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """Log what the global batch gave. fairseq would call the criterion's class, which knows no task."""
        criterion.log_metrics(logging_outputs)

    @staticmethod
    def logging_outputs_can_be_summed(criterion: Any) -> bool:
        """In training all logged values are sums; in evaluation predictions are gathered."""
        return criterion.training
