"""`moleblend doctor`: what is installed, what runs, what is missing; one line each."""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path

import torch

import moleblend_fs
from moleblend_fs import __version__
from moleblend_fs.checkpoint.weights_by_name import FOLDERS, names
from moleblend_fs.errors import UserError
from moleblend_fs.ops import dispatch
from moleblend_fs.ops.precision import bfloat16_instructions
from moleblend_fs.runtime.stop_signals import EXIT_VARIABLE
from moleblend_fs.runtime.watchdog import DEFAULT_TIMEOUT

PACKAGES = {
    "torch": "training and inference",
    "ve-fairseq": "fairseq-train",
    "numpy": "everything",
    "lmdb": "stores",
    "safetensors": "checkpoints",
    "scikit-learn": "ROC-AUC",
    "tensorboard": "--tensorboard-logdir",
    "deepspeed": "--optimizer deepspeed (pip install 'moleblend-fs[distributed]')",
    "triton": "fused kernels on GPUs; comes with torch for CUDA",
    "rdkit": "preprocess, inspect --html (pip install 'moleblend-fs[chem]')",
    "ogb": "preprocess pcqm4mv2 --download, official PCQM4Mv2 scores (pip install 'moleblend-fs[chem]')",
    "matplotlib": "report (pip install 'moleblend-fs[report]')",
    "onnx": "export (pip install 'moleblend-fs[export]')",
    "onnxruntime": "export, predictions of exported models (pip install 'moleblend-fs[onnx]')",
    "optuna": "tune (pip install 'moleblend-fs[tune]')",
    "captum": "explain (pip install 'moleblend-fs[explain]')",
    "openpyxl": "Excel workbooks (pip install 'moleblend-fs[tables]')",
    "pyarrow": "Parquet files (pip install 'moleblend-fs[tables]')",
    "qm9pack": "preprocess qm9 qm9pack (pip install 'moleblend-fs[qm9]')",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no options."""


def run(arguments: argparse.Namespace) -> int:
    """Print the lines; 1 if a package that training needs is missing."""
    print(f"moleblend_fs     {__version__} on Python {platform.python_version()}, {platform.platform()}")
    missing = 0
    for package, purpose in PACKAGES.items():
        try:
            print(f"{package:16} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"{package:16} missing: {purpose}")
            missing += package in ("torch", "ve-fairseq", "numpy", "lmdb", "safetensors", "scikit-learn")
    print(f"{'user dir':16} {Path(moleblend_fs.__file__).parent}   (fairseq-train --user-dir)")
    compiled = importlib.util.find_spec("moleblend_fs.chem._paths") is not None
    print(f"{'shortest paths':16} {'compiled' if compiled else 'not compiled: run `pip install -e .` again (needs a C compiler)'}")
    for name, value in describe_weights():
        print(f"{name:16} {value}")
    print(f"{'processors':16} {os.cpu_count()}, torch uses {torch.get_num_threads()}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            print(f"{f'cuda:{index}':16} {device.name}, {device.total_memory / 2**30:.0f} GiB, sm_{device.major}{device.minor}")
    else:
        print(f"{'cuda':16} no device visible: training runs on the CPU")
    if instructions := bfloat16_instructions():
        print(
            f"{'bfloat16':16} in this processor ({', '.join(instructions)}): train with --bf16, predict with --precision bf16 to be faster"
        )
    else:
        print(f"{'bfloat16':16} not in this processor: float32 is faster on it")
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for op in dispatch.OPS:
        print(f"{f'op {op}':20} {dispatch.describe(op, place)}")
    for name, value in describe_distributed():
        print(f"{name:16} {value}")
    return 1 if missing else 0


def describe_weights() -> list[tuple[str, str]]:
    """The weights that --weights takes by name, each read whole and compared with the sums that were written with it."""
    found = []
    for name, place in names().items():
        try:
            from moleblend_fs.checkpoint.read import load  # here: without safetensors, the line above that it is missing is to be read

            load(place)
            size = sum(path.stat().st_size for path in place.iterdir())
            said = f"{name}: {size / 1e6:.1f} MB, as they were written, in {place}"
        except (UserError, ModuleNotFoundError) as error:
            said = f"{name}: {error}"
        found.append(("weights", said))
    return found or [("weights", f"none that come with the package or lie in a folder of {FOLDERS}: finetuning begins with random ones")]


def describe_distributed() -> list[tuple[str, str]]:
    """What training on several processes would use here: launcher, backend, ZeRO, and what a signal does."""
    environment = os.environ
    if "RANK" in environment and "WORLD_SIZE" in environment:
        launcher = f"rank {environment['RANK']} of {environment['WORLD_SIZE']}, started by torchrun or alike"
    elif int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        launcher = f"task {environment.get('SLURM_PROCID')} of {environment['SLURM_STEP_NUM_TASKS']} of a Slurm step"
    else:
        launcher = "none: --distributed-world-size N starts N processes on this host"
    cuda = torch.cuda.is_available()
    precisions = "float32, bf16, fp16" if cuda else "float32, bf16 (fp16 needs a GPU)"
    zero = f"stages 1, 2, 3 on {'cuda' if cuda else 'cpu'}, {precisions}"
    return [
        ("launcher", launcher),
        ("backend", "nccl" if cuda else "gloo"),
        ("DeepSpeed ZeRO", zero if importlib.util.find_spec("deepspeed") else "not available: deepspeed is missing"),
        ("SIGTERM, SIGUSR1", f"saves, exit code {environment.get(EXIT_VARIABLE, '0')} ({EXIT_VARIABLE})"),
        ("no progress", f"a run ends after {DEFAULT_TIMEOUT} s without (--heartbeat-timeout), naming the rank"),
    ]
