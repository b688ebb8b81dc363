"""The reporting room where things go wrong: half a run, odd text, no git, links that lead nowhere."""
import json, re, subprocess, sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from fesgan.files import FesganError
from fesgan.provenance import code_version, provenance, save_provenance
from fesgan.reporting import tables
from fesgan.reporting.html import broken_links, html_report, notebook_html, provenance_table


def make_run(folder, label="US-GAN", seed=0, shift=0.0, people=4, metrics=True, rows=None):
    "A run folder with made-up numbers."
    folder.mkdir(parents=True)
    (folder/"params.yaml").write_text(yaml.safe_dump(dict(label=label, system="usgan", seed=seed, steps=1)))
    edits = pd.DataFrame([dict(row=i, subject=f"p{i}", source="neutral", target=t, found=True, distance=0.3+shift+0.01*i+0.02*j+0.001*seed, correct=j > 0)
                          for i in range(people) for j,t in enumerate(("afraid", "happy", "sad"))])
    (edits if rows is None else edits.iloc[rows]).to_csv(folder/"edits.csv", index=False)
    if metrics: (folder/"metrics.json").write_text(json.dumps(dict(label=label, seed=seed, metrics=dict(acd=dict(mean=float(edits.distance.mean()), low=0.2, high=0.4, n=12)))))
    return folder


# --- tables -------------------------------------------------------------------------------------

