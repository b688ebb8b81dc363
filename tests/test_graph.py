"""The graph itself, with a papermill that pretends: what is due, in which order, with which names, and what is void when a step fails."""
import json, os, sys
from pathlib import Path

import pytest
import yaml

from snakemake.cli import main as snakemake

from fesgan.app.command import job_environment, save_settings, snakemake_command
from runs import Forked

ROOT = Path(__file__).parents[1]
PAPERMILL = f"""#!{sys.executable}
import json, os, signal, sys
from pathlib import Path
book, run = Path(sys.argv[1]).stem, Path(sys.argv[2])
p = json.loads(sys.argv[sys.argv.index("-y")+1])
with open(os.environ["TOLD"], "a") as f: f.write(json.dumps([book, p, sys.argv]) + "\\n")
if os.environ.get("KILLED") and os.environ["KILLED"] in str(run): os.kill(os.getpid(), signal.SIGKILL)
if os.environ.get("UNBORN") and os.environ["UNBORN"] in str(run):
    first = Path(os.environ["TOLD"]).with_name("unborn")
    if os.environ["UNBORN"] == "report" or not first.exists():
        first.touch()
        sys.exit("RuntimeError: Kernel died before replying to kernel_info")
def write(path, text=""):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
write(run)
def read(m, group): return json.loads(Path(m).read_text())["of"]
if book == "00_prepare":
    for name in ("prepare.json", "faces.npy", "catalog.csv"): write(Path(p["out"])/name)
elif book == "01_judge": write(Path(p["out"])/(p["name"] + ".safetensors"), str(p["seed"]))
elif book == "02_train":
    if float(p["fields"].get("lr", 0)) == 1e30: sys.exit("generator/cyc became nan")
    write(Path(p["folder"])/"params.yaml", json.dumps(dict(label="US-GAN", **p["fields"])))
    write(Path(p["folder"])/"generator.safetensors", json.dumps(p["fields"]))
elif book == "03_evaluate":
    folder = Path(p["folder"])
    write(folder/"metrics.json", json.dumps(dict(of=(folder/"generator.safetensors").read_text(), limit=p["limit"])))
    for name in ("edits.csv", "recognition.npz"): write(folder/name)
elif book == "90_report":
    found = [Path(p["work"])/g/m for g, runs in p["members"].items() for m in runs]
    for f in found:
        if json.loads((f/"metrics.json").read_text())["of"] != (f/"generator.safetensors").read_text(): sys.exit("does not fit")
    write(Path(p["out"])/"index.html", str(len(found)))
    write(Path(p["work"])/"published.json")
else:
    for m in p["members"]: json.loads((Path(p["runs"])/m/"metrics.json").read_text())
"""
PROFILE = dict(name="tiny.1", title="Tiny", groups=dict(trained=["toy", ""]), data=dict(dataset="rendered", size=32), judge=dict(seeds=[5, 6]),
               variants=dict(usgan=dict(system="usgan"), sargan=dict(system="sargan")), train=dict(steps=10), seeds=[0, 1], views=["20_table_usgan"],
               evaluate=dict(trained=4, sweep=4), ablations=dict(block=[["usgan", "sargan"]]))


class Study:
    "One work folder and what the pretended papermill was asked."
    def __init__(self, folder, work="runs"):
        self.folder, self.work, self.told = folder, folder/work/"tiny.1", folder/"told.jsonl"
        (folder/"bin").mkdir(parents=True)
        (folder/"bin"/"papermill").write_text(PAPERMILL)
        (folder/"bin"/"papermill").chmod(0o755)
        self.profile = PROFILE

    def __call__(self, cores=1, killed="", again=(), unborn="", **config):
        "Run the graph; the exit code."
        self.told.unlink(missing_ok=True)
        profile, config = self.folder/"tiny.yaml", dict(work=str(self.work.parent)) | config
        profile.write_text(yaml.safe_dump(self.profile, sort_keys=False))
        env = job_environment(1)
        env |= dict(PATH=f"{self.folder/'bin'}{os.pathsep}{env['PATH']}", TOLD=str(self.told), KILLED=killed, UNBORN=unborn)
        command = snakemake_command(profile, save_settings(config, self.work), cores, again=again)
        code, self.said = Forked(snakemake, command[3:], **env).wait()          # [python, -m, snakemake, ...]
        return code

    @property
    def asked(self): return [json.loads(line) for line in self.told.read_text().splitlines()] if self.told.exists() else []
    def books(self): return [b for b, _, _ in self.asked]
    def page(self): return (self.work/"report"/"index.html").read_text()


@pytest.fixture
def study(tmp_path): return Study(tmp_path)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    "A finished study; each test that breaks it leaves it whole."
    study = Study(tmp_path_factory.mktemp("done"))
    assert study() == 0, study.said[-3000:]
    return study


def test_a_folder_with_blanks_quotes_and_a_dot(tmp_path):
    study = Study(tmp_path, work="it's $(touch pwned) a; work")
    study.profile = PROFILE | dict(title="it's \"$(touch pwned)\"")
    assert study() == 0, study.said[-3000:]
    assert study.page() == "4" and not list(tmp_path.rglob("pwned")) and not (ROOT/"pwned").exists()
    assert study() == 0 and not study.asked                                     # nothing to do


