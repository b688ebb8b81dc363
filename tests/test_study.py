"""The whole demo graph at toy size, as a newcomer would start it."""
import json, subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from fesgan.evaluation.recognition import JURY, load_recognition
from fesgan.evaluation.units import load_units
from fesgan.files import sha256
from fesgan.reporting.html import broken_links
from runs import study_command

ROOT = Path(__file__).parents[1]
KEPT = ("usgan", "usgan-6", "usgan-noskip", "sargan") # the fewest that answer all three ablations


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    profile = yaml.safe_load((ROOT/"profiles"/"demo.yaml").read_text())
    profile |= dict(name="toy", seeds=[0], shipped=["usgan"], evaluate=dict(trained=2, shipped=2, sweep=2), judge=dict(settings=dict(epochs=1, image_size=32)), second=dict(settings=dict(arch="vgg", width=4, epochs=1, image_size=32)))
    profile["variants"] = {k: v for k, v in profile["variants"].items() if k in KEPT}
    profile["variants"]["again"] = dict(system="usgan", start="usgan")
    profile["reader"] = dict(settings=dict(epochs=1, width=4, image_size=32))
    profile["ablations"] = {k: [p for p in pairs if set(p) <= set(KEPT)] for k, pairs in profile["ablations"].items()}
    profile["views"] = ["20_table_usgan", "25_table_units", "30_residuals"]
    profile["train"] |= dict(steps=10, log_every=5)
    profile["data"] |= dict(limit=140)
    (folder/"toy.yaml").write_text(yaml.safe_dump(profile))
    return folder


