"""Compile every kernel configuration for sm_80 and sm_90, without a GPU, and tabulate registers, shared memory and spills.

The table is kernel_resources.csv. With --check nothing is written; anything spilled, too large or unlike the table is an error. A row says
what it was compiled from, so that of those whose kernel is still the same one in sixteen is compiled again, by --all every one.
"""

import argparse
import ast
import contextlib
import csv
import functools
import hashlib
import importlib
import importlib.util
import multiprocessing
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path

from benchmarks import wgmma_waits
from benchmarks.harness import ROOT, Row
from moleblend_fs.errors import UserError
from moleblend_fs.ops.kernel_common import Variant

TABLE = ROOT / "benchmarks" / "kernel_resources.csv"
ARCHITECTURES = (80, 90)
"""A100; H100 and H200."""
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes of shared memory that one program can have (CUDA C++ Programming Guide, table of compute capabilities)."""
PACKAGE = "moleblend_fs.ops"
SPOT_CHECKS = 16
"""One in so many rows that could be believed is compiled all the same."""
USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one configuration needs on one architecture.

    Attributes:
        module, variant: the op, and the configuration's name.
        architecture: compute capability times 10.
        warps, stages: as launched.
        registers: of each thread. shared: bytes of shared memory. spilled: bytes of each thread's registers that went to memory.
        triton: version of the compiler.
        seal: digest of the row and of what it was compiled from, `sealed`; not compared.
    """

    module: str
    variant: str
    architecture: int
    warps: int
    stages: int
    registers: int
    shared: int
    spilled: int
    triton: str
    seal: str = field(default="", compare=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", default=False, help="compare with the table instead of writing it")
    parser.add_argument("--all", action="store_true", default=False, help="with --check: compile also what is as it was for the table")
    parser.add_argument("--only", nargs="+", metavar="OP", default=None, help="only these folders of ops")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes (default %(default)s)")


def main(args: argparse.Namespace) -> list[Row]:
    """Write or check the table; no rows for results.csv."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise UserError("TRITON_INTERPRET=1 replaces Triton's compiler by its interpreter; unset it to compile kernels")
    believed = read_table() if args.check and not args.all else []
    measured, found = measure(args.only or kernel_modules(), args.workers, believed)
    for resources in measured:
        print(", ".join(str(value) for value in asdict(resources).values()))
    if args.check:
        found += problems(measured, [r for r in read_table() if not args.only or r.module in args.only])
    else:
        kept = [r for r in read_table() if r.module not in {m.module for m in measured}] if args.only else []
        write_table(sorted([*kept, *measured], key=lambda r: (r.module, r.variant, r.architecture)))
        found += problems(measured, measured)
    print(f"{len(measured)} configurations, {len(found)} problems")
    if found:
        sys.exit("\n".join(found))
    return []


def kernel_modules() -> list[str]:
    """Names of the ops that have kernels."""
    package = importlib.import_module(PACKAGE)
    return sorted(folder.name for folder in pkgutil.iter_modules(package.__path__) if folder.ispkg)


def variants_of(module: str):
    """What gives the configurations of an op's kernels, a `kernel_common.Variant` each."""
    return importlib.import_module(f"{PACKAGE}.{module}.variants").variants


def measure(modules: list[str], workers: int, believed: Sequence[Resources] = ()) -> tuple[list[Resources], list[str]]:
    """Resources of all configurations of some modules, and a line for each that does not compile; more than one worker are processes.

    Args:
        believed: rows that need no compiling where their seal is whole, but for spot checks.
    """
    rows = {(r.module, r.variant, r.architecture): r for r in believed}
    measured, jobs = [], []
    for module in modules:
        for number, variant in enumerate(variants_of(module)()):
            for architecture in ARCHITECTURES:
                row = rows.get((module, variant.name, architecture))
                if row is not None and believable(variant, row) and int(row.seal, 16) % SPOT_CHECKS:
                    measured.append(row)
                else:
                    jobs.append((module, number, architecture))
    results = [_measure_one(*job) for job in jobs] if workers == 1 else _by_several(jobs, workers)
    return [*measured, *(r for r in results if isinstance(r, Resources))], [r for r in results if isinstance(r, str)]


def _by_several(jobs: list[tuple[str, int, int]], workers: int) -> list[Resources | str]:
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(_measure_one, *zip(*jobs), chunksize=4)) if jobs else []


def believable(variant: Variant, row: Resources) -> bool:
    """Whether a row has the numbers that were measured of what would be compiled today."""
    return row.seal == sealed(variant, row).seal


