"""EF-GAN and Cascade EF-GAN where others use generators: in training, started from another run, stopped and resumed, saved, exported."""
import pandas as pd
import pytest
import torch
import yaml

from fesgan.data.faceset import FaceSet
from fesgan.files import FesganError
from fesgan.models.cascade import Cascade
from fesgan.models.edit import edit_all
from fesgan.models.efgan import EFGAN
from fesgan.models.generator import load_generator, save_generator
from fesgan.training.systems import get_system
from fesgan.training.trainer import State, launch, read_history, train, update
from runs import STEPS

TINY = dict(width=4, critic_width=4, critic_layers=2, blocks=1, batch=4, n_critic=2)


def people(n=14, size=32, landmarks=True):
    "Faces whose units and landmarks are known."
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, size, size), generator=rng, dtype=torch.uint8)
    marks = torch.rand(n, 68, 2, generator=rng) if landmarks else None
    catalog = pd.DataFrame({"subject": [str(i//7) for i in range(n)], "dataset": "test"})
    return FaceSet(images, torch.arange(n) % 7, catalog, "test", landmarks=marks, aus=5*torch.rand(n, 17, generator=rng))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    "A run of EF-GAN."
    return train(get_system("efgan", **TINY), people(), tmp_path_factory.mktemp("efgan")/"run", **STEPS | dict(steps=10, log_every=2))


@pytest.mark.parametrize("name", ["efgan", "cascade"])
@pytest.mark.parametrize("fields", [{}, dict(focuses=False), dict(skip="ultimate"), dict(transformer="residual", skip="ultimate")])
def test_every_weight_learns(name, fields):
    "After some updates no weight is as it was; a Wasserstein critic's last offset alone changes nothing, and stays."
    state = State(get_system(name, **TINY, **fields), people(), launch("cpu", "32-true"), steps=4)
    def weights(): return {f"{n}.{k}": v.detach().clone() for n, m in state.nets.modules.items() for k, v in m.named_parameters()}
    before = weights()
    for _ in range(4): logged = update(state)
    still = [k for k, v in weights().items() if torch.equal(before[k], v)]
    assert still in ([], ["D_units.net.4.bias"]) and all(torch.isfinite(v) for v in logged.values())
    assert {"generator/mask", "generator/tv", "generator/aus", "generator/cyc"} <= logged.keys()
    assert ("units/gp" in logged and "generator/interp" in logged) == (name == "cascade")


def test_it_looks_where_the_training_faces_are(one):
    G = load_generator(one/"generator.safetensors")
    marks = people().landmarks
    assert type(G) is EFGAN and G.condition == "au"
    x, y = marks[:, 48:68].mean((0, 1)).tolist()
    assert G.places["mouth"] == pytest.approx((x, y), abs=1/256)


def test_without_landmarks_it_looks_where_faces_of_that_crop_are():
    state = State(get_system("efgan", **TINY), people(landmarks=False), launch("cpu", "32-true"), steps=4)
    assert state.nets.G.places["eyes"] == pytest.approx((.5, .44), abs=1/256) # crop "whole"


def test_a_cascade_starts_from_an_efgan(one, tmp_path):
    system = get_system("cascade", **TINY)
    run = train(system, people(), tmp_path/"run", start=one/"generator.safetensors", **STEPS | dict(steps=4, log_every=2))
    assert yaml.safe_load((run/"params.yaml").read_text())["start"]
    begun = State(system, people(), launch("cpu", "32-true"), steps=4).nets.G
    begun.start_from(load_generator(one/"generator.safetensors"))
    weights = [s.whole.colour.weight for s in begun.stages]
    assert all(torch.equal(weights[0], w) for w in weights)
    trained = [s.whole.colour.weight for s in load_generator(run/"generator.safetensors").stages]
    assert not any(torch.equal(trained[0], w) for w in trained[1:])                  # and then each goes its own way
    with pytest.raises(FesganError, match="wrong shape"):
        train(get_system("cascade", **TINY | dict(width=8)), people(), tmp_path/"other", start=one/"generator.safetensors", **STEPS | dict(steps=4))


@pytest.mark.parametrize("at", [3, 4]) # before a critic's update, and before the generator's
def test_a_stopped_cascade_goes_on_as_if_it_had_not_been(tmp_path, at):
    system = get_system("cascade", **TINY)
    def state(): return State(system, people(), launch("cpu", "32-true"), steps=6)
    whole, part = state(), state()
    for _ in range(6): last = update(whole)
    for _ in range(at): update(part)
    torch.save(part.state_dict(), tmp_path/"state.pt")
    later = state()
    later.load_state_dict(torch.load(tmp_path/"state.pt", weights_only=False))
    for _ in range(6-at): again = update(later)
    assert {k: float(v) for k, v in last.items()} == {k: float(v) for k, v in again.items()}
    assert all(torch.equal(a, b) for a, b in zip(whole.nets.G.parameters(), later.nets.G.parameters()))


@pytest.mark.parametrize("make", [lambda: EFGAN(width=4, blocks=1), lambda: Cascade(width=4, blocks=1)])
def test_saved_and_loaded_it_edits_the_same(make, tmp_path):
    torch.manual_seed(0)
    G, images = make(), people(3).images
    G.condition = type(G).condition
    again = load_generator(save_generator(G, tmp_path/"G.safetensors"))
    assert type(again) is type(G) and again.config == G.config
    edits = edit_all(G, images)
    assert torch.equal(edit_all(again, images), edits)
    assert edits.shape == (3, 7, 3, 32, 32) and not torch.equal(edits[:, 3], edits[:, 5])


def test_a_strangers_stages_are_refused(tmp_path):
    G = Cascade(width=4, blocks=0)
    G.config["stages"] = 60000
    with pytest.raises(FesganError, match="stages=60000, but the file holds"): load_generator(save_generator(G, tmp_path/"G.safetensors"))


def test_what_does_not_go_together_is_said():
    with pytest.raises(FesganError, match="au_pair"): get_system("cascade", condition="au")
    with pytest.raises(FesganError, match="stages=0 is not"): get_system("cascade", stages=0)


def test_one_stage_has_no_way_between():
    state = State(get_system("cascade", **TINY, stages=1), people(), launch("cpu", "32-true"), steps=2)
    logged = update(state) | update(state)
    assert not any(k.startswith("units/") or k == "generator/interp" for k in logged)


def test_as_onnx_it_is_the_same(one, tmp_path):
    pytest.importorskip("onnxruntime")
    from fesgan.app.export import CLOSE, export_onnx
    assert export_onnx(one, tmp_path/"G.onnx") <= CLOSE
    run = train(get_system("efgan", **TINY, transformer="residual"), people(), tmp_path/"run", **STEPS)
    assert export_onnx(run, tmp_path/"added.onnx") <= CLOSE


def test_history_names_every_phase(tmp_path):
    run = train(get_system("cascade", **TINY), people(), tmp_path/"run", **STEPS | dict(steps=4, log_every=2))
    names = read_history(run)[-1].keys()
    assert {"critic/gp", "units/real", "generator/straight"} <= names