def study(work, *more, profile="toy"): return subprocess.run(study_command(work, *more, profile=profile), cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def done(work):
    run = study(work)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return run


def test_progress_and_end(done):
    assert "left" in done.stdout + done.stderr
    assert "reports/toy/index.html" in done.stdout


def test_report(work, done):
    out = work/"reports"/"toy"
    for group, runs in (("trained", 5), ("shipped", 1)):
        assert broken_links(out/group/"index.html") == []
        assert len(list((out/group/"runs").rglob("metrics.json"))) == runs
        assert len(pd.read_csv(out/group/"tables"/"table_usgan.csv").query("seeds != '–'")) == runs
        assert {p.suffix for p in (out/group/"figures").iterdir()} <= {".jpg", ".png", ".svg"}
    front = (out/"README.md").read_text()
    assert all(q in front for q in ("Does the ultimate skip help?", "Do six blocks do better than one?", "Does attention in the residual block"))
    assert front.index("Shipped weights") < front.index("A toy run")
    assert {p.stem for p in (out/"trained"/"tables").glob("ablation_*.tex")} == {"ablation_block_usgan", "ablation_depth_usgan", "ablation_skip_usgan"}
    assert "With or without the ultimate skip?" in (out/"trained"/"index.html").read_text() # the page is called by its question


def test_a_run_starts_from_another_ones_generator(work, done):
    trained = work/"runs"/"toy"/"trained"
    params = yaml.safe_load((trained/"again"/"seed0"/"params.yaml").read_text())
    assert params["start"] == sha256(trained/"usgan"/"seed0"/"generator.safetensors") and params["label"] == "US-GAN (from US-GAN)"


def test_action_units_asked_and_read(work, done):
    out = work/"reports"/"toy"
    for group in ("trained", "shipped"):
        table = pd.read_csv(out/group/"tables"/"table_units.csv").set_index("system")
        assert list(table.index[:2]) == ["unchanged", "true face"] and "US-GAN" in table.index
        assert (table.n == table.n["unchanged"]).all() and (table.people > 1).all()
    assert json.loads((out/"trained"/"judges"/"reader.json").read_text())["n_test"] > 0
    found = load_units(work/"runs"/"toy"/"trained"/"usgan"/"seed0"/"units.npz")
    assert np.isfinite(found.asked).all() and found.edits.shape[1:] == (7, 17)


def test_every_edit_of_every_test_face_is_read_by_judges_and_jury(work, done):
    for run in ("trained/usgan/seed0", "shipped/usgan/seed0"):
        read = load_recognition(work/"runs"/"toy"/run/"recognition.npz")
        assert set(read.real) == {"judge", "second", *JURY} and read.edits["second"].shape == (len(read), 7)


def test_every_run_says_where_it_comes_from(work, done):
    for run in (work/"reports"/"toy"/"trained"/"runs").rglob("provenance.json"):
        facts = yaml.safe_load(run.read_text()) | yaml.safe_load((run.parent/"params.yaml").read_text())
        assert {"commit", "packages", "device_name", "seconds", "data_hash", "seed", "steps"} <= set(facts)


def test_second_call_has_nothing_to_do(work, done):
    def times(): return {p: p.stat().st_mtime_ns for p in (work/"runs").rglob("*") if p.is_file() and ".snakemake" not in p.parts}
    before = times()
    run = study(work)
    assert run.returncode == 0 and "nothing" in (run.stdout+run.stderr).lower()
    assert before == times()


def test_a_report_spares_the_runs_that_it_holds(work, done):
    report = work/"reports"/"toy"/"trained"/"runs"
    profile = yaml.safe_load((work/"toy.yaml").read_text())
    kept = {name: profile["variants"][name] for name in ("usgan", "usgan-noskip")}
    profile |= dict(name="more", variants=kept | dict(mine=dict(system="usgan", l_cyc=5)), shipped=[], ablations=dict(skip=[[*kept]]), views=["20_table_usgan", "32_gallery"])
    (work/"more.yaml").write_text(yaml.safe_dump(profile | dict(published=str(report.parents[1]))))
    run = study(work, "--set", "train.steps=20", profile="more")
    assert run.returncode == 2 and "has another trained/usgan/seed0: steps is 10 there and 20 here" in run.stdout+run.stderr
    run = study(work, profile="more")
    assert run.returncode == 0 and "train trained/usgan" not in run.stdout, run.stdout[-3000:]
    here = work/"runs"/"more"/"trained"
    for name in kept:
        assert not (here/name/"seed0"/"generator.safetensors").exists()
        assert (here/name/"seed0"/"metrics.json").read_bytes() == (report/name/"seed0"/"metrics.json").read_bytes()
    table = pd.read_csv(work/"reports"/"more"/"trained"/"tables"/"table_usgan.csv").query("seeds != '–'")
    assert len(table) == 3 and (here/"mine"/"seed0"/"generator.safetensors").is_file()
    shown = Image.open(work/"reports"/"more"/"trained"/"figures"/"edits.jpg").getexif()[0x010E]
    assert all(label in shown for label in table.method)                       # the gallery needs no generators
    facts,taken = here.parent/"faces"/"prepare.json",here/"usgan"/"seed0"/"metrics.json"
    facts.write_text(facts.read_text().replace('"data_hash": "', '"data_hash": "f'))
    taken.unlink()
    run = study(work, profile="more")                                           # one's own run has learnt from other faces
    assert run.returncode == 1 and "FAILED: train trained/mine/seed0" in run.stdout, run.stdout[-3000:]
    assert taken.is_file()                                                      # test faces are the same


def test_failed_runs_are_due_and_finished_ones_are_kept(work, done):
    folder = work/"runs"/"toy"
    made = (folder/"trained"/"usgan"/"seed0"/"generator.safetensors").stat().st_mtime_ns
    run = study(work, "--set", "train.lr=1e30")
    assert run.returncode == 2 and "trained/usgan/seed0: lr is 0.0001 there and 1e+30 here" in run.stdout+run.stderr
    run = study(work, "--set", "train.lr=1e30", "--dry-run")
    assert run.returncode == 0 and "5 runs would be lost" in run.stdout and "trained/usgan/seed0 trained" in run.stdout
    assert (folder/"trained"/"usgan"/"seed0"/"generator.safetensors").stat().st_mtime_ns == made
    target = folder/"trained"/"usgan"/"seed0"/"metrics.json"
    for more in ("--replace",), ():                                             # once for all: what is left is nobody's
        run = study(work, "--set", "variants.usgan.lr=1e30", *more)
        assert run.returncode == 1 and "FAILED: train trained/usgan/seed0" in run.stdout, run.stdout[-3000:]
        assert not (folder/"published.json").exists() and not target.exists()
    run = study(work)                                                           # back to the old numbers: nothing of worth is in the way
    assert run.returncode == 0 and target.is_file(), run.stdout[-3000:]
    target.write_text(target.read_text()[:40])
    run = study(work)
    assert run.returncode == 0 and "Evaluate the run again" in run.stdout and "usgan" in target.read_text().lower(), run.stdout[-3000:]
