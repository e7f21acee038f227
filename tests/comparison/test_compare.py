"""`moleblend compare`: what it says of tables and run folders, what it refuses, and its page in a browser."""

import csv
import json
import re

import numpy as np
import pytest

from moleblend_fs.cli.main import main
from moleblend_fs.comparison import significance
from moleblend_fs.comparison.analysis import BETTER, OPEN, SAME, SMALL, Choices, compare, overall, parse_thresholds
from moleblend_fs.comparison.pictures import joined
from moleblend_fs.comparison.read import read
from moleblend_fs.comparison.tables import ScoreTable, tables
from moleblend_fs.errors import UserError
from tests.report.layout import CHROMIUM, measured

METHODS = {"forest": 0.3, "ours": 0.0, "a method whose name goes on and on and on until no picture has room for it": 0.003, "mean": 1.0}


def scores_csv(path, sets=("esol", "freesolv", "bbbp"), repeats=5, folds=2, extra="", cells=""):
    """Scores with noise that the methods of a split share, and less of their own."""
    generator = np.random.default_rng(0)
    lines = [f"Method,dataset,repeat,fold,metric,value{extra}"]
    for name in sets:
        for repeat in range(repeats):
            for fold in range(folds):
                shared = 0.1 * generator.standard_normal()
                for method, offset in METHODS.items():
                    value = 0.8 + shared + offset + 0.01 * generator.standard_normal()
                    metric, value = ("ROC-AUC", 0.9 - value / 3) if name == "bbbp" else ("RMSE", value)
                    lines.append(f"{method},{name},{repeat},{fold},{metric},{value:.6f}{cells}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_table_of_scores(tmp_path, capsys):
    path = scores_csv(tmp_path / "scores.csv")
    assert main(["compare", str(path), "--csv", str(tmp_path / "pairs.csv"), "--html", str(tmp_path / "x.html")]) == 0
    said = capsys.readouterr().out
    with (tmp_path / "pairs.csv").open(newline="") as stream:
        pairs = list(csv.DictReader(stream))
    assert len(pairs) == 3 * 6
    with path.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["dataset"] == "esol"]
    forest, ours = (np.array([float(row["value"]) for row in rows if row["Method"] == name]) for name in ("forest", "ours"))
    pair = next(p for p in pairs if (p["dataset"], p["first"], p["second"]) == ("esol", "forest", "ours"))
    assert float(pair["difference"]) == pytest.approx((forest - ours).mean(), rel=1e-6)
    assert [float(pair[name]) for name in ("low", "high")] == pytest.approx(significance.paired_interval(forest - ours), rel=1e-6)
    assert (pair["verdict"], pair["better"], pair["splits"]) == (BETTER, "ours", "10")
    assert {p["better"] for p in pairs if p["dataset"] == "bbbp" and p["second"] == "mean"} == set(METHODS) - {"mean"}, "more is better"
    assert "Mean ranks over 3 data sets" in said
    assert said.count("compared with it") == 3
    assert "Intervals take splits for independent" in said
    page = (tmp_path / "x.html").read_text()
    assert page.count("<svg") == 3 * 2 + 1
    assert "<script" not in page
    assert "http" not in page.partition("</style>")[2]


def test_sizes_widen_the_intervals(tmp_path, capsys):
    path = scores_csv(tmp_path / "scores.csv", extra=",n_train,n_test", cells=",800,200")
    [table, *_], _ = tables(read([str(path)]))
    assert table.test_over_train == 0.25
    wide, narrow = (compare(table, Choices(correct_overlap=each)) for each in (True, False))
    assert (wide.overlap, narrow.overlap) == (0.25, 0)
    for a, b in zip(wide.pairs, narrow.pairs, strict=True):
        assert (a.high - a.low) / (b.high - b.low) == pytest.approx(np.sqrt(10 * (1 / 10 + 0.25)))
        assert a.p >= b.p
    assert wide.omnibus.statistic == pytest.approx(narrow.omnibus.statistic / 3.5)
    assert main(["compare", str(path)]) == 0
    assert "Intervals allow for splits that overlap (test molecules / training molecules = 0.25)" in capsys.readouterr().out


