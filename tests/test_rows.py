"""A row of a table is a variant, with what needs no training beside it; damaged run folders end in one sentence."""
import json, re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from fesgan.evaluation.statistics import summary
from fesgan.files import FesganError
from fesgan.reporting import study, tables

TARGETS = ("afraid", "happy", "sad")
ROOT = Path(__file__).parents[1]


def made_up(people=12, distance=.3, psnr=29., right=.5, seed=0):
    "Edits with made-up numbers."
    rng = np.random.default_rng(seed)
    e = pd.DataFrame([dict(row=i, subject=f"p{i}", source="neutral", target=t, found=True) for i in range(people) for t in TARGETS])
    e["distance"], e["psnr"], e["lpips"] = distance+rng.normal(0, .01, len(e)), psnr+rng.normal(0, .1, len(e)), .1+rng.normal(0, .01, len(e))
    for j in ("judge", "second", "fer"): e[f"correct.{j}"] = (rng.random(len(e)) < right).astype(int)
    return e.assign(correct=(e["correct.judge"]+e["correct.second"])/2, jury=e["correct.fer"])


def make_run(group, variant, seed=0, label="SARGAN", distance=.3, psnr=29., right=.5, people=12, references=True, **fields):
    "A run folder as the study lays it out."
    folder = Path(group)/variant/f"seed{seed}"
    folder.mkdir(parents=True)
    (folder/"params.yaml").write_text(yaml.safe_dump(dict(label=label, system="sargan", seed=seed, steps=100, l_cyc=10.) | fields))
    edits = made_up(people, distance, psnr, right, seed)
    edits.to_csv(folder/"edits.csv", index=False)
    if references:
        still, true = made_up(people, 0, 30., 1/7, 5).assign(method="unchanged", distance=0.), made_up(people, .331, np.nan, .9, 6).assign(method="true face", lpips=np.nan)
        pd.concat([still, true]).to_csv(folder/"references.csv", index=False)
    metrics = dict(acd=summary(edits.distance.to_numpy(), groups=edits.subject.to_numpy()), parameters=dict(mean=10.))
    (folder/"metrics.json").write_text(json.dumps(dict(label=label, n_edits=len(edits), metrics=metrics)))
    return folder


# --- rows ---------------------------------------------------------------------------------------

def test_two_variants_of_one_label_are_two_rows(tmp_path):
    "The README's own example: a cycle of 30 beside the paper's 10, both called SARGAN by an older version."
    folders = [make_run(tmp_path, v, s, l_cyc=l, distance=d) for v, l, d in (("sargan", 10., .28), ("sargan-wide-cycle", 30., .36)) for s in (0, 1)]
    runs, edits = tables.read_runs(folders), tables.read_edits(folders)
    table = tables.results_table(runs, edits, metrics=["acd"])
    assert list(table.method) == ["SARGAN (l_cyc 10)", "SARGAN (l_cyc 30)"] and list(table.seeds) == ["2", "2"]
    assert [cell[:4] for cell in table.ACD] == ["0.28", "0.36"]  # not 0.32 twice
    assert list(dict.fromkeys(runs.variant)) == ["sargan", "sargan-wide-cycle"]
    assert list(study.by_label(folders)) == list(table.method)


@pytest.mark.parametrize("field,a,b,said", [("width", 32, 64, "width 64"), ("lr", 1e-4, 2e-4, "lr 0.0002"), ("batch", 8, 16, "batch 16"), ("epochs", 350, 400, "epochs 400"),
                                            ("critic_width", 32, 64, "critic_width 64"), ("final_relu", False, True, "final_relu True")])
def test_any_field_makes_a_row(tmp_path, field, a, b, said):
    folders = [make_run(tmp_path, name, **{field: v}) for name, v in (("one", a), ("other", b))]
    labels = list(tables.results_table(tables.read_runs(folders), tables.read_edits(folders), metrics=["acd"]).method)
    assert len(labels) == 2 and labels[1] == f"SARGAN ({said})"


def test_labels_that_differ_stay_as_they_are(tmp_path):
    folders = [make_run(tmp_path, "a", label="SARGAN"), make_run(tmp_path, "b", label="SARGAN (l_cyc 30)", l_cyc=30.)]
    assert list(tables.read_runs(folders).label) == ["SARGAN", "SARGAN (l_cyc 30)"]


def test_twins_and_mixed_seeds_are_refused(tmp_path):
    one, twin = make_run(tmp_path, "one"), make_run(tmp_path, "twin")
    with pytest.raises(FesganError, match="one and twin are all called 'SARGAN'"): tables.read_runs([one, twin])
    longer = make_run(tmp_path, "one", 1, steps=5000)
    for read in (tables.read_runs, tables.read_edits, study.by_label):
        with pytest.raises(FesganError, match="one: its seeds were trained with different settings .steps 100 and 5000"): read([one, longer])


