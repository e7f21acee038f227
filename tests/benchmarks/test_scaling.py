"""The simulator's arithmetic; that it counts the calls of real runs is in tests/distributed/test_estimate.py, which makes them."""

import statistics
from collections import Counter
from dataclasses import asdict
from itertools import product

import pytest

from benchmarks import timing
from benchmarks.scaling import add_arguments, machine_of
from benchmarks.simulate import COUNTS, Call, Links, exchanges, simulate
from moleblend_fs.model.config import PRESETS, ModelConfig
from moleblend_fs.objectives.blend_then_predict import BlendConfig
from moleblend_fs.planning.estimate import Setup, parameter_sizes
from moleblend_fs.planning.estimate import traffic as predicted

TINY, LARGE = (parameter_sizes(ModelConfig(**PRESETS[name], heads=BlendConfig().predict)) for name in ("tiny", "large"))
LINKS = Links.of_rates(1e9, 1e-4, 1e10)
GLOO = Links(processes=2, backend="gloo", points=LINKS.points, memory=1e10)
SETUPS = [Setup(processes=n, stage=stage, update_freq=u) for n, stage, u in product((2, 64), range(4), (1, 3))]


def test_one_process_has_no_network():
    times = simulate(LARGE, Setup(), LINKS, [0.1], optimizer=0.02, rest=0.003)
    assert times.network == times.copies == 0
    assert times.step == pytest.approx(0.123)


@pytest.mark.parametrize("setup", SETUPS, ids=str)
@pytest.mark.parametrize("whole", [False, True])
def test_calls_hold_the_bytes_that_are_derived(setup, whole):
    held: Counter[str] = Counter()
    for call in exchanges(LARGE, setup, whole=whole):
        held[call.kind] += call.bytes * call.times
    assert dict(held) == pytest.approx(predicted(LARGE, setup), rel=1e-4)


@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_better_links_are_never_slower(setup):
    worse, better, quick = (simulate(LARGE, setup, Links.of_rates(*rates), [0.1]).step for rates in ((1e9, 1e-4), (4e9, 1e-4), (1e9, 1e-6)))
    assert better < worse
    assert quick <= worse


def test_a_ring_on_more_processes_sends_more_and_waits_longer():
    call = Call("all_reduce", 10**9, 1)
    assert LINKS.seconds(call, 2) == pytest.approx(1 + 1e-4)
    assert LINKS.seconds(call, 64) == pytest.approx(2 * 63 / 64 + 6e-4)
    assert LINKS.seconds(call._replace(kind="all_gather"), 64) == pytest.approx(63 / 64 + 6e-4)
    assert LINKS.seconds(Call("all_reduce", 0, 5), 2) == pytest.approx(5e-4)


def test_measured_sizes_are_read_between_and_beyond_points():
    links = Links(processes=2, backend="gloo", points={"all_reduce": [(0, 1.0), (100, 2.0), (200, 6.0)]}, memory=1.0)
    assert [links.seconds(Call("all_reduce", size, 1), 2) for size in (0, 50, 100, 150, 400)] == pytest.approx([1, 1.5, 2, 4, 11])


def test_processes_wait_for_the_slowest():
    """Where micro-batches take 1 or 3 s: two processes take 3 in most updates; ZeRO 2 waits after each micro-batch, 1 after all."""
    micro, free = [1.0, 3.0, 3.0], Links.of_rates(1e30, 0)
    assert simulate(TINY, Setup(processes=64), free, micro).compute == 3
    assert simulate(TINY, Setup(processes=64, stage=2, update_freq=3), free, micro).compute == 9
    assert simulate(TINY, Setup(processes=3, stage=1, update_freq=9), free, micro).compute < 27
    assert simulate(TINY, Setup(processes=64, stage=2, update_freq=3), free, [2.0]).compute == 6


def test_only_zero_divides_the_optimizer_and_only_gpus_hide_communication():
    setup = [Setup(processes=4, stage=stage) for stage in range(4)]
    assert [simulate(TINY, s, LINKS, [1.0], optimizer=1.0).optimizer for s in setup] == [1, 0.25, 0.25, 0.25]
    hidden, shown = (simulate(LARGE, Setup(processes=2), links, [10.0]).network for links in (LINKS, GLOO))
    assert hidden == pytest.approx(COUNTS[0] * 1e-4)
    assert shown == pytest.approx(4 * sum(LARGE) / 1e9 + (1 + COUNTS[0]) * 1e-4)


def test_links_of_a_file_serve_as_many_processes_as_were_measured(tmp_path):
    import argparse
    import json

    for n in (8, 16):
        links = Links(processes=n, backend="nccl", points=LINKS.points, memory=float(n))
        (tmp_path / f"{n}.json").write_text(json.dumps(asdict(links)))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    machine = machine_of(parser.parse_args(["--links", str(tmp_path / "8.json"), str(tmp_path / "16.json")]))
    assert [machine.links(n).memory for n in (1, 8, 9, 512)] == [8, 8, 16, 16]


def test_parts_of_real_updates_are_timed(qm9_store, tmp_path):
    words = [str(qm9_store.path), "--user-dir", "moleblend_fs", "--task", "moleblend", "--criterion", "blend_then_predict"]
    words += ["--arch", "moleblend_tiny", "--batch-size", "4", "--lr", "1e-4", "--optimizer", "adam", "--max-update", "14", "--cpu"]
    words += ["--update-freq", "2", "--save-dir", str(tmp_path / "save"), "--no-save", "--disable-validation", "--num-workers", "0"]
    step = timing.finish(timing.start(tmp_path / "step.json", words, 1, 1), tmp_path / "step.json")
    assert step.sizes == TINY
    assert (step.stage, step.half, step.processes, step.batch) == (0, False, 1, 4)
    assert len(step.whole) == len(step.optimizer) == len(step.rest) == 2  # a quarter of the 8 that count
    assert len(step.micro) == 4
    assert sum(step.micro) + sum(step.optimizer) + sum(step.rest) == pytest.approx(sum(step.whole))
    assert 0 < statistics.median(step.optimizer) < statistics.median(step.whole)
