"""Saving and loading of fairseq's trainer: checkpoints say what they hold, are read by any number of processes and any Adam, and
pretrained weights of any kind are read safely."""

import logging
import math
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fairseq import utils
from fairseq.optim import FP16Optimizer
from fairseq.trainer import Trainer
from omegaconf import open_dict
from torch import Tensor

from fairseq_plugins.head_start import begin_linearly
from fairseq_plugins.options import adam_options, optimizer_name
from fairseq_plugins.patches import resuming
from fairseq_plugins.patches.load_checkpoint import loaded_state_through, without_unknown_meters
from moleblend_fs.checkpoint import read as checkpoint
from moleblend_fs.checkpoint import zero_moments
from moleblend_fs.checkpoint.adam_state import AdamState, from_table, join_flat, shapes_of, take_options, to_table, without_moments
from moleblend_fs.checkpoint.write import remove_unfinished, save_torch_file
from moleblend_fs.checkpoint.zero_moments import StoredMoments
from moleblend_fs.data.model_description import PREDICTED
from moleblend_fs.data.untrusted_torch import ADMITTED
from moleblend_fs.errors import UserError
from moleblend_fs.inference.checkpoint_fit import Purpose, compare, objective_differences, shortened
from moleblend_fs.model.config import ModelConfig
from moleblend_fs.model.predicted_distances import DISTANCE_HEAD
from moleblend_fs.runtime import watchdog
from moleblend_fs.runtime.stop_signals import unmark
from moleblend_fs.shared_options import RANDOM

logger = logging.getLogger(__name__)


class AdamName(Enum):
    """Optimizers whose state is Adam's, by the name that fairseq saves: a run of one goes on from a checkpoint of another."""

    FLOAT32 = "FairseqAdam"
    WITH_MASTERS = "FP16Optimizer"
    MEMORY_EFFICIENT = "MemoryEfficientFP16Optimizer"
    DEEPSPEED = "DeepSpeedOptimizer"

    @classmethod
    def of_run(cls, cfg: Any) -> "AdamName | None":
        """The one that a run's options ask for; None for another kind of optimizer."""
        common, name = cfg.common, optimizer_name(cfg)
        if name == "deepspeed":
            return cls.DEEPSPEED
        if name != "adam":
            return None
        if common.memory_efficient_fp16 or common.memory_efficient_bf16:
            return cls.MEMORY_EFFICIENT
        return cls.WITH_MASTERS if common.fp16 or common.bf16 else cls.FLOAT32


class Requested(NamedTuple):
    """What the options say, where a stop by a signal changes the configuration."""

    max_update: int
    disable_validation: bool


