"""The `moleblend` command: one sub-command a module, imported only when it is called for."""

import argparse
import importlib
import os
import sys

from moleblend_fs import __version__
from moleblend_fs.errors import UserError

COMMANDS = {
    "preprocess": "molecules from PCQM4Mv2, QM9, MoleculeNet, Uni-Mol or your own files -> store",
    "merge": "put shards of a large source, made by preprocess --shard I/N, together to a store",
    "inspect": "show what is inside a store",
    "evaluate": "score a finetuned checkpoint on a split of a store",
    "predict": "predict properties of the molecules of a store, as CSV",
    "convert": "read a checkpoint of the reference release and write ours (safetensors + JSON)",
    "check-golden": "compare the model with a file of reference outputs",
    "report": "draw the curves and tables of finished runs as one HTML page",
    "doctor": "show versions, devices, which implementation of each op is active, and what is missing",
}


def main(argv: list[str] | None = None) -> int:
    """Run a sub-command; 0 on success, 1 where a check failed, 2 for a user's mistake (a message, no traceback)."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="moleblend", description="MoleBlend: data, checkpoints and reports around fairseq-train.")
    parser.add_argument("--version", action="version", version=f"moleblend_fs {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in argv if not word.startswith("-")), None)
    run = None
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name == chosen:
            try:
                module = importlib.import_module(f"moleblend_fs.cli.{name.replace('-', '_')}")
            except ModuleNotFoundError as error:
                if (error.name or "").startswith("moleblend_fs"):
                    raise
                print(f"moleblend {name}: needs the package {error.name}; pip install 'moleblend-fs[chem]'", file=sys.stderr)
                return 2
            module.add_arguments(command)
            run = module.run
    arguments = parser.parse_args(argv)
    assert run is not None
    try:
        return run(arguments)
    except UserError as error:
        print(f"moleblend {chosen}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"moleblend {chosen}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