def test_write_table_three_files_escaped(tmp_path):
    df = pd.DataFrame({"a_b": ["50%", "x|y & <z>", "line\nbreak", "[0.1, 0.2]"], "b": [0.123456, np.nan, None, 3]})
    csv,md,tex = tables.write_table(df, tmp_path, "odd", "100% #1", note="a_b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["odd.csv", "odd.md", "odd.tex"]
    assert pd.read_csv(csv).a_b.tolist() == df.a_b.tolist()
    rows = [line for line in md.read_text().splitlines() if line.startswith("|")]
    assert len(rows) == 6 and all(len(re.findall(r"(?<!\\)\|", r)) == 3 for r in rows)  # the bar inside a cell is no column
    assert "<z>" not in md.read_text()
    text = tex.read_text()
    assert r"\caption{100\% \#1}" in text and r"a\_b" in text and r"x|y \& \textless{}z\textgreater{}" in text and r"50\%" in text
    assert "\n{[}0.1, 0.2]" in text  # a bracket after \\ would be read as a length
    assert text.count(r" \\") == 5 and all(r in text for r in (r"\toprule", r"\midrule", r"\bottomrule"))


def test_write_table_keeps_the_old_one_when_it_fails(tmp_path):
    tables.write_table(pd.DataFrame({"a": [1]}), tmp_path, "t", "first")
    class Bad:
        def __str__(self): raise RuntimeError("no text")
    with pytest.raises(RuntimeError): tables.write_table(pd.DataFrame({"a": [Bad()]}), tmp_path, "t", "second")
    assert "first" in (tmp_path/"t.md").read_text()
    assert len(list(tmp_path.iterdir())) == 3


def test_missing_metrics_name_the_run(tmp_path):
    good,bad = make_run(tmp_path/"good", "good"),make_run(tmp_path/"not-evaluated", "not yet", seed=1, metrics=False)
    with pytest.raises(FesganError, match="not-evaluated") as e: tables.read_runs([good, bad])
    assert str(good)+"," not in str(e.value)
    runs = tables.read_runs([good, bad], allow_missing=True)
    assert runs.acd.notna().tolist() == [True, False]
    assert "ACD was not measured in not yet." in tables.results_table(runs, metrics=["acd"]).attrs["note"]


@pytest.mark.parametrize("file,text", [("params.yaml", "a: [1"), ("params.yaml", "just text"), ("metrics.json", '{"metrics": '), ("metrics.json", "[]"), ("edits.csv", "")])
def test_unreadable_run_folder(tmp_path, file, text):
    run = make_run(tmp_path/"run")
    (run/file).write_text(text)
    with pytest.raises(FesganError, match=re.escape(f"run/{file}")):
        tables.read_runs([run])
        tables.read_edits([run])


def test_missing_folder_and_missing_column(tmp_path):
    with pytest.raises(FesganError, match="nowhere"): tables.read_runs([tmp_path/"nowhere"])
    run = make_run(tmp_path/"run")
    pd.read_csv(run/"edits.csv").drop(columns="subject").to_csv(run/"edits.csv", index=False)
    with pytest.raises(FesganError, match="no column subject"): tables.read_edits([run])


def test_ablation_drops_unmatched_rows_and_says_so(tmp_path):
    a = make_run(tmp_path/"a", "US-GAN")
    b = make_run(tmp_path/"b", "without", shift=0.05, rows=range(3, 12))  # the first person is missing
    table = tables.ablation_table(tables.read_edits([a, b]), "US-GAN", "without", ["acd"])
    row = table.iloc[0]
    assert (row.n, row.people, row.dropped) == (9, 3, 3)
    assert row.difference == pytest.approx(0.05)  # without pairing the missing person would change it
    assert "3 edits had no partner and were dropped" in table.attrs["note"]
    said = tables.answer_sentence(row, "removing the skip")
    assert "changed ACD by +0.050" in said and "take it as a hint" in said  # three people: a quarter of all sign flips does as much


def test_ablation_of_other_seeds_is_refused(tmp_path):
    edits = tables.read_edits([make_run(tmp_path/"a", "A", seed=0), make_run(tmp_path/"b", "B", seed=1)])
    with pytest.raises(FesganError, match="share no edit"): tables.ablation_table(edits, "A", "B", ["acd"])
    twice = tables.read_edits([make_run(tmp_path/"c"/"seed0", "A", seed=0), make_run(tmp_path/"c"/"seed1", "A", seed=0), make_run(tmp_path/"e", "B", seed=0)])
    with pytest.raises(FesganError, match="two runs have the same seed"): tables.ablation_table(twice, "A", "B", ["acd"])


def test_a_metric_without_any_value_is_a_dash(tmp_path):
    a,b = make_run(tmp_path/"a", "A"),make_run(tmp_path/"b", "B")
    edits = tables.read_edits([a, b])
    edits.loc[edits.label == "B", "distance"] = np.nan  # no face found in any edit of B
    shown = tables.results_table(tables.read_runs([a, b]), edits, metrics=["acd", "found"]).set_index("method")
    assert shown.loc["B", "ACD"] == "–" and shown.loc["B", "face found (%) ↑"].startswith("100.0")
    assert tables.results_table(tables.read_runs([a, b]), edits, metrics=["acd"]).attrs["note"].count("12 of these edits") == 1
    row = tables.ablation_table(edits, "A", "B", ["acd", "found"]).iloc[0]
    assert "cannot be compared" in tables.answer_sentence(row, "it")


def test_numbers_that_are_not_known(tmp_path):
    run = make_run(tmp_path/"run")
    (run/"metrics.json").write_text(json.dumps(dict(metrics=dict(parameters=dict(mean=10, std=None, low=None, high=None, n=1), fid=None))))
    edits = pd.read_csv(run/"edits.csv").assign(subject=np.nan)
    edits["correct"] = [None, *edits.correct[1:]]
    edits.to_csv(run/"edits.csv", index=False)
    runs,edits = tables.read_runs([run]),tables.read_edits([run])
    assert tables.our_cells(runs, None, ["parameters", "fid"])["US-GAN"] == dict(parameters="10", fid="–")
    row = tables.summarise(edits, ["accuracy"]).iloc[0]  # people not named: every image is one
    assert (row.people, row.n) == (4, 11) and row["mean"] == pytest.approx(8/11)


# --- provenance ---------------------------------------------------------------------------------

def test_provenance_without_git(tmp_path, monkeypatch):
    monkeypatch.delenv("FESGAN_COMMIT", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))  # no git program at all
    assert code_version(tmp_path) == {"commit": None, "dirty": None}
    monkeypatch.setenv("FESGAN_COMMIT", "abc")
    assert provenance()["commit"] == "abc"
    record = save_provenance(tmp_path/"p.json", data=tmp_path/"kdef", seconds=1.5)
    assert json.loads((tmp_path/"p.json").read_text()) == record
    assert str(tmp_path) not in json.dumps(record) and record["data"] == "kdef"


