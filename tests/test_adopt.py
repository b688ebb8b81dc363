"Somebody's own generator becomes a run that is evaluated like every other, without training here."
import json, os, sys

import pytest
import torch

from fesgan.data.faceset import load_faces
from fesgan.data.catalog import read_catalog
from fesgan.data.prepared import prepare_faces
from fesgan.evaluation import edits
from fesgan.evaluation.edits import evaluate_generator
from fesgan.files import FesganError, read_yaml, sha256
from fesgan.models.generator import Generator, load_published, published_names, save_generator
from fesgan.reporting.tables import published, read_runs, results_table
from fesgan.training.shipped import RUN, Adopted, adopt_callable, adopt_weights, generator_file, load_run
from fesgan.files import own_folder
from runs import fails, fesgan

SMALL = dict(sargan=dict(block="sarb"), usgan=dict(), stargan=dict(blocks=6, skip="none"))


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")/"faces"
    return prepare_faces(read_catalog("rendered"), folder, 64, "whole", limit=60)


def checkpoint(name, path, **more):
    "What the authors' code would save: their names, running statistics, and SARGAN's unit that is never used."
    torch.manual_seed(0)
    state = Generator(width=4, **SMALL[name] | more).state_dict()
    theirs = {k: state[v] for k, v in published_names(name, more.get("blocks")).items()}
    theirs |= {k.replace("weight", "running_mean"): torch.zeros(len(v)) for k, v in theirs.items() if v.ndim == 1 and k.endswith("weight")}
    theirs[f"main.{15+more.get('blocks', SMALL[name].get('blocks', 1))}.weight"] *= .1 # a face stays a face
    if name == "sargan": theirs["att_func.b1_2.conv2d.weight"] = torch.zeros(4, 3, 3, 3)
    torch.save(theirs, path)
    return path


@pytest.fixture
def module(tmp_path, monkeypatch):
    "A module of somebody's in the current folder."
    (tmp_path/"somebody.py").write_text('''
import torch
from pathlib import Path
Path("imported").touch()
def edit(x, condition): return (x + condition[:, 3, None, None, None]/5).clamp(-1, 1)
def short(x, condition): return x[..., 1:]
def words(x, condition): return "happy"
def whole(x, condition): return (x*127).to(torch.uint8)
def nothing(x, condition): return x*float("nan")
def fails(x, condition): return x @ condition
class Network(torch.nn.Module):
    def __init__(self): super().__init__(); self.layer = torch.nn.Conv2d(3, 3, 1)
    def forward(self, x, condition): return self.layer(x)
network = Network()
number = 7
class inner: edit = staticmethod(edit)
''')
    (tmp_path/"broken.py").write_text("import nothing_of_this_name")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("somebody", "broken"): sys.modules.pop(name, None)


# ---- weights

def test_the_readmes_example(tmp_path, faces, monkeypatch):
    "A checkpoint in the layout of the authors' repository becomes a row of SARGAN's Table I."
    monkeypatch.chdir(tmp_path)
    checkpoint("sargan", "350000-G.ckpt")
    code, said = fesgan("adopt", "350000-G.ckpt", "--as", "sargan", "--set", "width=4", "--size", 64, "--label", "SARGAN", "-o", "runs/mine")
    assert code == 0 and "Next: fesgan evaluate" in said
    code, said = fesgan("evaluate", "runs/mine", faces, "--limit", 2)
    assert code == 0 and "acd" in said
    table = results_table(read_runs(["runs/mine"]), published=published("sargan_table1"), metrics=("acd", "fvs", "parameters"))
    row = table[table.method == "SARGAN"].iloc[0]
    assert row["seeds"] == "1" and row["ACD"] != "–"
    parameters = sum(p.numel() for p in load_run("runs/mine").parameters())
    assert f"{parameters:,}" in row.to_string()


@pytest.mark.parametrize("name, fields", [("sargan", {}), ("usgan", {}), ("stargan", {}), ("sargan", dict(blocks=2)), ("usgan", dict(blocks=6))])
def test_every_published_layout(tmp_path, faces, name, fields):
    path = checkpoint(name, tmp_path/"G.ckpt", **fields)
    run = adopt_weights(path, name, tmp_path/"run", 32, fields=dict(width="4", **{k: str(v) for k, v in fields.items()}))
    G, x, c = load_run(run), torch.rand(2, 3, 32, 32)*2-1, torch.eye(7)[:2]
    params = read_yaml(run/"params.yaml")
    with torch.no_grad(): assert torch.equal(G(x, c), load_published(name, path, width=4, **fields)(x, c))
    assert (params["system"], params["width"], params["image_size"], params["adopted"]) == (name, 4, 32, "G.ckpt") and params["adopted_sha256"] == sha256(path)
    assert not {"lr", "l_cyc", "steps", "batch"} & set(params) # nobody knows them
    assert generator_file(run).name == "generator.safetensors" and own_folder(run, RUN, "a run") == run
    assert str(tmp_path) not in (run/"params.yaml").read_text()+(run/"provenance.json").read_text()
    found = evaluate_generator(G, load_faces(faces, "test", size=32), limit=1)
    assert len(found.table) == 6 and found.metrics["colour"]["n"] == 6


