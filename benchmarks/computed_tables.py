"""Tables of docs/scaling.md and docs/performance.md that follow from formulas alone: nothing in them was measured."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.measure import PEAKS
from benchmarks.scaling import ADAM_BYTES, batch_of
from benchmarks.simulate import Links, simulate
from benchmarks.sizes import TITLES, draw_sizes
from benchmarks.step import step_flops
from moleblend_fs.model.config import PRESETS, ModelConfig
from moleblend_fs.objectives.blend_then_predict import BlendConfig
from moleblend_fs.planning.estimate import BUCKET, GIB, Setup, estimate, parameter_sizes, sent, traffic

MOLECULES = 1024
"""Of a micro-batch."""
PAPER_UPDATES, PAPER_BATCH, DAY = 1_000_000, 4096, 24 * 3600
RATE, NODE, NETWORK, LATENCY, MEMORY, NODE_GPUS = 200e12, 200e9, 25e9, 10e-6, 3e12, 8
"""FLOP/s of a GPU in a step, bytes per second within a node and beyond, seconds of a message, bytes per second of Adam, GPUs of a node."""
PROCESSES = (8, 64, 512)


def configs() -> dict[str, ModelConfig]:
    """The shipped sizes with the heads of pretraining."""
    return {name: ModelConfig(**sizes, heads=BlendConfig().predict) for name, sizes in PRESETS.items()}


@functools.cache
def sizes_of(config: ModelConfig) -> list[int]:
    """Elements of each parameter."""
    return parameter_sizes(replace(config, checkpoint_layers=0))


def lines_of(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *body])


def floors() -> str:
    """Operations of a molecule's step, and what the paper's pretraining in a day comes to."""
    base, h200 = configs()["base"], PEAKS["H200"].bf16
    body = []
    for name, title in TITLES.items():
        sizes = draw_sizes(name, 100_000, seed=0)
        flops = step_flops(sizes, base) / len(sizes)
        need = PAPER_UPDATES * PAPER_BATCH / DAY
        body.append([title, f"{sizes.mean():.1f}", f"{flops / 1e9:.1f}", f"{need:,.0f}", f"{flops * need / 1e12:.0f}"])
        body[-1].append(f"{100 * flops * need / h200:.0f}")
    whole = f"{PAPER_UPDATES:,} updates of {PAPER_BATCH:,} in 24 hours"
    head = ["`base` on", "atoms", "GFLOP a molecule", f"molecules/s for {whole}", "TFLOP/s", f"% of an H200's {h200 / 1e12:.0f} TFLOP/s"]
    return lines_of(head, body)


def states() -> str:
    """GiB of weights, gradients and what Adam keeps, in half precision."""
    body = []
    for name, config in configs().items():
        sizes = sizes_of(config)

        def gib(stage: int, processes: int, sizes: list[int] = sizes, config: ModelConfig = config) -> str:
            memory = estimate(sizes, config, None, Setup(processes=processes, stage=stage, half=True))
            return f"{(memory.weights + memory.gradients + memory.optimizer) / GIB:.2f}"

        by_stage = [" / ".join(gib(stage, n) for n in PROCESSES) for stage in (1, 2, 3)]
        body.append([name, f"{sum(sizes):,}", gib(0, PROCESSES[0]), *by_stage])
    of = " / ".join(map(str, PROCESSES))
    return lines_of(["GiB", "parameters", "DDP", *(f"ZeRO {stage}, N = {of}" for stage in (1, 2, 3))], body)


def activations() -> str:
    """GiB of activations on a GPU with kernels, in half precision."""
    head = [f"GiB of {MOLECULES:,} molecules", *(f"{TITLES[name]}" for name in ("pcqm4mv2", "qm9")), "PCQM4Mv2, all blocks recomputed"]
    body = []
    for name, config in configs().items():
        recomputed = replace(config, checkpoint_layers=config.layers)
        cells = [("pcqm4mv2", config), ("qm9", config), ("pcqm4mv2", recomputed)]
        setup = Setup(half=True, kernels=True)
        values = [estimate(sizes_of(c), c, batch_of(draw_sizes(of, MOLECULES, 0)), setup).activations / GIB for of, c in cells]
        body.append([name, *(f"{value:.2g}" for value in values)])
    return lines_of(head, body)


def needs() -> str:
    """GiB that training takes on each GPU."""
    ways: dict[str, tuple[Setup, int, bool]] = {
        "1 GPU": (Setup(), MOLECULES, False),
        "1 GPU, all blocks recomputed": (Setup(), MOLECULES, True),
        "1 GPU, `--batch-size 256 --update-freq 4`": (Setup(update_freq=4), MOLECULES // 4, False),
        "1 GPU, ZeRO 1, `--zero-offload cpu`": (Setup(stage=1, offload=True), MOLECULES, False),
        "8 GPUs, DDP": (Setup(processes=8), MOLECULES, False),
        "8 GPUs, ZeRO 1": (Setup(processes=8, stage=1), MOLECULES, False),
        "8 GPUs, ZeRO 3": (Setup(processes=8, stage=3), MOLECULES, False),
    }
    body = []
    for title, (setup, molecules, recomputed) in ways.items():
        cells = []
        for config in configs().values():
            sizes = sizes_of(config)
            config = replace(config, checkpoint_layers=config.layers * recomputed)
            how = replace(setup, half=True, kernels=True, bucket=min(BUCKET, sum(sizes)))
            memory = estimate(sizes, config, batch_of(draw_sizes("pcqm4mv2", molecules, 0)), how)
            cells.append(f"{memory.peak / GIB:.1f}" + (f" (+ {memory.host / GIB:.1f} of the host)" if memory.host else ""))
        body.append([title, *cells])
    return lines_of(["GiB of each GPU", *configs()], body)


def exchanged() -> str:
    """Megabytes that a process sends in an update, half precision, eight processes."""
    body = []
    for name, config in configs().items():
        sizes = sizes_of(config)
        setups = [Setup(processes=8, stage=stage, half=True) for stage in (0, 1, 3)] + [Setup(processes=8, stage=3, half=True, reuse=0)]
        megabytes = [sent(traffic(sizes, setup), 8) / 1e6 for setup in setups]
        body.append([name, *(f"{value:,.2g}" if value < 10 else f"{value:,.0f}" for value in megabytes)])
    return lines_of(["MB", "DDP", "ZeRO 1, 2", "ZeRO 3", "ZeRO 3 keeping nothing"], body)


def steps() -> str:
    """Milliseconds of a step on many GPUs."""
    near, far = Links.of_rates(NODE, LATENCY, MEMORY), Links.of_rates(NETWORK, LATENCY, MEMORY)
    cases: list[tuple[str, str, Callable[[int], int]]] = [
        (arch, f"{arch}, {MOLECULES:,} a GPU", lambda n: MOLECULES) for arch in ("base", "large", "huge")
    ]
    cases += [(arch, f"{arch}, {PAPER_BATCH:,} in all", lambda n: PAPER_BATCH // n) for arch in ("base", "huge")]
    body = []
    for arch, title, molecules in cases:
        config = configs()[arch]
        sizes = sizes_of(config)
        compute = {n: step_flops(np.asarray(draw_sizes("pcqm4mv2", molecules(n), 0)), config) / RATE for n in PROCESSES}
        adam = ADAM_BYTES * sum(sizes) / MEMORY
        cells = [" / ".join(f"{1e3 * compute[n]:.3g}" for n in PROCESSES)]
        for stage in (0, 1, 3):
            setups = [Setup(processes=n, stage=stage, half=True, kernels=True, bucket=min(BUCKET, sum(sizes))) for n in PROCESSES]
            times = [simulate(sizes, s, near if s.processes <= NODE_GPUS else far, [compute[s.processes]], optimizer=adam) for s in setups]
            cells.append(" / ".join(f"{1e3 * time.step:.3g}" for time in times))
        body.append([title, *cells])
    of = " / ".join(map(str, PROCESSES))
    return lines_of([f"ms on {of} GPUs, molecules of PCQM4Mv2", "compute", "DDP", "ZeRO 1, 2", "ZeRO 3"], body)


TABLES: dict[str, Callable[[], str]] = {
    "floors": floors,
    "states": states,
    "activations": activations,
    "needs": needs,
    "exchanged": exchanged,
    "steps": steps,
}
"""Name in a page's mark -> what stands there."""