def test_order_judges_members_and_manifest(done):
    study = done
    assert [Path(p["folder"]).relative_to(study.work/"trained").as_posix() for b, p, _ in study.asked if b == "02_train"] == [
        "usgan/seed0", "sargan/seed0", "usgan/seed1", "sargan/seed1"]           # first seeds first, in the profile's order
    assert {(p["name"], p["seed"]) for b, p, _ in study.asked if b == "01_judge"} == {("judge", 5), ("judge-1", 6)}
    all_four = [f"{v}/seed{s}" for v in ("usgan", "sargan") for s in (0, 1)]
    assert [p["members"] for b, p, _ in study.asked if b in ("10_ablation", "20_table_usgan")] == [all_four]*2
    assert next((p["question"], p["pairs"]) for b, p, _ in study.asked if b == "10_ablation") == ("block", [["usgan", "sargan"]])
    assert study.asked[-1][1]["members"] == dict(trained=all_four)
    runs = json.loads((study.work/"manifest.json").read_text())["runs"]
    assert runs["trained/usgan/seed1"] == dict(group="trained", variant="usgan", seed=1, fields=dict(system="usgan", steps=10))


def test_a_kernel_that_did_not_come_up_is_started_again_once(study):
    assert study(unborn="sargan/seed1/train") == 0, study.said[-3000:]
    trained = [Path(p["folder"]).relative_to(study.work/"trained").as_posix() for b, p, _ in study.asked if b == "02_train"]
    assert trained == ["usgan/seed0", "sargan/seed0", "usgan/seed1", "sargan/seed1", "sargan/seed1"] and study.page() == "4"
    assert study(unborn="report", again=["published.json"]) == 1 and study.books().count("90_report") == 2   # and not for ever


def test_further_seeds_of_one_variant(study):
    study.profile = PROFILE | dict(seeds=[0], more_seeds=dict(sargan=[3, 4]))
    assert study() == 0, study.said[-3000:]
    members = ["usgan/seed0", "sargan/seed0", "sargan/seed3", "sargan/seed4"]
    assert study.asked[-1][1]["members"] == dict(trained=members) and study.page() == "4"


def test_a_renamed_variant_leaves_the_tables(study):
    study()
    study.profile = PROFILE | dict(variants={"usgan": dict(system="usgan"), "sarb": dict(system="sargan")}, ablations={})
    assert study() == 0, study.said[-3000:]
    assert study.page() == "4" and (study.work/"trained"/"sargan"/"seed0").is_dir() # kept, and in no table
    assert set(json.loads((study.work/"manifest.json").read_text())["runs"]) == {f"trained/{v}/seed{s}" for v in ("usgan", "sarb") for s in (0, 1)}


def test_a_failed_step_stays_due(done):
    for _ in range(2):
        assert done(train=dict(lr=1e30)) == 1                                   # not once only
        assert not (done.work/"published.json").exists() and not list(done.work.glob("trained/**/metrics.json"))
        assert "90_report" not in done.books()
    assert done() == 0 and done.books().count("02_train") == 4 and done.page() == "4"


@pytest.mark.parametrize("killed", ["sargan/seed1/evaluate", "20_table_usgan"])
def test_a_killed_kernel_stays_due(done, killed):
    lr = len(killed)/100                                                        # everything is trained anew
    for _ in range(2):
        assert done(train=dict(lr=lr), killed=killed, cores=2) == 1
        assert not (done.work/"published.json").exists()
    assert done(train=dict(lr=lr), cores=2) == 0 and done.books()[-1] == "90_report"


def test_whatever_is_missing_is_made_again(done):
    for lost in (("trained/usgan/seed0/generator.safetensors", "trained/sargan/seed1/edits.csv"), ("results/trained/10_block.done", "judges/judge-1.safetensors")):
        for path in lost: (done.work/path).unlink()
        assert done(cores=2) == 0 and all((done.work/p).is_file() for p in lost) and done.books()[-1] == "90_report", lost


def test_a_sweep_holds_its_own_rows(study, tmp_path):
    study.profile = PROFILE | dict(variants={}, ablations={}, seeds=[0])
    for name, rows in (("one", "usgan,1,2,0\nusgan,1,3,0\nusgan,10,2,7\n"), ("two", "usgan,30,2,0\n")):
        (tmp_path/f"{name}.csv").write_text("system,l_cyc,evaluate.limit,seed\n" + rows)
        assert study(sweep=str(tmp_path/f"{name}.csv")) == 0, study.said[-3000:]
        swept = next(p for b, p, _ in study.asked if b == "40_sweep")
        assert len(swept["members"]) == len(rows.splitlines()) and study.page() == str(len(swept["members"]))
        if name == "one":
            assert study.books().count("02_train") == 2                         # rows that differ in the evaluation alone are trained once
            assert {p["limit"] for b, p, _ in study.asked if b == "03_evaluate"} == {2, 3}
            assert "limit 3" in yaml.safe_load((study.work/"sweep/system~usgan/l_cyc~1/evaluate.limit~3/seed~0/params.yaml").read_text())["label"]


def test_a_hostile_cell_is_refused_by_the_graph_too(study, tmp_path):
    (tmp_path/"s.csv").write_text("system,l_cyc\nusgan,1$(touch pwned)\n")
    assert study(sweep=str(tmp_path/"s.csv")) == 1 and not study.asked
    assert "is not allowed: a cell is a number" in study.said and not (ROOT/"pwned").exists()
