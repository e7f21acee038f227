"""Files of moments: written and read by other numbers of processes, missing, damaged, left over."""

import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from moleblend_fs.checkpoint import write, zero_moments
from moleblend_fs.checkpoint.adam_state import MOMENTS
from moleblend_fs.checkpoint.zero_moments import FOLDER, Piece
from moleblend_fs.errors import UserError
from moleblend_fs.runtime import stop_signals
from tests.distributed.conftest import needs_deepspeed
from tests.distributed.training import ADAM, launch, run, zero

TAG = "00000007-5f3a9c"
SHAPES = {"a": torch.Size((2, 3)), "b": torch.Size((5,)), "c": torch.Size((1,))}
WHOLE = {key: {name: torch.rand(shape) for name, shape in SHAPES.items()} for key in MOMENTS}


def written(save_dir, cuts: list[dict[str, tuple[int, int]]]) -> dict:
    """A folder of as many files as `cuts`, which say what part of each parameter a file has; and what names it."""
    folder = save_dir / FOLDER / TAG
    folder.mkdir(parents=True)
    for rank, cut in enumerate(cuts):
        pieces = {
            name: {"start": start, **{key: WHOLE[key][name].flatten()[start:stop] for key in MOMENTS}}
            for name, (start, stop) in cut.items()
        }
        write.save_torch_file(pieces, folder / zero_moments.file_name(rank, len(cuts)))
    return {"shards": TAG, "ranks": len(cuts), "step": 7, "options": {"lr": 0.1}, "loss_scale": 64.0}


TWO = [{"a": (0, 6), "b": (0, 1)}, {"b": (1, 5), "c": (0, 1)}]
SPREAD = [{"a": (0, 2), "b": (0, 2)}, {"a": (2, 4), "b": (2, 4)}, {"a": (4, 6), "b": (4, 5), "c": (0, 1)}]


@pytest.mark.parametrize("cuts", [TWO, SPREAD, [{"a": (0, 6), "b": (0, 5), "c": (0, 1)}]])
def test_any_piece_of_any_cut(tmp_path, cuts):
    found = zero_moments.read(str(tmp_path / "checkpoint_last.pt"), written(tmp_path, cuts), SHAPES)
    for key in MOMENTS:
        for name, whole in WHOLE[key].items():
            flat = whole.flatten()
            for start in range(len(flat)):
                for stop in range(start, len(flat) + 1):
                    assert torch.equal(found.piece(key, name, start, stop - start), flat[start:stop])
    state = found.whole(SHAPES)
    assert all(torch.equal(state.moments[key][name], WHOLE[key][name]) for key in MOMENTS for name in SHAPES)
    assert set(state.step.values()) == {7}
    assert (state.options, state.loss_scale) == ({"lr": 0.1}, 64.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shards": "../elsewhere"}, "damaged .its optimizer's state is in '../elsewhere'"),
        ({"shards": [TAG]}, "damaged"),
        ({"ranks": "2"}, "damaged"),
        ({"a": {"start": -1, **dict.fromkeys(MOMENTS, torch.zeros(6))}}, "0-of-2.pt: a: begins at -1"),
        ({"a": {"start": 0, MOMENTS[0]: torch.zeros(6), MOMENTS[1]: torch.zeros(5)}}, "0-of-2.pt: a: not a part of Adam's moments"),
        ({"a": {"start": 0, **dict.fromkeys(MOMENTS, torch.zeros(2, 3))}}, "0-of-2.pt: a: not a part of Adam's moments"),
        ({"a": {"start": 0, **dict.fromkeys(MOMENTS, 0.5)}}, "0-of-2.pt: a: not a part of Adam's moments"),
        ({"a": 3}, "0-of-2.pt: a: not a part of Adam's moments"),
    ],
)
def test_contents_that_are_something_else_are_told(tmp_path, change, message):
    named = written(tmp_path, TWO)
    if "a" in change:
        path = tmp_path / FOLDER / TAG / "0-of-2.pt"
        write.save_torch_file({**torch.load(path, weights_only=True), **change}, path)
    with pytest.raises(UserError, match=message):
        zero_moments.read(str(tmp_path / "checkpoint_last.pt"), {**named, **(change if "a" not in change else {})}, SHAPES)


