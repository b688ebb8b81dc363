"""EGGAN where others use generators: with its frozen reader, in training, stopped and resumed, saved, exported, refused."""
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml

from fesgan.app.profiles import check_readers
from fesgan.data.faceset import FaceSet
from fesgan.evaluation.expression import save_judge
from fesgan.evaluation.people import frozen_readers, obtain_people_reader
from fesgan.files import FesganError
from fesgan.models.edit import edit_all
from fesgan.models.eggan import EGGAN
from fesgan.models.generator import load_generator, save_generator
from fesgan.training.systems import from_params, get_system
from fesgan.training.trainer import State, launch, read_history, train, update
from runs import STEPS

TINY = dict(width=4, critic_width=4, critic_layers=2, latent=8, batch=4, n_critic=2)


def people(n=14, size=32):
    "Faces whose units and people are known."
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, size, size), generator=rng, dtype=torch.uint8)
    catalog = pd.DataFrame({"subject": [f"p{i//7}" for i in range(n)], "dataset": "test"})
    return FaceSet(images, torch.arange(n) % 7, catalog, "test", aus=5*torch.rand(n, 17, generator=rng))


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    "A reader of the two people."
    made = obtain_people_reader(people(), epochs=1, width=4, batch_size=4, progress=False)[0]
    file = tmp_path_factory.mktemp("people")/"people.safetensors"
    save_judge(made, file)
    return file


@pytest.fixture(scope="module")
def readers(reader):
    return frozen_readers(get_system("eggan", **TINY), people(), dict(people=reader))


@pytest.fixture(scope="module")
def one(tmp_path_factory, readers):
    "A run."
    return train(get_system("eggan", **TINY), people(), tmp_path_factory.mktemp("eggan")/"run", readers=readers, **STEPS | dict(steps=10, log_every=2))


def state(system, readers, steps=6): return State(system, people(), launch("cpu", "32-true"), steps=steps, readers=readers)


@pytest.mark.parametrize("fields", [{}, dict(latent_loss="squares"), dict(l_id=0), dict(l_id=0, l_per=0), dict(l_ssim=0)])
def test_every_weight_learns_and_the_reader_does_not(readers, fields):
    s = state(get_system("eggan", **TINY, **fields), readers)
    def weights(): return {f"{n}.{k}": v.detach().clone() for n, m in s.nets.modules.items() for k, v in m.named_parameters()}
    before, frozen = weights(), {n: {k: v.clone() for k, v in m.state_dict().items()} for n, m in s.nets.readers.items()}
    for _ in range(4): logged = update(s)
    assert not [k for k, v in weights().items() if torch.equal(before[k], v)]
    assert all(torch.equal(v, s.nets.readers[n].state_dict()[k]) for n, held in frozen.items() for k, v in held.items())
    assert all(torch.isfinite(v) for v in logged.values())
    left_out = {f"generator/{k.removeprefix('l_')}" for k, v in fields.items() if v == 0}
    assert not left_out & logged.keys() and "generator/rec" in logged
    assert bool(s.nets.readers) == ("l_per" not in fields)


def test_no_reader_no_training(tmp_path):
    with pytest.raises(FesganError, match="a reader of people, and none is given"):
        train(get_system("eggan", **TINY), people(), tmp_path/"run", **STEPS)
    assert not (tmp_path/"run").exists()


def test_people_that_the_reader_does_not_know(readers, tmp_path):
    faces = people()
    faces.catalog["subject"] = "stranger"
    with pytest.raises(FesganError, match="'stranger' for one"):
        train(get_system("eggan", **TINY), faces, tmp_path/"run", readers=readers, **STEPS)


def test_its_hash_stands_in_the_parameters(one, readers):
    params = yaml.safe_load((one/"params.yaml").read_text())
    assert params["readers"] == {"people": readers["people"].sha256}
    assert from_params(params).latent == 8 and params["label"].startswith("EGGAN (")


@pytest.mark.parametrize("at", [3, 4]) # before an update without, and with, the generator's step
def test_a_stopped_run_goes_on_as_if_it_had_not_been(readers, tmp_path, at):
    system = get_system("eggan", **TINY)
    whole, part = state(system, readers), state(system, readers)
    for _ in range(6): last = update(whole)
    for _ in range(at): update(part)
    torch.save(part.state_dict(), tmp_path/"state.pt")
    later = state(system, readers)
    later.load_state_dict(torch.load(tmp_path/"state.pt", weights_only=False))
    for _ in range(6-at): again = update(later)
    assert {k: float(v) for k, v in last.items()} == {k: float(v) for k, v in again.items()}
    assert all(torch.equal(a, b) for a, b in zip(whole.nets.G.parameters(), later.nets.G.parameters()))


def test_the_classifier_learns_at_twice_the_rate(readers):
    s = state(get_system("eggan", **TINY), readers)
    s.set_rate(1e-4)
    assert {k: o.param_groups[0]["lr"] for k, o in s.optimizers.items()} == {
        ("D",): pytest.approx(1e-4), ("D_latent",): pytest.approx(1e-4), ("C_units",): pytest.approx(2e-4), ("G",): pytest.approx(1e-4)}


def test_history_names_every_phase(one):
    names = {n.split("/")[0] for n in read_history(one)[-1] if "/" in n}
    assert names == {"critic", "latent", "classifier", "generator"}


def test_saved_and_loaded_it_edits_the_same(tmp_path):
    torch.manual_seed(0)
    G, images = EGGAN(image_size=32, width=4, latent=8), people(3).images
    again = load_generator(save_generator(G, tmp_path/"G.safetensors"))
    assert type(again) is EGGAN and again.config == G.config and again.condition == "au"
    edits = edit_all(G, images)
    assert torch.equal(edit_all(again, images), edits) and not torch.equal(edits[:, 3], edits[:, 5])


def test_as_onnx_it_is_the_same(one, tmp_path):
    pytest.importorskip("onnxruntime")
    from fesgan.app.export import CLOSE, export_onnx
    assert export_onnx(one, tmp_path/"G.onnx") <= CLOSE


def test_what_does_not_go_together_is_said():
    with pytest.raises(FesganError, match="condition"): get_system("eggan", condition="label")
    with pytest.raises(FesganError, match="image_size=12 is too small"): get_system("eggan", image_size=12)
    with pytest.raises(FesganError, match="latent=0 is not"): get_system("eggan", latent=0)
    with pytest.raises(FesganError, match="say `people: {}`"): check_readers(get_system("eggan"), {})
    check_readers(get_system("eggan", l_id=0, l_per=0), {})
    check_readers(SimpleNamespace(name="usgan", readers=()), {})