def test_costs_stand_beside_the_scores(tmp_path, capsys):
    """Means over the runs that tell them; a method that tells none has a dash, and without any there is no column."""
    lines = ["method,split,metric,value,seconds,memory_mb"]
    lines += [f"{method},{split},rmse,{split + off},{cost}" for split in range(3) for method, off, cost in
              (("a", 0.0, f"{10 * split},"), ("b", 0.1, f"{'' if split else 7.5},"), ("c", 0.3, ","))]  # fmt: skip
    path = tmp_path / "scores.csv"
    path.write_text("\n".join(lines) + "\n")
    [table], _ = tables(read([str(path)]))
    assert list(table.costs) == ["seconds"]
    assert table.costs["seconds"].tolist() == pytest.approx([10.0, 7.5, float("nan")], nan_ok=True)
    assert main(["compare", str(path), "--html", str(tmp_path / "x.html")]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "±" in line][1:]
    assert [(row[0], row[-1]) for row in rows] == [("a", "10"), ("b", "7.5"), ("c", "-")]
    assert "training, s" in (tmp_path / "x.html").read_text()
    path.write_text(path.read_text().replace("a,2,rmse,2.0,20", "a,2,rmse,2.0,-1"))
    with pytest.raises(UserError, match="line 8: seconds '-1' is no cost: give a number from 0 on"):
        read([str(path)])


def test_predictions_are_scored(tmp_path):
    """RMSE of each split by hand; seeds are averaged, targets too."""
    lines = ["model;fold;seed;id;target;y_true;y_pred"]
    for fold in range(3):
        for seed in range(2):
            for method, error in (("a", 0.1), ("b", 0.2)):
                for molecule in range(4):
                    for target, factor in (("x", 1), ("y", 3)):
                        off = (error + 0.1 * fold + 0.01 * seed) * factor * (-1) ** molecule
                        lines.append(f"{method};{fold};{seed};m{molecule};{target};{molecule};{molecule + off}")
    (tmp_path / "p.csv").write_text("\n".join(lines))
    [table], _ = tables(read([str(tmp_path / "p.csv")]))
    assert (table.methods, table.splits, table.metric, table.seeds) == (("a", "b"), ("0", "1", "2"), "rmse", 2)
    expected = [[2 * (error + 0.1 * fold + 0.005) for error in (0.1, 0.2)] for fold in range(3)]
    assert table.values == pytest.approx(np.array(expected))


def test_classes_are_scored_by_roc_auc(tmp_path):
    lines = ["method,split,row,label,prediction"]
    for split in range(2):
        for method in "ab":
            for row, (label, p) in enumerate([(0, 0.1), (0, 0.6), (1, 0.5 if method == "a" else 0.7), (1, 1.0)]):
                lines.append(f"{method},{split},{row},{label},{p}")
    (tmp_path / "p.csv").write_text("\n".join(lines))
    [table], _ = tables(read([str(tmp_path / "p.csv")]))
    assert table.metric == "roc_auc"
    assert table.values.tolist() == [[0.75, 1.0]] * 2


def table_of(values, metric="rmse", higher=False):
    values = np.array(values, dtype=float)
    names = tuple("abcdefgh"[: values.shape[1]])
    return ScoreTable(
        dataset="x",
        metric=metric,
        unit="",
        higher_is_better=higher,
        methods=names,
        splits=tuple(map(str, range(len(values)))),
        values=values,
    )


def test_verdicts():
    """b is worse than a by 0.5 %, c by 10 %, d anything; e is a but for noise far below what matters."""
    generator = np.random.default_rng(1)
    base = 1 + 0.1 * generator.standard_normal(20)
    noise = 1e-4 * generator.standard_normal((20, 2))
    found = compare(table_of(np.stack([base, base + 0.005, base + 0.1, base + noise[:, 0]], axis=1) + noise[:, :1]), Choices(test="anova"))
    assert [(pair.verdict, pair.winner) for pair in found.pairs if pair.first == 0] == [(SMALL, 0), (BETTER, 0), (SAME, None)]
    loose = compare(table_of(np.stack([base, base + 0.3 * generator.standard_normal(20)], axis=1)), Choices())
    assert (loose.pairs[0].verdict, loose.pairs[0].winner) == (OPEN, None)
    strict = compare(table_of(np.stack([base, base + 0.005 + noise[:, 0]], axis=1)), Choices(thresholds=parse_thresholds(["0.001"])))
    assert strict.pairs[0].verdict == BETTER