GAPS = {
    "a hole": [{"a": (0, 2), "b": (0, 5), "c": (0, 1)}, {"a": (3, 6)}],
    "a late beginning": [{"a": (1, 6), "b": (0, 5), "c": (0, 1)}],
    "an early end": [{"a": (0, 6), "b": (0, 4), "c": (0, 1)}],
}


@pytest.mark.parametrize("cuts", GAPS.values(), ids=GAPS)
def test_parts_that_do_not_make_a_whole_are_refused(tmp_path, cuts):
    """A file of another save under the right name: its parts would leave moments at 0."""
    named = written(tmp_path, cuts)
    with pytest.raises(UserError, match="moments of other parameters than this model's"):
        zero_moments.read(str(tmp_path / "checkpoint_last.pt"), named, SHAPES)


def test_files_that_are_not_there_and_parameters_that_are_others(tmp_path):
    named = written(tmp_path, TWO)
    last = tmp_path / FOLDER / TAG / "1-of-2.pt"
    checkpoint = str(tmp_path / "checkpoint_last.pt")
    with pytest.raises(UserError, match="other parameters"):
        zero_moments.read(checkpoint, named, {**SHAPES, "d": torch.Size((1,))})
    with pytest.raises(UserError, match="other parameters"):
        zero_moments.read(checkpoint, named, {**SHAPES, "b": torch.Size((6,))})
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"1-of-2.pt.*copy the folder along"):
        zero_moments.read(checkpoint, named, SHAPES)
    last.unlink()
    with pytest.raises(UserError, match=r"1-of-2.pt: no such checkpoint.*--reset-optimizer"):
        zero_moments.read(checkpoint, named, SHAPES)


def test_only_what_no_checkpoint_names_is_removed(tmp_path):
    named = written(tmp_path, TWO)
    left_over = tmp_path / FOLDER / "00000001-aaaaaa"
    left_over.mkdir()
    write.save_torch_file({"last_optimizer_state": named}, tmp_path / "checkpoint_best.pt")
    (tmp_path / "other.pt").write_bytes(b"not a checkpoint")
    zero_moments.remove_unnamed(str(tmp_path))
    assert left_over.exists(), "one checkpoint cannot be read: it might name any folder"
    (tmp_path / "other.pt").unlink()
    zero_moments.remove_unnamed(str(tmp_path))
    assert not left_over.exists()
    assert (tmp_path / FOLDER / TAG).exists()
    (tmp_path / "checkpoint_best.pt").unlink()
    zero_moments.remove_unnamed(str(tmp_path))
    assert not (tmp_path / FOLDER / TAG).exists()


