"A study's report lies where git ignores it; publishing copies it, whole or not at all, if its numbers still hold."
import json, re, shutil, subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml

from fesgan.files import FesganError, sha256
from fesgan.reporting.claims import claims_page
from fesgan.reporting import html
from fesgan.reporting.html import broken_links, file_hashes, finish_report, publish_report
from runs import fails, fesgan

ROOT = Path(__file__).resolve().parents[1]


def add_run(work, name, distance=.3):
    "A run folder with made-up edits."
    run = work/"trained"/name
    run.mkdir(parents=True)
    params = yaml.safe_dump(dict(label=f"US-GAN {name}", system="usgan", seed=0, steps=1, image_size=32, width=8))
    (run/"params.yaml").write_text(params)
    (run/"generator.safetensors").write_text(name)
    edits = [dict(row=i, path="", subject=f"p{i}", source="neutral", target="happy", found=True, distance=distance+i/100, fvs=80., judged="happy", correct=1.) for i in range(12)]
    pd.DataFrame(edits).to_csv(run/"edits.csv", index=False)
    metrics = dict(acd=dict(mean=distance, std=.02, low=None, high=None, n=12))
    hashes = dict(generator_sha256=sha256(name), params_sha256=sha256(params))
    (run/"metrics.json").write_text(json.dumps(dict(label="US-GAN", system="usgan", seed=0, n_edits=12, metrics=metrics, **hashes)))
    (run/"provenance.json").write_text("{}")
    return run


@pytest.fixture
def finished(tmp_path):
    "A finished study of one run; its report is two pages."
    work = tmp_path/"runs"/"demo"
    run = add_run(work, "usgan/seed0")
    (work/"report"/"trained").mkdir(parents=True)
    for name in ("README.md", "index.html", "trained/index.html"): (work/"report"/name).write_text(f"new {name}")
    finish_report(work, work/"report", [run])
    return work


@pytest.fixture
def published(tmp_path):
    "An older report, where the new one is to go."
    old = tmp_path/"pages"/"demo"
    (old/"shipped").mkdir(parents=True)
    for name in ("README.md", "index.html", "shipped/index.html"): (old/name).write_text(f"old {name}")
    return old


def words(work, out): return ["publish", "demo", "--work", work.parent, "--out", out.parent]


# ---- the report and its way

def test_the_study_writes_where_git_ignores_it_and_publishing_copies(tmp_path):
    work = tmp_path/"runs"/"demo"
    for name in ("usgan/seed0", "usgan-6/seed0", "stranger/seed0"): add_run(work, name)
    (work/"results"/"trained"/"tables").mkdir(parents=True)
    (work/"manifest.json").write_text(json.dumps(dict(runs={"trained/usgan/seed0": {}, "trained/usgan-6/seed0": {}})))
    before = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout
    code, out = fesgan("report", work)
    assert code == 0 and str(work/"report"/"index.html") in out, out
    assert sorted(p.parent.parent.name for p in (work/"report").rglob("metrics.json")) == ["usgan", "usgan-6"] # the members, not whatever lies there
    assert broken_links(work/"report"/"index.html") == broken_links(work/"report"/"trained"/"index.html") == []
    links = re.findall(r"\]\(([^)]+)\)", (work/"report"/"README.md").read_text())
    assert links and all((work/"report"/link).exists() for link in links)
    code, out = fesgan(*words(work, tmp_path/"pages"/"demo"))
    assert code == 0 and re.search(r"files: \d+ new\)", out) and str(tmp_path/"pages"/"demo"/"index.html") in out
    assert file_hashes(tmp_path/"pages"/"demo") == file_hashes(work/"report")
    assert subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True).stdout == before


@pytest.mark.skipif(not (ROOT/".git").exists(), reason="no clone")
def test_the_repositorys_own_work_folder_is_ignored():
    "So `make study` leaves git as it was."
    for path in ("reports/runs/demo/report/index.html", "reports/runs/demo/published.json", "dist/a.whl", "build/lib/a.py"):
        assert subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 0, path


def test_publishing_says_what_it_replaced(finished, published):
    code, out = fesgan(*words(finished, published))
    assert code == 0 and "files: 1 new, 2 changed, 1 gone" in out
    assert file_hashes(published) == file_hashes(finished/"report") # a group that is no more is gone
    assert "files: 3 same" in fesgan(*words(finished, published))[1]
    assert [p.name for p in published.parent.iterdir()] == ["demo"]


# ---- what is not published

def append(path): path.write_text(path.read_text()+" ")