@pytest.mark.parametrize("test", ["auto", "friedman"])
def test_of_ranks_none_is_better_whose_mean_is_worse(test):
    """a is better by a little on eleven splits of twelve, and fails on one: by ranks it is better beyond doubt, by its mean worse."""
    generator = np.random.default_rng(3)
    first, second = 0.5 + 0.01 * generator.standard_normal(12), 0.51 + 0.01 * generator.standard_normal(12)
    first[:11], first[11], second[11] = np.minimum(first[:11], second[:11] - 0.005), 1.5, 0.5
    (pair,) = compare(table_of(np.stack([first, second], axis=1)), Choices(test=test)).pairs
    assert pair.p < 0.05
    assert (pair.verdict, pair.winner) == (OPEN, None)
    (pair,) = compare(table_of(np.stack([first, second], axis=1)[:11]), Choices(test="friedman")).pairs
    assert pair.winner == 0
    three = np.stack([first, second, second + 0.2], axis=1)
    pairs = {(pair.first, pair.second): pair for pair in compare(table_of(three), Choices(test="friedman")).pairs}
    assert pairs[0, 1].winner is None
    assert pairs[1, 2].winner == 1


def test_which_test_is_chosen():
    generator = np.random.default_rng(2)
    even = generator.standard_normal((10, 3))
    assert compare(table_of(even), Choices()).post_hoc == "Tukey's HSD"
    uneven = even * [1, 1, 4]
    assert compare(table_of(uneven), Choices()).omnibus.name == "Friedman's test"
    outlier = even + np.where(np.arange(30).reshape(10, 3) == 4, 40, 0)
    assert compare(table_of(outlier), Choices()).omnibus.name == "Friedman's test"
    assert compare(table_of(outlier), Choices(test="anova")).why == "asked for"
    assert compare(table_of(even), Choices(test="friedman")).pairs[0].p == pytest.approx(
        significance.holm(significance.conover_p(even)[np.triu_indices(3, 1)])[0]
    )


def test_thresholds():
    assert parse_thresholds(["2%", "ROC-AUC=0.01", "rmse=5%"]) == {"": (0.02, True), "roc_auc": (0.01, False), "rmse": (0.05, True)}
    for wrong in ("x", "-1", "rmse=", "=1", "nan", "rmse=inf"):
        with pytest.raises(UserError, match="--threshold"):
            parse_thresholds([wrong])
    assert compare(table_of([[0.5, 0.7]]), Choices()).threshold == pytest.approx(0.01)
    assert compare(table_of([[0.5, 0.7]], "roc_auc", True), Choices()).threshold == 0.005
    assert compare(table_of([[50, 70]], "roc_auc", True), Choices()).threshold == 0.5
    assert compare(table_of([[-1.7, 0.7]], "r2", True), Choices()).threshold == 0.005


def test_ranks_over_data_sets(tmp_path):
    found, _ = tables(read([str(scores_csv(tmp_path / "s.csv"))]))
    ranks = overall([compare(table, Choices()) for table in found])
    assert dict(zip(ranks.methods, ranks.mean_ranks, strict=True))["mean"] == 4
    assert dict(zip(ranks.methods, ranks.mean_ranks, strict=True))["forest"] == 3
    assert ranks.distance == pytest.approx(significance.nemenyi_distance(4, 3))