def test_rows_of_a_sweep(tmp_path):
    folders = []
    for l in (1., 30.):
        for s in (0, 1):
            folder = make_run(tmp_path/"made", f"l{l:g}", s, l_cyc=l)
            place = tmp_path/"sweep"/"system~sargan"/f"l_cyc~{l:g}"/f"seed~{s}"
            place.parent.mkdir(parents=True, exist_ok=True)
            folders.append(folder.rename(place))
    runs = tables.read_runs(folders)
    assert list(dict.fromkeys(runs.variant)) == ["system~sargan/l_cyc~1", "system~sargan/l_cyc~30"]
    assert list(tables.results_table(runs, tables.read_edits(folders), metrics=["acd"]).seeds) == ["2", "2"]


def test_whole_numbers_print_as_such(tmp_path):
    csv, md, tex = tables.write_table(pd.DataFrame({"l_cyc": [30., 2.5]}), tmp_path, "t", "c")
    assert csv.read_text().split() == ["l_cyc", "30", "2.5"] and "30.0" not in md.read_text()+tex.read_text()


def test_only_members_count(tmp_path):
    for v in ("sargan", "left-over"): make_run(tmp_path/"trained", v, label=v)
    found = study.find_runs(tmp_path/"trained", members=["sargan/seed0"])
    assert [f.parent.name for f in found] == ["sargan"]
    assert study.find_runs(tmp_path/"trained", members=["trained/sargan/seed0"]) == found
    with pytest.raises(FesganError, match="of gone/seed0"): study.find_runs(tmp_path/"trained", members=["sargan/seed0", "gone/seed0"])


# --- what needs no training ---------------------------------------------------------------------

def test_unchanged_and_true_face_have_rows(tmp_path):
    folders = [make_run(tmp_path, "a", label="A"), make_run(tmp_path, "b", label="B", psnr=31.)]
    table = tables.results_table(tables.read_runs(folders), tables.read_edits(folders), metrics=["acd", "psnr", "accuracy"], references=tables.read_references(folders)).set_index("method")
    assert list(table.index) == ["unchanged", "true face", "A", "B"]
    assert table.ACD["unchanged"].startswith("0.000") and table.ACD["true face"].startswith("0.33")
    assert table["PSNR (dB) ↑"]["true face"] == "–" and table["PSNR (dB) ↑"]["unchanged"].startswith("30.")
    nearer = table["nearer than the input (PSNR, dB)"]
    assert nearer["A"].startswith("-0.9") and nearer["B"].startswith("1.0") and nearer["unchanged"] == "–"


def test_note_says_nearer_or_further_paired(tmp_path):
    folders = [make_run(tmp_path, "a", label="A"), make_run(tmp_path, "b", label="B", psnr=31.), make_run(tmp_path, "c", label="C", psnr=30.)]
    note = tables.results_note(tables.read_runs(folders), tables.read_edits(folders), None, ["acd"], tables.read_references(folders))
    assert re.search(r"A is 0\.9\d dB \[0\.9\d, 1\.0\d\] further from the true face than the unchanged input \(PSNR, 36 edits of 12 people, p = \.\d+\)", note)
    assert re.search(r"B is \S+ dB \[\S+ \S+ nearer to the true face", note) and "C is not shown to be nearer" in note


def test_runs_without_references_say_so(tmp_path):
    folders = [make_run(tmp_path, "old", label="Old", references=False)]
    table = tables.results_table(tables.read_runs(folders), tables.read_edits(folders), metrics=["acd"], references=tables.read_references(folders))
    assert list(table.method) == ["Old"] and "The rows unchanged and true face are missing" in table.attrs["note"]


def test_ablation_has_the_two_columns(tmp_path):
    folders = [make_run(tmp_path, "a", label="A"), make_run(tmp_path, "b", label="B", distance=.32)]
    [c] = study.compare(folders, [["a", "b"]], "x", tmp_path/"out", "the change")
    assert list(c.text.columns[1:5]) == ["unchanged", "A", "B", "true face"] and "seeds" in c.text
    assert c.text.set_index("metric").loc["ACD", "true face"].startswith("0.33")


def test_verdict_on_doing_nothing(tmp_path):
    ask = lambda **more: study.nearer_verdict(*[read([make_run(tmp_path/str(len(list(tmp_path.iterdir()))), "a", **more)]) for read in (tables.read_edits,)], None, "short")
    assert ask().verdict == "undecided"
    far, near = make_run(tmp_path/"far", "a"), make_run(tmp_path/"near", "a", psnr=33.)
    (tmp_path/"near"/"a"/"seed0"/"edits.csv").write_text(made_up(12, .3, 33.).assign(lpips=.01).to_csv(index=False))
    said = {f: study.nearer_verdict(tables.read_edits([f]), tables.read_references([f]), "short") for f in (far, near)}
    assert (said[far].verdict, said[near].verdict) == ("no", "yes") and said[far].people == 12
    assert study.nearer_verdict(tables.read_edits([near]), tables.read_references([near]), "toy").reason.startswith("not decided: toy run")