def bytes_read() -> int:
    """By this process so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_folders_are_named_without_reading_weights(tmp_path):
    """Of every checkpoint that is kept, at each save: 16 MiB here. What names the folder is compared with its checksum."""
    path = tmp_path / "checkpoint_last.pt"
    write.save_torch_file({"model": {"x": torch.rand(2**22)}, "last_optimizer_state": {"shards": TAG}}, path)
    before = bytes_read()
    assert zero_moments.named_folder(path) == TAG
    assert bytes_read() - before < 2**20
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert zero_moments.named_folder(path) == TAG
    content[content.index(TAG.encode())] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        zero_moments.named_folder(path)


def test_nothing_of_the_users_is_removed(tmp_path, caplog):
    """Folders of other names, with anything else in them, of links; and those of checkpoints that were renamed or put aside."""
    caplog.set_level("INFO")
    mine = tmp_path / FOLDER
    torch_file = tmp_path / "elsewhere" / "weights.pt"
    torch_file.parent.mkdir()
    write.save_torch_file({}, torch_file)
    kept = {
        "anything/notes.txt": b"notes",
        "00000001-aaaaaa/notes.txt": b"notes",
        "00000002-bbbbbb/0-of-1.pt": b"text under our name",
        "00000003-cccccc/0-of-1.pt": torch_file.read_bytes(),
        "00000003-cccccc/more/0-of-1.pt": torch_file.read_bytes(),
        "20260101-120000.bak/0-of-1.pt": torch_file.read_bytes(),
        "notes.txt": b"notes",
    }
    for name, content in kept.items():
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_bytes(content)
    (mine / "00000004-dddddd").symlink_to(torch_file.parent)
    ours = ["00000005-eeeeee", "00000006-ffffff", "00000007-abcdef"]
    for name in ours:
        (mine / name).mkdir()
        write.save_torch_file({}, mine / name / "0-of-1.pt")
    write.save_torch_file({"last_optimizer_state": {"shards": ours[1]}}, tmp_path / "checkpoint_last.pt.bak")
    (tmp_path / "aside").mkdir()
    write.save_torch_file({"last_optimizer_state": {"shards": ours[2]}}, tmp_path / "aside" / "checkpoint_best.pt")
    assert zero_moments.remove_unnamed(str(tmp_path)) == [mine / ours[0]]
    assert not (mine / ours[0]).exists()
    assert {name: (mine / name).read_bytes() for name in kept} == kept
    assert (mine / "00000004-dddddd" / "weights.pt").exists()
    assert all((mine / name / "0-of-1.pt").exists() for name in ours[1:])
    assert [str(mine / ours[0]) in record.getMessage() for record in caplog.records] == [True]


def test_only_our_own_unfinished_files_are_removed(tmp_path, caplog):
    users = ["thesis.unfinished", "checkpoint_best.pt.unfinished", "checkpoint_last.pt.0123abcd.unfinished", "x.pt.0123abcd.unfinished"]
    for name in users[:3]:
        (tmp_path / name).write_text("mine")
    (tmp_path / users[3]).mkdir()
    with write.whole_or_absent(tmp_path / "checkpoint_last.pt") as temporary:
        torch.save({"a": 1}, temporary)
        killed, content = temporary, temporary.read_bytes()
    (tmp_path / "checkpoint_last.pt").unlink()
    killed.write_bytes(content[:-20])  # what a kill in the middle leaves
    assert write.remove_unfinished(tmp_path) == [killed]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(users)
    assert str(killed) in caplog.text


def test_a_file_named_as_the_word_of_a_stop_is_not_touched(tmp_path):
    stop_signals.mark(str(tmp_path), 3)
    stop_signals.check_marker(str(tmp_path))
    stop_signals.unmark(str(tmp_path))
    users = tmp_path / stop_signals.MARKER
    assert not users.exists()
    users.write_text("my list of those who were preempted")
    stop_signals.unmark(str(tmp_path))
    assert users.exists()
    with pytest.raises(UserError, match="preempted was not left by training"):
        stop_signals.check_marker(str(tmp_path))


def test_one_process_writes_for_itself(tmp_path):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        pieces = {name: Piece(0, {key: WHOLE[key][name].flatten() for key in MOMENTS}) for name in SHAPES}
        named = zero_moments.write(str(tmp_path), 12, pieces)
        (tmp_path / FOLDER).rename(tmp_path / "kept")
        (tmp_path / FOLDER).write_text("a file where the folder should be")
        with pytest.raises(UserError, match="process 0"):
            zero_moments.write(str(tmp_path), 13, pieces)
    finally:
        dist.destroy_process_group()
    assert named["shards"].startswith("00000012-")
    assert [path.name for path in (tmp_path / "kept" / named["shards"]).iterdir()] == ["0-of-1.pt"]


@pytest.mark.slow
@needs_deepspeed
def test_a_run_keeps_one_folder_for_each_state(store, tmp_path):
    """Three checkpoints are kept, of two updates; another process count reads them; without the files the run says what to do."""
    saves = ("--save-interval-updates", "1", "--keep-interval-updates", "2")
    run(store, tmp_path, *zero(2), *saves, "--max-update", "4")
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["checkpoint_1_3.pt", "checkpoint_1_4.pt", "checkpoint_last.pt"]
    folders = sorted(path.name for path in (tmp_path / FOLDER).iterdir())
    assert [name.split("-")[0] for name in folders][-2:] == ["00000003", "00000004"]
    assert len(folders) <= 3, "at most one more, until the next save"
    assert sorted(path.name for path in (tmp_path / FOLDER / folders[-1]).iterdir()) == ["0-of-2.pt", "1-of-2.pt"]

    run(store, tmp_path, *ADAM, *saves, "--max-update", "8", ranks=1)
    assert list((tmp_path / FOLDER).iterdir()) == [], "plain Adam writes one file, and the others are named no more"

    run(store, tmp_path, *zero(3), "--max-update", "9")
    shutil.rmtree(tmp_path / FOLDER)
    ranks = launch(store, tmp_path, *zero(3), "--max-update", "10")
    try:
        assert ranks.wait(120) == [2, 2], ranks.output()[-3000:]
    finally:
        ranks.kill()
    assert "copy the folder along with the checkpoint, or start with --reset-optimizer" in ranks.output()
