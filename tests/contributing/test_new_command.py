"""A command is one file and a line: CONTRIBUTING's steps, followed in a copy of the packages."""

from tests.support.package_copy import Copy

COMMAND = '''
"""`moleblend count STORE`: how many molecules there are of each number of atoms."""

import argparse
from collections import Counter

from moleblend_fs.data.store import Store
from moleblend_fs.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", help="a store")
    parser.add_argument("--least", type=int, default=1, help="leave out smaller molecules")


def run(args: argparse.Namespace) -> int:
    if args.least < 1:
        raise UserError(f"--least must be at least 1, got {args.least}")
    for atoms, count in sorted(Counter(Store(args.store).num_atoms.tolist()).items()):
        if atoms >= args.least:
            print(atoms, count)
    return 0
'''
LINE = """    "count": "how many molecules there are of each number of atoms",
"""


def test_a_new_command_is_one_file_and_a_line(tmp_path, qm9_store):
    copy = Copy(tmp_path / "code", {"moleblend_fs/cli/count.py": COMMAND})
    main = copy.folder / "moleblend_fs/cli/main.py"
    main.write_text(main.read_text().replace("COMMANDS = {\n", "COMMANDS = {\n" + LINE, 1))
    atoms = qm9_store.num_atoms.tolist()
    least = max(atoms)
    counted = copy.moleblend("count", str(qm9_store.path), "--least", str(least))
    assert counted.stdout == f"{least} {atoms.count(least)}\n", counted.stderr
    wrong = copy.moleblend("count", str(qm9_store.path), "--least", "0")
    assert wrong.returncode == 2
    assert wrong.stderr == "moleblend count: --least must be at least 1, got 0\n"
    assert "each number of atoms" in copy.moleblend("--help").stdout