# --- damaged run folders ------------------------------------------------------------------------

BINARY = bytes(range(256))
DAMAGED = [(name, how) for name in ("params.yaml", "metrics.json", "edits.csv", "references.csv") for how in ("empty", "binary", "cut", "list")]


@pytest.mark.parametrize("name,how", DAMAGED)
def test_damaged_files_end_in_one_sentence(tmp_path, name, how):
    run = make_run(tmp_path, "a")
    path, whole = run/name, (run/name).read_bytes()
    path.write_bytes({"empty": b"", "binary": BINARY, "cut": whole[:len(whole)//2], "list": b"[1, 2]"}[how])
    if name == "params.yaml" and how == "cut": path.write_bytes(b"label: SARGAN\nsystem: [sar")
    def read():
        tables.read_runs([run])
        edits = tables.read_edits([run])
        tables.results_table(tables.read_runs([run]), edits, metrics=["acd", "psnr"], references=tables.read_references([run]))
    if (name, how) == ("references.csv", "cut"): return read()  # fewer references are fewer pairs, counted in the note
    with pytest.raises(FesganError) as e: read()
    assert str(path) in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("text", ['{"metrics": []}', '{"metrics": {"acd": {"mean": "far"}}}', '{"metrics": {"acd": [1]}}', '{"n_edits": 36, "metrics": 3}'])
def test_metrics_of_another_kind(tmp_path, text):
    run = make_run(tmp_path, "a")
    (run/"metrics.json").write_text(text)
    with pytest.raises(FesganError, match="metrics.json cannot be read"): tables.read_runs([run])


def test_a_cut_table_of_edits_is_no_smaller_sample(tmp_path):
    run = make_run(tmp_path, "a")
    lines = (run/"edits.csv").read_text().splitlines(True)
    (run/"edits.csv").write_text("".join(lines[:20]))
    with pytest.raises(FesganError, match="has 19 edits, metrics.json speaks of 36"): tables.read_edits([run])


@pytest.mark.parametrize("file", ["answers/x.json", "../../judges/judge.json"])
def test_damaged_answers_and_judges(tmp_path, file):
    results = tmp_path/"results"/"trained"
    path = results/file
    path.parent.mkdir(parents=True, exist_ok=True); (results/"answers").mkdir(parents=True, exist_ok=True)
    path.resolve().write_bytes(BINARY)
    with pytest.raises(FesganError, match="json cannot be read"):
        study.read_answers(results)
        study.judge_sentence(tmp_path)


# --- publishing ---------------------------------------------------------------------------------

def test_published_runs_can_make_their_tables_again(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "check_metrics", lambda run: None)
    for v, label in (("a", "A"), ("b", "B")): make_run(tmp_path/"work"/"trained", v, label=label)
    (tmp_path/"work"/"results"/"trained"/"kept").mkdir(parents=True)
    (tmp_path/"work"/"results"/"trained"/"kept"/"strength.csv").write_text("a\n1\n")
    page = study.publish_group(tmp_path/"work", "trained", tmp_path/"out", "T", "toy")
    def table(folder):
        runs = study.find_runs(folder)
        return tables.results_table(tables.read_runs(runs), tables.read_edits(runs), metrics=["acd", "psnr", "accuracy"], references=tables.read_references(runs))
    assert table(page.parent/"runs").equals(table(tmp_path/"work"/"trained"))
    assert (page.parent/"kept"/"strength.csv").is_file()


def test_nothing_is_published_unless_every_run_fits(tmp_path, monkeypatch):
    def check(run):
        if run.parent.name == "b": raise FesganError(f"{run}/metrics.json does not fit")
    monkeypatch.setattr(study, "check_metrics", check)
    for v, label in (("a", "A"), ("b", "B")): make_run(tmp_path/"work"/"trained", v, label=label)
    (tmp_path/"out"/"trained").mkdir(parents=True); (tmp_path/"out"/"trained"/"index.html").write_text("before")
    with pytest.raises(FesganError, match="does not fit"): study.publish_group(tmp_path/"work", "trained", tmp_path/"out", "T", "toy")
    assert (tmp_path/"out"/"trained"/"index.html").read_text() == "before"
    assert study.publish_group(tmp_path/"work", "trained", tmp_path/"out", "T", "toy", members=["a/seed0"]).is_file()  # `b` is no member


def test_examples_are_small_and_whole():
    files = [p for p in (ROOT/"data"/"examples").rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 400_000
    runs = study.find_runs(ROOT/"data"/"examples"/"shipped")
    assert [r.parent.name for r in runs] == ["sargan", "usgan", "usgan-noskip"] and len(tables.read_edits(runs)) == 504