def test_pairs_with_tabs_and_outputs_of_one_name(tmp_path, capsys):
    path = scores_csv(tmp_path / "s.csv", repeats=1, folds=2)
    assert main(["compare", str(path), "--csv", str(tmp_path / "pairs.tsv")]) == 0
    with (tmp_path / "pairs.tsv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream, delimiter="\t", strict=True))) == 3 * 6
    assert main(["compare", str(path), "--csv", str(tmp_path / "x"), "--html", f"{tmp_path}/./x"]) == 2
    assert "is to be written twice" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_one_split_gives_no_interval(tmp_path, capsys):
    path = scores_csv(tmp_path / "s.csv", repeats=1, folds=1)
    assert main(["compare", str(path), "--csv", str(tmp_path / "pairs.csv"), "--html", str(tmp_path / "x.html")]) == 0
    assert capsys.readouterr().out.count("One split only: no interval and no test can be given") == 3
    with (tmp_path / "pairs.csv").open(newline="") as stream:
        assert {(row["low"], row["p_adjusted"], row["verdict"], row["better"]) for row in csv.DictReader(stream)} == {
            ("", "", "no interval", "")
        }


def test_bars_join_what_is_not_told_apart():
    apart = np.zeros((4, 4), dtype=bool)
    apart[0, 3] = apart[3, 0] = apart[0, 2] = apart[2, 0] = True
    assert joined(apart) == [(0, 1), (1, 3)]
    assert joined(~np.eye(3, dtype=bool)) == []
    assert joined(np.zeros((3, 3), dtype=bool)) == [(0, 2)]


def run_folder(path, *, rows=range(8, 12), labels=None, unit="log mol/l", digest="sha256:aa", train=8, error=0.1, kind="regression"):
    """A finished run of two folds, as `moleblend finetune` leaves it."""
    path.mkdir()
    labels = labels or {row: row % 2 for row in rows}
    (path / "model.json").write_text(json.dumps({"data": {"esol.csv": digest}}))
    folds = {f"fold{k}": {"train": list(range(train - k)), "valid": [20], "test": list(rows)} for k in range(2)}
    (path / "splits.json").write_text(json.dumps({"folds": folds}))
    (path / "metrics.json").write_text(json.dumps({"kind": kind, "targets": {"logS": {"kind": kind, "unit": unit}}}))
    lines = ["smiles,logS,row,logS (predicted),row (moleblend),fold,split,status"]
    for k in range(2):
        lines += [f"C,{labels[row]},theirs,{labels[row] + error * (1 + k) * (-1) ** row},{row},fold{k},test,ok" for row in rows]
    (path / "predictions_test.csv").write_text("\n".join(lines) + "\n")
    return path


def test_run_folders(tmp_path):
    """Scores of their test molecules, fold by fold; a column of the user's called row is not ours."""
    paths = [run_folder(tmp_path / "a"), run_folder(tmp_path / "b", error=0.3)]
    lines = read([str(paths[0]), f"other={paths[1]}"])
    [table], _ = tables(lines)
    assert (table.methods, table.unit, table.metric) == (("a", "other"), "log mol/l", "rmse")
    assert table.dataset == "esol.csv (aa): logS"
    assert table.values == pytest.approx(np.array([[0.1, 0.3], [0.2, 0.6]]))
    assert table.test_over_train == pytest.approx((4 / 8 + 4 / 7) / 2)
    assert {line.metric for line in lines} == {"mae", "rmse", "r2"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": range(8, 13)}, "other test molecules or labels"),
        ({"labels": dict.fromkeys(range(8, 12), 0.5)}, "other test molecules or labels"),
        ({"train": 7}, "split in another way"),
        ({"unit": "g/l"}, "units of log mol/l and g/l"),
        ({"digest": "sha256:bb"}, "nothing can be compared"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, capsys, change, message):
    run_folder(tmp_path / "a")
    run_folder(tmp_path / "b", **change)
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert all(str(tmp_path / name) in said for name in "ab"), "both are named"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method,fold,metric,value\na,0,rmse,1\nb,0,rmse,2\na,1,rmse,1\n", "different splits; of 2 splits these lack: 'b' on 1"),
        ("method,fold,metric,value\na,0,rmse,1\na,0,rmse,2\nb,0,rmse,1\n", "two scores of 'a' .*line 2.*line 3"),
        ("method,fold,metric,value\na,0,rmse,1\nb,0,rmse,nan\n", "line 3: value 'nan' is not a finite number"),
        ("method,fold,metric,value\na,0,rmse,1\nb,0,rmse\n", "line 3: 3 cells, but the header has 4"),
        ("method,fold,metric,value\na,0,skill,1\nb,0,skill,2\n", "say --higher skill or --lower skill"),
        ("method,fold,metric,value\na,0,mae,1\nb,0,mae,1\na,0,r2,1\nb,0,r2,1\n", "several scores .mae, r2.; choose one with --metric"),
        ("method,fold,metric,value,unit\na,0,mae,1,eV\nb,0,mae,1,meV\n", "units of eV and meV"),
        ("method,fold,metric,value,n_test\na,0,mae,1,10\nb,0,mae,1,11\n", "10 and 11 test molecules"),
        ("method,fold,metric,value,split_hash\na,0,mae,1,p\nb,0,mae,1,q\n", "split in another way"),
        ("method,fold,id,label,prediction\na,0,x,1,1\na,0,y,2,2\nb,0,x,1,1\nb,0,z,2,2\n", "other test molecules or labels"),
        ("method,fold,id,label,prediction\na,0,x,1,1\na,0,x,2,2\nb,0,x,1,1\n", "line 3: molecule 'x' twice"),
        ("method,fold,id,label,prediction\na,0,x,1,\nb,0,x,1,1\n", "line 2: prediction '' is not a finite number"),
        ("method,metric,value\na,rmse,1\n", "and one of split, repeat, fold"),
        ("fold,metric,value\n0,rmse,1\n", "lacks method for scores"),
        ("method,fold,metric,value\n", "a header and no rows"),
        ("method,fold,metric,value\na,0,rmse,1\n", "nothing can be compared.*only 'a' was run on it"),
    ],
)
def test_bad_tables_are_told(tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(UserError, match=f"(?s){message}"):
        tables(read([str(tmp_path / "x.csv")]))


def test_the_order_of_rows_and_targets_does_not_matter(tmp_path):
    """Two methods that list their targets in different orders were said to have other labels."""
    rows = [f"0,{molecule},{target},{label}" for molecule, target, label in (("x", "t", 1), ("x", "u", 5), ("y", "t", 2), ("y", "u", 7))]
    lines = [f"a,{row},1" for row in rows] + [f"b,{row},2" for row in reversed(rows)]
    (tmp_path / "x.csv").write_text("method,fold,id,target,label,prediction\n" + "\n".join(lines))
    [table], _ = tables(read([str(tmp_path / "x.csv")]))
    rmse = [np.mean([np.sqrt(np.mean(np.square([1 - p, 2 - p]))), np.sqrt(np.mean(np.square([5 - p, 7 - p])))]) for p in (1, 2)]
    assert table.values[0].tolist() == pytest.approx(rmse)


def test_runs_of_one_name_are_to_be_told_apart(tmp_path, capsys):
    """Two folders called `run` were one method, which there was nothing to compare with."""
    for name in "ab":
        (tmp_path / name).mkdir()
        run_folder(tmp_path / name / "run")
    assert main(["compare", str(tmp_path / "a" / "run"), str(tmp_path / "b" / "run")]) == 2
    assert "two scores of 'run'" in (said := capsys.readouterr().err)
    assert "NAME=PATH" in said


def test_bad_words_are_told(tmp_path, capsys):
    path = str(scores_csv(tmp_path / "s.csv"))
    for words, message in (
        (["--reference", "none"], "no such method; there are"),
        (["--metric", "mae"], "no 'mae' among its scores"),
        (["--html", path], "would overwrite what is read"),
        (["--higher", "x", "--lower", "X"], "--higher and --lower"),
    ):
        assert main(["compare", path, *words]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed (apt-get install chromium)")
@pytest.mark.parametrize("test", ["anova", "friedman"])
def test_it_lies_well_at_all_widths(tmp_path, test):
    path = scores_csv(
        tmp_path / "s.csv", sets=("esol", "a data set whose name goes on and on until no cell of a table has any room for it")
    )
    assert main(["compare", str(path), "--test", test, "--html", str(tmp_path / "x.html")]) == 0
    for found in measured((tmp_path / "x.html").read_text(), tmp_path):
        assert found["faults"] == [], found["width"]
        assert found["counts"]["pictures"] == {"anova": 5, "friedman": 3}[test]
        assert found["counts"]["texts"] >= 3 * 6


@pytest.mark.parametrize("named_by", ["row", "compound"])
def test_a_run_beside_a_table_of_predictions_of_its_test_molecules(tmp_path, named_by):
    """Known again by their rows or by any column of the input, and by their labels, in any order."""
    run = run_folder(tmp_path / "ours")
    table = run / "predictions_test.csv"
    table.write_text(
        re.sub(r"^C,(.*),([0-9]+),fold", r"mol\2,\1,\2,fold", table.read_text().replace("smiles", "compound", 1), flags=re.MULTILINE)
    )
    lines = [f"id,split,label,prediction{',unit' if named_by == 'row' else ''}"]
    for fold in range(2):
        for row in (10, 8, 11, 9):
            name = row if named_by == "row" else f"mol{row}"
            lines.append(f"{name},fold{fold},{row % 2},{row % 2 + 0.5}{',log mol/l' if named_by == 'row' else ''}")
    (tmp_path / "theirs.csv").write_text("\n".join(lines))
    given = [f"theirs={tmp_path / 'theirs.csv'}", str(run)]
    [found], notes = tables(read(given))
    assert (found.dataset, found.methods, found.splits, found.unit, notes) == (
        "theirs",
        ("theirs", "ours"),
        ("fold0", "fold1"),
        "log mol/l",
        [],
    )
    assert found.values == pytest.approx(np.array([[0.5, 0.1], [0.5, 0.2]]))
    (tmp_path / "theirs.csv").write_text("\n".join(lines).replace(",fold1,1,", ",fold1,1.01,"))
    with pytest.raises(UserError, match="nothing can be compared"):
        tables(read(given))
