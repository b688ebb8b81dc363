"""The study on a Slurm of its own, a controller and two nodes on this machine: a whole graph, and a node that dies in the middle of a training."""
import shutil, subprocess, sys, time
from pathlib import Path

import pytest
import yaml

from fesgan.reporting.html import broken_links
from fesgan.training.trainer import read_history
from runs import same
from slurm import OPTIONS, missing, slurm

ROOT = Path(__file__).parents[1]
GENERATOR = "trained/usgan/seed1/generator.safetensors" # in the study's folder
pytestmark = pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())} (apt-get install slurm-wlm munge)")


@pytest.fixture(scope="module")
def cluster():
    with slurm() as own: yield own


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    profile = yaml.safe_load((ROOT/"profiles"/"demo.yaml").read_text())
    profile |= dict(name="toy", seeds=[0], shipped=[], views=["20_table_usgan"], ablations={}, evaluate=dict(trained=2, shipped=2, sweep=2), judge=dict(settings=dict(epochs=1, image_size=32)))
    del profile["second"], profile["reader"], profile["people"]
    profile["variants"] = dict(usgan=profile["variants"]["usgan"])
    profile["train"] |= dict(steps=10, log_every=5)
    profile["data"] |= dict(limit=140)
    (folder/"toy.yaml").write_text(yaml.safe_dump(profile))
    return folder


def study(cluster, work, *more, runs="runs"):
    "Start the study; nothing of it may be left to chance or to the machine's own Slurm."
    command = [Path(sys.executable).parent/"fesgan", "study", "--profile", work/"toy.yaml", "--work", work/runs, "--out", work/"reports", *more]
    return subprocess.Popen(list(map(str, command)), cwd=ROOT, env=cluster.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(run, seconds=600):
    "What it said, once it has ended well."
    said = run.communicate(timeout=seconds)[0]
    assert run.returncode == 0, said[-5000:]
    return said


def test_graph_on_two_nodes(cluster, work):
    said = ended(study(cluster, work, "--on", "slurm", "--", *OPTIONS))
    jobs = cluster.jobs().values()
    assert len(jobs) == 6 and {state for state, _, _ in jobs} == {"COMPLETED"}
    assert {node for _, node, _ in jobs} == {"n1", "n2"}                        # the judge and the training ran side by side
    assert broken_links(work/"reports"/"toy"/"trained"/"index.html") == []
    assert "6/6 report written" in said and "left" in said and "Done: 6 steps" in said
    assert not any(word in said for word in ("SLURM", "submitted", "account", "jobid")), said # one line a step, none of the machinery


def test_node_dies_in_a_training(cluster, work):
    fields = [w for f in ("seeds=[1]", "train.steps=300", "train.save_every=20", "train.sample_every=20") for w in ("--set", f)]
    def folder(runs): return work/runs/"toy"/"trained"/"usgan"/"seed1"
    run, start = study(cluster, work, *fields, "--on", "slurm", "--", GENERATOR, *OPTIONS), time.monotonic()
    while len(read_history(folder("runs"))) < 12:                               # 60 of 300 updates: checkpoints lie there
        assert run.poll() is None and time.monotonic()-start < 200, run.communicate()[0]
        time.sleep(.2)
    node = next(node for state, node, _ in cluster.jobs().values() if state == "RUNNING")
    cluster.kill_node(node)
    killed, first = time.time(), min((folder("runs")/"samples").glob("[0-9]*.png"))
    assert not (folder("runs")/"generator.safetensors").exists(), "the training was over before its node was killed"
    said = ended(run)
    assert f"train trained/usgan/seed1 was broken off on {node}" in said and "goes on from its last checkpoint" in said, said
    assert "FAILED" not in said and "1/1 trained/usgan/seed1 trained" in said, said
    assert first.stat().st_mtime < killed                                       # it went on: the first picture is still the first training's
    shutil.copytree(work/"runs"/"toy"/"faces", work/"whole"/"toy"/"faces")
    ended(study(cluster, work, *fields, "--cores", "2", "--", GENERATOR, runs="whole")) # the same on this machine, without a break
    same(folder("runs"), folder("whole"))