class CheckpointTrainer(Trainer):
    """fairseq's trainer with our checkpoints; the updates are those of `trainer.MoleBlendTrainer`.

    Attributes:
        requested: see there.
        update_freq: micro-batches of an update on each process, by epoch; as --update-freq.
        update_batches: batches of an update over all processes, by epoch; kept when the number of processes changes.
        differing: topics (`inference.checkpoint_fit.TOPICS`) in which the checkpoint that is resumed differs from this run, on purpose.
        validation_due: whether the checkpoint being saved lacks the score of a validation that a signal cut short or left out.
    """

    def __init__(self, cfg: Any, task: Any, model: Any, criterion: Any, quantizer: Any = None):
        super().__init__(cfg, task, model, criterion, quantizer)
        self.requested = Requested(cfg.optimization.max_update, cfg.dataset.disable_validation)
        self.update_freq = [int(n) for n in cfg.optimization.update_freq]
        self.update_batches = [n * self.data_parallel_world_size for n in self.update_freq]
        self.loaded_weights: dict[str, Tensor] | None = None
        self.validation_due = False
        self.differing: frozenset[str] = frozenset()
        if self.is_data_parallel_master:
            unmark(cfg.checkpoint.save_dir)
            if not cfg.checkpoint.no_save:  # then another run may be at work there, see `output_paths.take_save_dir`
                remove_unfinished(cfg.checkpoint.save_dir)
                zero_moments.remove_unnamed(cfg.checkpoint.save_dir)

    # Saving

    def save_checkpoint(self, filename: str, extra_state: dict[str, Any]) -> str | None:
        """fairseq's content under a temporary name, renamed when it is all on the disk."""
        if not self.should_save_checkpoint_on_current_rank:
            return None
        watchdog.step(f"saving after update {self.get_num_updates()}")
        state = utils.move_to_cpu(self.state_dict())
        state["extra_state"].update(extra_state)
        save_torch_file(state, filename)
        logger.info("saved checkpoint %s", filename)
        return filename

    def state_dict(self) -> dict[str, Any]:
        """fairseq's state with float32 weights and Adam's state by parameter, and what rebuilds the model without fairseq."""
        state = super().state_dict()
        state["model"] = self.weights_to_save()
        if self.adam and "last_optimizer_state" in state:
            state["last_optimizer_state"] = self.optimizer_state_to_save()
            state["optimizer_history"][-1]["optimizer_name"] = AdamName.FLOAT32.value
        state["cfg"]["optimization"]["max_update"] = self.requested.max_update
        state["cfg"]["dataset"]["disable_validation"] = self.requested.disable_validation
        state["cfg"]["optimization"]["update_freq"] = self.update_freq
        described = checkpoint.describe(self._model_config, self.task.finetuned, self.task.trained_on)
        state["extra_state"]["moleblend"] = described | {"pretraining": self.task.pretraining}
        state["extra_state"]["update"] = {"update_freq": self.update_freq, "batches": self.update_batches}
        state["extra_state"].update(resuming.state_to_save(self))
        return state

    @property
    def adam(self) -> AdamName | None:
        """Which Adam the optimizer is, if it is one."""
        return AdamName.of_run(self.cfg)

    @property
    def _model_config(self) -> ModelConfig:
        return self.get_model().model.config

    def weights_to_save(self) -> dict[str, Tensor]:
        """The model's state in float32."""
        return {**self.get_model().state_dict(), **self._masters()}

    def optimizer_state_to_save(self) -> dict[str, Any]:
        """Adam's state, see `adam_state`."""
        shapes = shapes_of(self.get_model().named_parameters())
        return to_table(from_table(self.optimizer.state_dict(), shapes, "this run"), list(shapes))

    def _masters(self) -> dict[str, Tensor]:
        """The float32 weights that training in bf16 or fp16 goes by; fairseq keeps them as a list, or as one flat buffer."""
        if not isinstance(self._optimizer, FP16Optimizer):
            return {}
        names = {id(parameter): name for name, parameter in self.get_model().named_parameters()}
        parameters, masters = self._optimizer.fp16_params, self._optimizer.fp32_params
        if isinstance(masters, dict):
            (flat,) = masters.values()
            masters = flat.data.split([parameter.numel() for parameter in parameters])
        return {names[id(p)]: master.data.view_as(p) for p, master in zip(parameters, masters, strict=True)}

    # Loading

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> Any:
        """Resume, or begin from pretrained weights: `--finetune-from-model` takes all that `checkpoint.read.load` reads."""
        if filename == self.cfg.checkpoint.finetune_from_model:
            self._load_pretrained(filename)
            return None
        if Path(filename).is_file():
            self._check_model(filename)
        # fairseq's older optimizers (sgd, adagrad, ...) leave a Namespace in the checkpoint.
        with torch.serialization.safe_globals(ADMITTED), loaded_state_through(partial(self._take_over, filename)):
            extra_state = super().load_checkpoint(filename, *args, **kwargs)
        for name, master in self._masters().items():
            if self.loaded_weights is not None:
                master.copy_(self.loaded_weights[name])
        self.loaded_weights = None
        return extra_state

    def _check_model(self, filename: str) -> None:
        """UserError if a checkpoint is of another model, or was trained on something else, so that this run cannot go on from it."""
        found = checkpoint.load(filename)
        if found.config.heads != self._model_config.heads:
            raise UserError(
                f"{filename}: a checkpoint with heads {found.config.heads}, but this run has {self._model_config.heads}; "
                "choose another --save-dir, or give it as --finetune-from-model"
            )
        checkpoint.check_architecture(self._model_config, found)
        self.differing = self._compare(found, "resume")
        checkpoint.check_shapes(self.get_model().model, found.weights, filename)

    def _compare(self, found: checkpoint.Checkpoint, purpose: Purpose) -> frozenset[str]:
        """Tell how a checkpoint fits this run; what differs as it is meant to. UserError if anything else does."""
        learned = objective_differences(found.pretraining, self.task.pretraining) if purpose == "resume" else []
        comparison = compare(found, self.task.use(purpose), learned)
        for line in comparison.lines:
            self._warn(line)
        return comparison.differing

    def _take_over(self, filename: str, state: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint as this run's optimizer and number of processes need it."""
        self.loaded_weights = dict(state["model"])
        resuming.drop_what_differs(state["extra_state"], self.differing)
        resuming.drop_other_score(state, self.cfg)
        state["extra_state"]["metrics"] = without_unknown_meters(state["extra_state"].get("metrics", {}))
        if self.cfg.ema.store_ema and "ema" not in state["extra_state"]:  # fairseq ends in a KeyError
            self._warn(f"{filename}: saved without averaged weights, which --store-ema begins with its weights")
            state["extra_state"]["ema"] = dict(self.loaded_weights)
        if not self.cfg.checkpoint.reset_optimizer:
            self._take_optimizer(filename, state)
        stored = state["extra_state"].get("update")
        if stored is not None and not self.cfg.checkpoint.reset_dataloader and stored["update_freq"] == self.update_freq:
            self._keep_update(stored["batches"])
        return state

    def _take_optimizer(self, filename: str, state: dict[str, Any]) -> None:
        """Adam's state as this run's optimizer needs it, with this run's options."""
        history, content = state["optimizer_history"][-1], state.get("last_optimizer_state")
        if content is not None and (history["optimizer_name"] in {adam.value for adam in AdamName}) != (self.adam is not None):
            raise UserError(
                f"the checkpoint was written with {history['optimizer_name']}, this run has another optimizer; "
                "choose that one, or start with --reset-optimizer"
            )
        if self.adam is None:
            return
        history["optimizer_name"] = self.adam.value  # what fairseq looks for
        shapes = shapes_of(self.get_model().named_parameters())
        stored: AdamState | StoredMoments
        if content is None:  # fairseq would begin the schedule and the count of updates anew, in the middle of the training
            self._warn(f"{filename}: saved without the optimizer's state (--no-save-optimizer-state), which begins anew: moments of 0")
            stored = without_moments(float(self.cfg.optimization.lr[0]))
        else:
            stored = zero_moments.read(filename, content, shapes) if "shards" in content else from_table(content, shapes, filename)
        for line in take_options(stored.options, adam_options(self.cfg)):
            self._warn(f"{filename}: {line}")
        state["last_optimizer_state"] = self._adam_for_this_run(stored)

    def _warn(self, line: str) -> None:
        """Say something once, not on each rank."""
        if self.is_data_parallel_master:
            logger.warning(line)

    def _adam_for_this_run(self, stored: AdamState | StoredMoments) -> Any:
        """Adam's state in this model's order; flat where fairseq keeps it so (fp16)."""
        shapes = shapes_of(self.get_model().named_parameters())
        table = to_table(stored.whole(shapes) if isinstance(stored, StoredMoments) else stored, list(shapes))
        if self.adam is AdamName.WITH_MASTERS and self.cfg.common.fp16 and not self.cfg.common.fp16_no_flatten_grads:
            table["state"] = join_flat(table["state"], list(shapes.values()))
            table["param_groups"][0]["params"] = [0]
        return table

    def _keep_update(self, batches: list[int]) -> None:
        """Go on with as many batches in an update as before, whatever the number of processes now."""
        if batches == self.update_batches:
            return
        processes = self.data_parallel_world_size
        self.update_batches = list(batches)
        with open_dict(self.cfg):
            self.cfg.optimization.update_freq = [math.ceil(n / processes) for n in batches]
        logger.info("an update stays at %s batches: %s on each of %d processes", batches, self.cfg.optimization.update_freq, processes)
        if min(batches) < processes:
            logger.warning(
                "%d of %d processes have no batch in an update; a smaller --batch-size and a changed --update-freq would use them",
                processes - min(batches),
                processes,
            )

    def _load_pretrained(self, filename: str) -> None:
        found = checkpoint.load(filename)
        checkpoint.check_architecture(self._model_config, found)
        self._compare(found, "finetune")
        weights = {**self._with_fitting_head(found), **self._distance_predictor(found)}
        missing = checkpoint.load_weights(self.get_model().model, weights, where=filename, strict=False)
        body = sorted(name for name in missing if not name.startswith("heads."))
        logger.info("pretrained weights from %s (%s)", filename, found.about.get("format", "checkpoint folder"))
        if str(getattr(self.task.cfg, "head_start", RANDOM)) != RANDOM and "heads.property.out.weight" in missing:
            begin_linearly(self.get_model().model, self.task, self.device)
        if body:
            logger.warning("not in the checkpoint, left at their initial values: %s", ", ".join(body))

    def _distance_predictor(self, found: checkpoint.Checkpoint) -> dict[str, Tensor]:
        """Weights of what predicts distances, where this model needs them: the pretrained model as it is, or that which it carries."""
        if not self._model_config.predicted_3d or found.config.predicted_3d:
            return {}
        if DISTANCE_HEAD not in found.config.heads:
            raise UserError(
                f"{found.about.get('file')} has no head that predicts distances, which --inputs {PREDICTED} needs; choose a checkpoint "
                "pretrained with --geometry-target distance, or other inputs"
            )
        own = self.get_model().model.distances.state_dict()
        checkpoint.check_architecture(self.get_model().model.distances.model.config, found)
        return {f"distances.{name}": found.weights[name.removeprefix("model.")] for name in own}

    def _with_fitting_head(self, found: checkpoint.Checkpoint) -> dict[str, Tensor]:
        """Weights without a property head of another size, which begins at random instead."""
        here, there = self._model_config, found.config
        if "property" not in here.heads:
            return found.weights
        if "property" not in there.heads:
            name, hidden = checkpoint.hidden_of_molecules(found)
            if name:
                logger.info("the property head's hidden layer goes on from the checkpoint's head %r", name)
            return {**found.weights, **hidden}
        was = "" if found.finetuned is None else f" for {shortened(found.finetuned.targets)}"
        if here.tasks == there.tasks:
            logger.info("the property head goes on from the checkpoint's%s", was)
            factor = there.output_scale / here.output_scale
            return {name: value * factor if name.startswith("heads.property.out.") else value for name, value in found.weights.items()}
        logger.info("the property head begins at random: it has %d outputs, the checkpoint's has %d%s", here.tasks, there.tasks, was)
        return {name: value for name, value in found.weights.items() if not name.startswith("heads.property.")}