VOID = {
    "never finished": (lambda w: (w/"published.json").unlink(), "holds no finished report"),
    "cut": (lambda w: (w/"published.json").write_text((w/"published.json").read_text()[:40]), "does not say what its report was made from"),
    "of an older version": (lambda w: (w/"published.json").write_text('{"pages": []}'), "does not say what its report was made from"),
    "not a mapping": (lambda w: (w/"published.json").write_text("[1]"), "does not say what its report was made from"),
    "metrics measured anew": (lambda w: append(w/"trained/usgan/seed0/metrics.json"), "void: trained/usgan/seed0/metrics.json"),
    "metrics cut": (lambda w: (w/"trained/usgan/seed0/metrics.json").write_text("{"), "void: trained/usgan/seed0/metrics.json"),
    "other parameters": (lambda w: append(w/"trained/usgan/seed0/params.yaml"), "void: trained/usgan/seed0/params.yaml"),
    "trained anew": (lambda w: append(w/"trained/usgan/seed0/generator.safetensors"), "void: trained/usgan/seed0/generator.safetensors"),
    "its training failed": (lambda w: (w/"trained/usgan/seed0/generator.safetensors").unlink(), "void: trained/usgan/seed0/generator.safetensors"),
    "the run is gone": (lambda w: shutil.rmtree(w/"trained"), "and 2 more changed"),
    "a page edited": (lambda w: append(w/"report/README.md"), "void: report/README.md"),
    "a page gone": (lambda w: (w/"report/index.html").unlink(), "void: report/index.html"),
}

@pytest.mark.parametrize("what", VOID)
def test_void_numbers_are_not_published(finished, published, what):
    break_it, says = VOID[what]
    before = file_hashes(published)
    break_it(finished)
    fails(*words(finished, published), says=says)
    assert file_hashes(published) == before and [p.name for p in published.parent.iterdir()] == ["demo"]


@pytest.mark.parametrize("failing", ["copyfile", "rename"])
def test_whole_or_not_at_all(finished, published, monkeypatch, failing):
    "Whatever fails, the older report stays, and nothing half lies beside it."
    before, calls = file_hashes(published), []
    real = shutil.copyfile if failing == "copyfile" else Path.rename
    def second_fails(*a, **k):
        calls.append(a)
        if len(calls) == 2: raise KeyboardInterrupt
        return real(*a, **k)
    monkeypatch.setattr(*((html.shutil, "copyfile") if failing == "copyfile" else (Path, "rename")), second_fails)
    with pytest.raises(KeyboardInterrupt): publish_report(finished, published)
    assert file_hashes(published) == before and [p.name for p in published.parent.iterdir()] == ["demo"]


def test_a_report_that_changes_under_the_copy(finished, published, monkeypatch):
    before, real = file_hashes(published), shutil.copyfile
    def late(source, target):
        append(Path(source))
        real(source, target)
    monkeypatch.setattr(html.shutil, "copyfile", late)
    with pytest.raises(FesganError, match="changed while it was copied"): publish_report(finished, published)
    assert file_hashes(published) == before


TARGETS = {
    "a file": (lambda p: p.write_text("mine"), "is no folder"),
    "a link": (lambda p: p.symlink_to("elsewhere"), "is no folder"),
    "notes": (lambda p: (p.mkdir(), (p/"notes.txt").write_text("mine")), "holds notes.txt, which is no part of a report"),
    "runs": (lambda p: (p/"faces").mkdir(parents=True), "holds faces, which is no part of a report"),
}

@pytest.mark.parametrize("what", TARGETS)
def test_only_a_report_is_replaced(finished, tmp_path, what):
    make, says = TARGETS[what]
    (tmp_path/"pages").mkdir()
    make(tmp_path/"pages"/"demo")
    fails(*words(finished, tmp_path/"pages"/"demo"), says=says)
    assert (tmp_path/"pages"/"demo").is_symlink() or (tmp_path/"pages"/"demo").exists()


def test_the_work_folder_is_no_target(finished):
    fails("publish", "demo", "--work", finished.parent, "--out", finished.parent, says="no part of a report")
    fails("publish", "huge", says="Profile 'huge' is not known")


# ---- the page over all reports

def test_the_page_of_claims_is_what_the_reports_say():
    assert (ROOT/"reports"/"claims.md").read_text() == claims_page([p.parent for p in sorted((ROOT/"reports").glob("*/verdicts.json"))])


def test_publishing_writes_the_page_of_claims_anew(finished, published):
    page = published.parent/"claims.md"
    page.write_text("old")
    assert fesgan(*words(finished, published))[0] == 0
    assert page.read_text().startswith("# What became of the papers' claims")