def test_our_own_file(tmp_path):
    "Its fields come from the file; --set may say them again, but nothing else."
    path = save_generator(Generator(width=4, block="sarb", blocks=2), tmp_path/"g.safetensors")
    assert read_yaml(adopt_weights(path, "sargan", tmp_path/"run", 32)/"params.yaml")["label"] == "SARGAN (2 blocks, width 4)"
    adopt_weights(path, "sargan", tmp_path/"again", 32, "mine", dict(blocks=2))
    assert read_yaml(tmp_path/"again"/"params.yaml")["label"] == "mine"
    with pytest.raises(FesganError, match="blocks is 2, not 3"): adopt_weights(path, "sargan", tmp_path/"three", 32, fields=dict(blocks=3))
    with pytest.raises(FesganError, match="knows 5 expressions"): adopt_weights(save_generator(Generator(5, 4), tmp_path/"five.safetensors"), "usgan", tmp_path/"five", 32)


def test_a_run_is_replaced_only_on_demand(tmp_path):
    path = checkpoint("usgan", tmp_path/"G.ckpt")
    words = ("adopt", path, "--as", "usgan", "--set", "width=4", "-o", tmp_path/"run")
    assert fesgan(*words, "--size", 32)[0] == 0
    (tmp_path/"run"/"metrics.json").write_text("{}")
    assert fesgan(*words, "--size", 32)[0] == 0 and (tmp_path/"run"/"metrics.json").exists() # the same: nothing to do
    fails(*words, "--size", 64, says="holds another run")
    assert (tmp_path/"run"/"metrics.json").exists()
    assert fesgan(*words, "--size", 64, "--replace")[0] == 0
    assert not (tmp_path/"run"/"metrics.json").exists() # the old numbers are void
    (tmp_path/"run"/"notes.txt").write_text("mine")
    fails(*words, "--size", 32, "--replace", says="notes.txt")
    assert (tmp_path/"run"/"notes.txt").read_text() == "mine"


@pytest.mark.parametrize("words, says", [
    (("no.ckpt", "--as", "usgan"), "no such file"), (("G.ckpt",), "needs --as"), (("G.ckpt", "--as", "wgan"), "choose one of"), (("G.ckpt", "--as", "usgan", "--set", "width=8"), "do not fit"),
    (("G.ckpt", "--as", "sargan", "--set", "width=4"), "do not fit"), (("G.ckpt", "--as", "usgan-paired", "--set", "width=4"), "choose one of: usgan, sargan, stargan"),
    (("G.ckpt", "--as", "usgan", "--set", "width=4", "--set", "block=sarb"), "not in the authors' layout"), (("G.ckpt", "--as", "usgan", "--set", "wings=2"), "wings"),
    (("G.ckpt", "--as", "usgan", "--set", "name=x"), "no field to set"), (("G.ckpt", "--as", "usgan", "--set", "width=4", "--size", "7"), "size is 7"),
    (("G.ckpt", "--as", "usgan", "--set", "width=4", "--size", "30"), "multiples of 4"), (("G.ckpt", "--as", "usgan", "--set", "width"), "is not field=value"),
    (("some.txt", "--as", "usgan"), "cannot be read as a state dict"), ((".", "--as", "usgan"), "no such file"),
    (("somebody:edit",), "needs --size and --label"), (("somebody:edit", "--size", "32", "--label", "x", "--as", "usgan"), "are for weights"), (("somebody:edit", "--size", "5", "--label", "x"), "size is 5")])
