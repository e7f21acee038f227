"""Replaces `fairseq.distributed.utils.call_main` (fairseq 0.12), through which every training command goes.

It is called with the full configuration, after the user directory is imported and before any process group or process exists: the one
place to correct the configuration, to start processes that fairseq would not start, and to end a run with one sentence and an exit code.
"""

import functools
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import torch.distributed as dist
from fairseq.distributed import utils as distributed_utils
from omegaconf import DictConfig, open_dict

from fairseq_plugins import console, output_paths
from fairseq_plugins.memory import check_states
from fairseq_plugins.patches import starting_ranks
from fairseq_plugins.patches.configuration import fix_config
from fairseq_plugins.patches.loader_processes import allow_many_files, check_open_files, failed, is_of_loader
from moleblend_fs.checkpoint.write import SharedError
from moleblend_fs.errors import UserError
from moleblend_fs.runtime import folder_lock, watchdog
from moleblend_fs.runtime.stop_signals import preemption

PINS = {
    "fairseq.distributed.utils.call_main": "7e1e783c5fb2",
    "fairseq_cli.train.cli_main": "2848d9688341",
    "fairseq_cli.train.main": "7b5c19d75199",
}

_fairseq_call_main = distributed_utils.call_main


def install() -> None:
    """Put ours in its place."""
    distributed_utils.call_main = call_main
    if os.path.basename(sys.argv[0]).startswith("fairseq-"):
        console.hold_warnings()


def call_main(cfg: DictConfig, main: Callable[..., Any], **kwargs: Any) -> Any:
    """fairseq's entry, with the configuration corrected and users' mistakes told without a traceback (exit code 2)."""
    main = functools.partial(without_traceback, main)
    preemption.listen()
    try:
        fix_config(cfg)
    except UserError as error:
        exit_with(error)
    if starting_ranks.spawns(cfg):
        return starting_ranks.spawn(cfg, main, kwargs)
    return _fairseq_call_main(cfg, main, **kwargs)


def without_traceback(main: Callable[..., Any], cfg: DictConfig, *args: Any, **kwargs: Any) -> None:
    """Run `main`, in each training process; a UserError becomes its message and exit code 2, a stop by a signal the exit code asked for."""
    preemption.listen()
    code = 0
    try:
        output_paths.take_save_dir(cfg)
        with open_dict(cfg):
            console.begin(cfg)
        allow_many_files()
        check_open_files(cfg.dataset.num_workers, held=cfg.dataset.data_buffer_size + 2 * max(cfg.optimization.update_freq))
        check_states(cfg)
        main(cfg, *args, **kwargs)
    except UserError as error:
        code = tell(error)
    except ConnectionError:
        raise  # of other ranks
    except OSError as error:
        code = tell(output_paths.error_of_system(error))
    except RuntimeError as error:
        if is_of_loader(error):
            code = tell(failed(error))
        else:
            if watchdog.current is not None and (silent := watchdog.current.explain_failure()):
                print(f"moleblend: error: lost {silent}", file=sys.stderr, flush=True)
            raise
    finally:
        if watchdog.current is not None:
            watchdog.current.stop()
        console.end()
        folder_lock.current.give_up()
    if code or preemption.exit_code() or (preemption.stopping and multiprocessing.active_children()):
        leave(code or preemption.exit_code())


def tell(error: UserError) -> int:
    """Print a user's mistake (once, where all ranks make it together); returns the exit code for it."""
    logging.shutdown()
    if not (isinstance(error, SharedError) and dist.is_initialized() and dist.get_rank() > 0):
        print(f"moleblend: error: {error}", file=sys.stderr, flush=True)
    return 2


def exit_with(error: UserError) -> NoReturn:
    """Print a user's mistake and end the process."""
    sys.exit(tell(error))


def leave(code: int) -> NoReturn:
    """End this process before its work is done.

    One of several ranks skips the end of Python: a thread of gloo that still has a tensor to let go of, or an exchange of its store, is
    ended there by force, and takes the process with it ("terminate called without an active exception", exit by SIGABRT). So does one
    that a signal stopped amid an epoch: on a GPU, where threads pin what loader processes bring, it was once seen not to end at all.
    """
    logging.shutdown()
    loaders = multiprocessing.active_children()
    if not dist.is_initialized() and not (loaders and preemption.stopping):
        sys.exit(code)
    for loader in loaders:
        loader.kill()  # they would wait for this process
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