def sealed(variant: Variant, row: Resources) -> Resources:
    """A row with the seal that it has where it was measured of this variant, of these kernels, by the installed Triton."""
    call = [sorted(variant.signature.items()), sorted(variant.constexprs.items()), variant.num_warps, variant.num_stages]
    numbers = asdict(replace(row, triton=version("triton"), seal=""))
    text = repr([code_of(variant.function.__module__), variant.function.__name__, call, numbers])
    return replace(row, seal=hashlib.sha256(text.encode()).hexdigest()[:16])


@functools.cache
def code_of(module: str) -> str:
    """What a module of ours and those of ours that it imports compute: their code, without comments, docstrings and modules' names."""
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file_of(name)
        if path is None or name in found:
            continue
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
                waiting += [each if _file_of(each) else str(node.module) for each in modules]
                node.module = "_"
            elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                node.body = [line for line in node.body if not _is_text(line)]
        found[name] = ast.unparse(tree)
    return repr(sorted(found.values()))


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)


def _file_of(module: str) -> Path | None:
    """Of a module of ours; None for others, and for what is none."""
    if not module.startswith(PACKAGE.partition(".")[0]):
        return None
    with contextlib.suppress(ModuleNotFoundError):
        spec = importlib.util.find_spec(module)
        return Path(spec.origin) if spec is not None and spec.origin is not None else None
    return None


def _measure_one(module: str, number: int, architecture: int) -> Resources | str:
    from triton.errors import TritonError

    variant = variants_of(module)()[number]
    try:
        return compiled(module, variant, architecture)
    except (TritonError, RuntimeError) as error:
        return f"{module}: {variant.name} does not compile, or not safely, for sm_{architecture}: {error}"


def compiled(module: str, variant: Variant, architecture: int) -> Resources:
    """Compile one `Variant`; pointers are taken to be aligned to 16 bytes, as torch's are.

    Raises:
        RuntimeError: what it is compiled to does not wait where it has to.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = variant.function.arg_names
    assert set(names) == set(variant.signature) | set(variant.constexprs), f"{variant.name}: arguments of the kernel are {names}"
    signature = {name: variant.signature.get(name, "constexpr") for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")}
    source = ASTSource(variant.function, signature, constexprs=variant.constexprs, attrs=aligned)
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages}
    kernel = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        done = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    if unsafe := wgmma_waits.faults(kernel.asm["ptx"]):
        raise RuntimeError("; ".join(unsafe))
    usage = USAGE.findall(done.stdout)
    assert len(usage) == 1, f"{variant.name}: cuobjdump told {done.stdout!r}"
    registers, stack, _, local = (int(number) for number in usage[0])
    row = Resources(
        module=module,
        variant=variant.name,
        architecture=architecture,
        warps=variant.num_warps,
        stages=variant.num_stages,
        registers=registers,
        shared=kernel.metadata.shared,
        spilled=stack + local,
        triton=version("triton"),
    )
    return sealed(variant, row)


def problems(measured: list[Resources], table: list[Resources]) -> list[str]:
    """What is spilled or too large, and what the table has otherwise; another version of triton compiles otherwise."""
    found = []
    for r in measured:
        name = f"{r.module}: {r.variant} on sm_{r.architecture}"
        if r.spilled:
            found.append(f"{name} spills {r.spilled} bytes")
        if r.shared > SHARED_LIMIT[r.architecture]:
            found.append(f"{name} needs {r.shared} bytes of shared memory; there are {SHARED_LIMIT[r.architecture]}")
    key = {(r.module, r.variant, r.architecture): r for r in table}
    seen = {(r.module, r.variant, r.architecture): r for r in measured}
    if len(seen) != len(measured):
        found.append("two configurations have the same name")
    for place in sorted(key.keys() | seen.keys()):
        name = f"{place[0]}: {place[1]} on sm_{place[2]}"
        if place not in key:
            found.append(f"{name} is not in {TABLE.name}; write it anew with `python -m benchmarks kernel_resources`")
        elif place not in seen:
            found.append(f"{name} stands in {TABLE.name} but can no longer be chosen")
        elif key[place].triton == seen[place].triton and key[place] != seen[place]:
            found.append(f"{name}: the table has {key[place]}, compiled is {seen[place]}")
    return found


def read_table(path: Path = TABLE) -> list[Resources]:
    """The committed table; empty if there is none."""
    if not path.exists():
        return []
    kinds = {field.name: field.type for field in fields(Resources)}
    with open(path, newline="") as stream:
        return [Resources(**{k: int(v) if kinds[k] is int else v for k, v in line.items()}) for line in csv.DictReader(stream)]


def write_table(table: list[Resources], path: Path = TABLE) -> None:
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Resources)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(r) for r in table)