def test_wrong_words(tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    checkpoint("usgan", "G.ckpt")
    (tmp_path/"some.txt").write_text("hello")
    fails("adopt", *words, "-o", "run", says=says)
    assert not (tmp_path/"run").exists()


@pytest.mark.parametrize("out, says", [("/dev/null", "no folder"), ("", "the folder you are in"), ("G.ckpt/run", "below a file"), ("x"*300, "too long")])
def test_outputs(tmp_path, monkeypatch, out, says):
    monkeypatch.chdir(tmp_path)
    checkpoint("usgan", "G.ckpt")
    fails("adopt", "G.ckpt", "--as", "usgan", "--set", "width=4", "--size", 32, "-o", out, "--replace", says=says)
    fails("adopt", "mine:edit", "--size", 32, "--label", "x", "-o", out, "--replace", says=says)


# ---- functions

def test_a_function_is_evaluated(module, faces):
    code, said = fesgan("adopt", "somebody:edit", "--size", 32, "--label", "brighter where happy", "-o", "run")
    assert code == 0 and not (module/"imported").exists() # adopting imports nothing
    assert json.loads(generator_file("run").read_text()) == {"callable": "somebody:edit"}
    G, test = load_run("run"), load_faces(faces, "test", size=32)
    found = evaluate_generator(G, test, limit=2)
    table = found.table
    assert (module/"imported").exists() and len(table) == 12
    happy = (table.target == "happy").to_numpy()
    assert (table.colour[happy] > 0).all() and (table.colour[~happy] == 0).all() # the condition's fourth number is happy
    assert read_runs(["run"], allow_missing=True).label.tolist() == ["brighter where happy"]


@pytest.mark.skipif(not hasattr(edits, "load_run"), reason="evaluate_run reads weights alone")
def test_a_function_is_evaluated_from_the_command_line(module, faces):
    assert fesgan("adopt", "somebody:edit", "--size", 64, "--label", "brighter", "-o", "run")[0] == 0
    code, said = fesgan("evaluate", "run", faces, "--limit", 1)
    assert code == 0 and "colour" in said
    runs = read_runs(["run"])
    assert runs.label.tolist() == ["brighter"] and runs.colour.notna().all()


def test_a_module_moves_and_counts(module):
    adopt_callable("somebody:network", "run", 32, "mine")
    G = load_run("run")
    assert isinstance(G, Adopted) and not G.training and sum(p.numel() for p in G.parameters()) == 12
    adopt_callable("somebody:inner.edit", "inner", 32, "inner")
    assert load_run("inner")(torch.zeros(1, 3, 8, 8), torch.eye(7)[3:4]).max() > .19


@pytest.mark.parametrize("name, says", [
    ("somebody:missing", "somebody:missing cannot be imported .AttributeError"), ("nobody_here:edit", "nobody_here:edit cannot be imported .ModuleNotFoundError"),
    ("broken:edit", "broken:edit cannot be imported .ModuleNotFoundError: No module named 'nothing_of_this_name'"), ("somebody:number", "is a int; it must be a function"), ("somebody:Network", "is a type; it must be a function")])
def test_what_cannot_be_imported(module, name, says):
    adopt_callable(name, "run", 32, "x")
    path = list(sys.path)
    with pytest.raises(FesganError, match=says): load_run("run")
    assert sys.path == path


@pytest.mark.parametrize("name, says", [
    ("short", r"gave torch.float32 \(2, 3, 32, 31\) for faces \(2, 3, 32, 32\)"), ("words", "gave str for faces"), ("whole", "gave torch.uint8"), ("nothing", "NaN or infinity"), ("fails", "somebody:fails failed on faces .* .RuntimeError")])
def test_what_gives_no_faces(module, name, says):
    G = load_run(adopt_callable(f"somebody:{name}", "run", 32, "x"))
    with pytest.raises(FesganError, match=says): G(torch.zeros(2, 3, 32, 32), torch.eye(7)[:2])


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"callable": 7}', '{"callable": "os"}', '{"callable": "os:system(1)"}'])
def test_a_damaged_name(tmp_path, text):
    (tmp_path/"generator.json").write_text(text)
    with pytest.raises(FesganError, match="generator.json"): load_run(tmp_path)


# ---- evaluate

def test_evaluate_says_what_is_missing(tmp_path, faces):
    run = tmp_path/"run"
    fails("evaluate", run, faces, says="holds no generator.safetensors")
    save_generator(Generator(width=4), run/"generator.safetensors")
    fails("evaluate", run, faces, says="no params.yaml")
    (run/"params.yaml").write_text("label: mine\n")
    fails("evaluate", run, faces, says="lacks system, seed, image_size")
    for size in ("wide", "-1", "10000000000", "[]", "32.5"):
        (run/"params.yaml").write_text(f"label: mine\nsystem: usgan\nseed: 0\nimage_size: {size}\n")
        fails("evaluate", run, faces, says="size is")
    (run/"params.yaml").write_text("label: mine\nsystem: usgan\nseed: 0\nimage_size: 32\n")
    os.mkfifo(run/"metrics.json")
    fails("evaluate", run, faces, says="metrics.json is no regular file")


def test_a_full_disk_while_evaluating(tmp_path, faces, monkeypatch):
    run = adopt_weights(checkpoint("usgan", tmp_path/"G.ckpt"), "usgan", tmp_path/"run", 32, fields=dict(width=4))
    def full(*a, **kw): raise OSError(28, "No space left on device")
    monkeypatch.setattr(edits, "evaluate_run", full)
    fails("evaluate", run, faces, says="no space is left on the disk")


def test_load_run_reads_what_ships_and_what_was_trained(tmp_path):
    from fesgan.training.shipped import adopt
    run = adopt("usgan", tmp_path/"run")
    assert load_run(run).config["skip"] == "ultimate" and own_folder(run, RUN, "a run") == run


def test_the_list_of_models_names_what_each_has_seen():
    from fesgan.training.shipped import card_text, list_shipped, seen_sets, shipped_card
    said = fesgan("models")[1]
    for name in list_shipped():
        card = shipped_card(name)
        line = next(line for line in said.splitlines() if line.startswith(f"{name} "))
        assert f"faces of {'+'.join(seen_sets(card['params']))}, file verified" in line
        assert ("Face Research Lab London Set (DeBruine" in card_text(name, card)) == ("london" in line)
    assert "1,414 faces of moved+rendered" in said