def test_provenance_in_an_empty_repository(tmp_path, monkeypatch):
    monkeypatch.delenv("FESGAN_COMMIT", raising=False)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    assert code_version(tmp_path) == {"commit": None, "dirty": None}


def test_provenance_needs_torch_only():
    code = "import sys, fesgan.provenance; print([m for m in ('pandas', 'matplotlib', 'torchvision', 'lightning', 'sklearn') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# --- report -------------------------------------------------------------------------------------

@pytest.fixture
def report(tmp_path):
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
    from fesgan.reporting.grids import history_figure, save_figure
    runs = [make_run(tmp_path/"runs"/"usgan"/f"seed{s}", "US-GAN", s) for s in (0, 1)]
    save_provenance(runs[0]/"provenance.json", seconds=3)
    folder = tmp_path/"report"
    tables.write_table(pd.DataFrame({"m": ["<i>x</i>"]}), folder/"tables", "one", "A <b>caption</b>")
    save_figure(history_figure(pd.DataFrame({"step": [1, 2, 3], "critic/gp": [3., 2., 1.]})), folder/"figures", "history", 'Losses "as logged"')
    out = new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "bar"})
    for place in ("x", "y"):
        (tmp_path/place).mkdir()
        nbformat.write(new_notebook(cells=[new_markdown_cell(f"# Notebook {place}"), new_code_cell("1+1", outputs=[out])]), tmp_path/place/"run.ipynb")
    return html_report(folder, "T & T", "<script>alert(1)</script>", "real", "two seeds", notebooks=[tmp_path/"x"/"run.ipynb", tmp_path/"y"/"run.ipynb"], runs=runs, answers=["a < b"])


def test_links_point_to_files(report):
    assert broken_links(report) == []
    pages = sorted((report.parent/"html").glob("*.html"))
    assert [p.name for p in pages] == ["x-run.html", "y-run.html"]  # the same name twice: none is lost
    assert all(broken_links(p) == [] for p in pages)
    text = report.read_text()
    for path in ("tables/one.csv", "tables/one.tex", "figures/history.svg", "html/x-run.html"): assert f'href="{path}"' in text
    (report.parent/"tables"/"one.tex").unlink()
    assert broken_links(report) == ["tables/one.tex"]


def test_no_script_no_network_and_text_is_escaped(report):
    for page in (report, *(report.parent/"html").glob("*.html")):
        text = page.read_text()
        assert "<script" not in text and not re.search(r'(?:src|href)="(?:https?:)?//', text) and "@import" not in text
    text = report.read_text()
    assert "T &amp; T" in text and "&lt;i&gt;x" in text and "A &lt;b&gt;caption" in text and "a &lt; b" in text and "Losses &quot;as logged&quot;" in text
    assert str(report.parents[1]) not in text  # nothing of this machine


def test_report_without_anything(tmp_path):
    index = html_report(tmp_path/"empty", "Nothing yet")
    assert broken_links(index) == [] and "<section" not in index.read_text()
    with pytest.raises(FesganError, match="choose one of: toy, short, shipped, real"): html_report(tmp_path/"empty", "x", size="big")


def test_broken_inputs_are_named(tmp_path):
    (tmp_path/"cut.ipynb").write_text('{"cells": [')
    with pytest.raises(FesganError, match="cut.ipynb"): notebook_html(tmp_path/"cut.ipynb")
    run = make_run(tmp_path/"run")
    (run/"provenance.json").write_text("{")
    with pytest.raises(FesganError, match="provenance.json"): provenance_table([run])


def test_published_tables_have_a_source_and_numbers():
    for name in ("usgan_table1", "sargan_table1", "variants_table2", "cascade_table1", "cascade_table2", "cascade_table3", "eggan_table2"):
        table = tables.published(name)
        numbers = table.drop(columns=[c for c in ("method", "dataset", "source") if c in table])
        assert table.source.notna().all() and numbers.dtypes.map(lambda t: t.kind in "fi").all() and numbers.notna().all().all(), name
    readme = Path(tables.shipped("published", "README.md")).read_text()
    assert all(p.name in readme for p in tables.shipped("published").glob("*.csv"))
