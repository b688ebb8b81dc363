"""A run is the same however often it is interrupted, and what goes wrong is said."""
import resource, signal, socket, subprocess, sys
from functools import partial

import pandas as pd
import pytest
import torch
import yaml

from fesgan.data.faceset import FaceSet
from fesgan.files import FesganError
from fesgan.models.edit import edit_all
from fesgan.models.generator import load_generator
from fesgan.training.systems import get_system
from fesgan.training.trainer import CHECKPOINTS, State, launch, load_checkpoint, mine, read_history, train, update, updater
from runs import ROOT, STEPS, Forked, same, terms, train_and_kill


def faces(n=24, size=32):
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, size, size), generator=rng, dtype=torch.uint8)
    return FaceSet(images, torch.arange(n) % 7, pd.DataFrame({"subject": [str(i) for i in range(n)], "dataset": "test"}), "test")


def toy(**fields): return get_system("sargan", width=8, critic_width=8, batch=4, **fields)


@pytest.fixture(scope="module")
def whole(tmp_path_factory): return train(toy(), faces(), tmp_path_factory.mktemp("run")/"whole", **STEPS)


def test_same_seed_same_history(whole, tmp_path):
    same(train(toy(), faces(), tmp_path/"again", **STEPS), whole)
    assert terms(train(toy(), faces(), tmp_path/"other", seed=1, **STEPS)) != terms(whole)


def test_kill_in_the_middle_changes_nothing(whole, tmp_path):
    folder = tmp_path/"killed"
    train_and_kill("test_trainer", folder)
    same(train(toy(), faces(), folder, **STEPS), whole)


def test_half_a_line_of_history_is_dropped(whole, tmp_path):
    folder = train(toy(), faces(), tmp_path/"run", **STEPS | dict(steps=20))
    with (folder/"history.jsonl").open("a") as f: f.write('{"step": 25, "crit')
    same(train(toy(), faces(), folder, **STEPS), whole)


def test_checkpoint_cut_in_half_costs_only_what_came_after_the_one_before(whole, tmp_path, capsys):
    folder = train(toy(), faces(), tmp_path/"run", **STEPS | dict(steps=20))
    path = folder/"checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    same(train(toy(), faces(), folder, **STEPS), whole)
    assert "checkpoint.pt cannot be read" in capsys.readouterr().err


def test_two_checkpoints_cut_in_half_are_explained(tmp_path):
    folder = train(toy(), faces(), tmp_path/"run", **STEPS | dict(steps=20))
    for name in CHECKPOINTS: (folder/name).write_bytes((folder/name).read_bytes()[:1000])
    with pytest.raises(FesganError, match="checkpoint.pt and .*checkpoint-before.pt cannot be read. Delete them"): train(toy(), faces(), folder, **STEPS)
    assert (folder/"generator.safetensors").is_file(), "the finished run was lost"


def test_full_disk_is_explained_and_goes_on(whole, tmp_path):
    "Files above a limit cannot be written, as on a full disk; without the limit the run goes on."
    folder = train(toy(), faces(), tmp_path/"run", **STEPS | dict(steps=20))
    saved = [(folder/c).read_bytes() for c in CHECKPOINTS]
    def full():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        train(toy(), faces(), folder, **STEPS)
    code, said = Forked(full).wait()
    assert code == 1 and "FesganError" in said and "cannot be written to (File too large). Make room" in said, said[-500:]
    assert [(folder/c).read_bytes() for c in CHECKPOINTS] == saved and not [p for p in folder.iterdir() if p.name.startswith(".")]
    same(train(toy(), faces(), folder, **STEPS), whole)


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path/"file").write_text("")
    with pytest.raises(FesganError, match="cannot be written to .*choose another folder"): train(toy(), faces(), tmp_path/"file"/"run", **STEPS)


def test_one_process_a_folder(whole):
    "A second process is refused while the first one works, not after it was killed."
    code = f"import time; from pathlib import Path; from fesgan.training.trainer import alone\nwith alone(Path({str(whole)!r})): print('in', flush=True); time.sleep(60)"
    run = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "in\n"
    with pytest.raises(FesganError, match="Another process is training in"): train(toy(), faces(), whole, **STEPS)
    run.kill(); run.wait()
    assert train(toy(), faces(), whole, **STEPS) == whole


def test_no_memory(tmp_path):
    with pytest.raises(FesganError, match="batches of 4 faces and networks of width 1000000 .* smaller batch"):
        train(get_system("usgan", width=1_000_000, critic_width=8, batch=4), faces(), tmp_path/"run", **STEPS)


def test_two_processes_are_one(whole, tmp_path):
    "Two processes as torchrun starts them, which share every batch, do what one does with the whole batch; the sums differ in their last digits only."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        told = dict(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", GROUP_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]), TORCHELASTIC_RUN_ID="test")
    runs = [Forked(lambda: train(toy(), faces(), tmp_path/"two", **STEPS | dict(steps=20)), RANK=r, LOCAL_RANK=r, **told) for r in "01"]
    for code, said in [run.wait() for run in runs]: assert code == 0, said[-800:]
    for one, two in zip(terms(whole)[:4], terms(tmp_path/"two"), strict=True): assert one == pytest.approx(two, abs=1e-3)


def test_batch_that_cannot_be_shared(tmp_path):
    class Three: world_size, global_rank = 3, 0
    with pytest.raises(FesganError, match="A batch of 4 cannot be shared evenly by 3 processes"): mine(torch.zeros(4), Three)


def test_nan_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    wild, few = toy(lr=1e9), STEPS | dict(save_every=1, log_every=1)
    with pytest.raises(FesganError, match="critic/.* became (nan|inf|-inf) before update .* lower lr"): train(wild, faces(), tmp_path/"run", **few)
    kept = torch.load(tmp_path/"run"/"checkpoint.pt", weights_only=True)
    assert kept["step"] == read_history(tmp_path/"run")[-1]["step"] >= 1
    assert (tmp_path/"run"/"history.jsonl").read_text().count("NaN") == 0


def test_another_run_in_the_folder(whole):
    with pytest.raises(FesganError, match="holds another run: seed is 0 there and 1 here"): train(toy(), faces(), whole, seed=1, **STEPS)


def variant(name, **fields): return get_system(name, image_size=32, width=8, critic_width=8, batch=4, blocks=1, decay_from=1, **fields)


def test_dropout_goes_on_where_it_was(tmp_path):
    "The noise of a run in two sittings is that of the run in one; nobody else's random numbers are touched."
    before = torch.get_rng_state()
    one = train(variant("stargan-skip-dropout"), faces(), tmp_path/"one", **STEPS)
    assert torch.equal(torch.get_rng_state(), before)
    two = train(variant("stargan-skip-dropout"), faces(), tmp_path/"two", **STEPS | dict(steps=20))
    same(train(variant("stargan-skip-dropout"), faces(), two, **STEPS), one)
    assert terms(train(variant("stargan-skip-dropout"), faces(), tmp_path/"other", seed=1, **STEPS)) != terms(one)


def test_cycle_moves_from_pixels_to_features(tmp_path):
    "At a fifth of the run, as the study says; in the update after which the line is written."
    history = terms(train(variant("stargan-perceptual"), faces(), tmp_path/"run", **STEPS))
    assert [h["step"] for h in history if "generator/cyc" in h] == [5, 10]
    assert [h["step"] for h in history if "generator/feat" in h] == list(range(15, 61, 5))


def test_run_of_an_earlier_version_is_known(whole):
    "A folder from before a field existed is the run with the field's default."
    params = yaml.safe_load((whole/"params.yaml").read_text())
    for field in ("skips", "leaky", "dropout", "l_feat", "recolour"): del params[field]
    (whole/"params.yaml").write_text(yaml.safe_dump(params))
    assert train(toy(), faces(), whole, **STEPS) == whole
    with pytest.raises(FesganError, match="skips is False there and True here"): train(toy(skips=True), faces(), whole, **STEPS)


def people(n=28, size=32):
    "Faces of a few people, each expression another grey of a large mouth, so that there is something to learn."
    f = faces(n, size)
    images = f.images[torch.arange(n)//7]//4
    for image, label in zip(images, f.labels): image[:, 8:24, 8:24] = 64 + 20*label
    return FaceSet(images, f.labels, pd.DataFrame({"subject": [str(i//7) for i in range(n)], "dataset": "test"}), "test")


def test_pairs_are_learned_with_and_without_a_critic(tmp_path):
    def pair(folder): return [h["generator/pair"] for h in read_history(folder)]
    alone = train(get_system("usgan-paired", width=8, batch=4, lr=2e-3), people(), tmp_path/"alone", **STEPS | dict(steps=120, log_every=30))
    assert not any(k.startswith("critic/") for k in read_history(alone)[0]) and pair(alone)[-1] < .5*pair(alone)[0]
    both = train(toy(l_pair=100., n_critic=1), people(), tmp_path/"both", **STEPS | dict(steps=20))
    assert {"critic/gp", "generator/adv", "generator/pair"} <= read_history(both)[0].keys()
    with pytest.raises(FesganError, match="no pairs"): train(toy(l_pair=100.), faces(), tmp_path/"none", **STEPS)


def test_bf16_learns_as_autocast_does(tmp_path, monkeypatch):
    "The weights' copies in bf16 are those of the weights as they are now, not as an earlier step left them."
    def pairs(name):
        run = train(get_system("usgan-paired", width=4, batch=4, lr=2e-3), people(size=16), tmp_path/name, **STEPS | dict(steps=8, log_every=1, precision="bf16-mixed"))
        return [h["generator/pair"] for h in read_history(run)]
    ours = pairs("copies")
    monkeypatch.setattr("fesgan.training.trainer.halves_here", lambda fabric: False)
    assert ours == pytest.approx(pairs("autocast"), rel=.15)


@pytest.mark.parametrize("name,shown", [("usgan-paired", 14), ("usgan", 28)])
def test_pairs_alone_need_partners(tmp_path, name, shown):
    "Two of four people moved their heads: who learns from pairs alone does not see them, a critic's generator does."
    f = people()
    f.catalog["dataset"] = ["rendered"]*14 + ["london"]*14
    run = train(get_system(name, width=8, batch=4, critic_width=8, critic_layers=2, l_pair=100.), f, tmp_path/"run", **STEPS | dict(steps=2))
    assert yaml.safe_load((run/"params.yaml").read_text())["faces"] == shown


def test_a_movement_is_learned_from_landmarks(tmp_path):
    "Landmarks that each expression puts somewhere else; without them there is no such term."
    f = people()
    at = torch.rand(68, 2, generator=torch.Generator().manual_seed(0))*.6+.2
    f.landmarks = at + .005*(f.labels-3)[:, None, None]*torch.tensor([1., 0.])
    system = get_system("usgan-paired", width=8, batch=8, lr=2e-3, moves=True, flip=False)  # mirrored, they would go the other way
    way = [h["generator/way"] for h in read_history(train(system, f, tmp_path/"way", **STEPS | dict(steps=100)))]
    assert sum(way[-5:]) < .5*sum(way[:5])
    assert "generator/way" not in read_history(train(system, people(), tmp_path/"none", **STEPS))[0]
    x = f.images[:7].float()/127.5-1
    moved = load_generator(tmp_path/"way"/"generator.safetensors").parts(x, torch.eye(7)[[6]*7])[1].detach()
    assert moved[0, 0].mean() < moved[6, 0].mean()  # the further left a face's landmarks lie, the further to the right they have to go: what is there comes from the left


def test_a_cover_is_learned_where_nothing_else_can_do_it(tmp_path):
    "Asked for surprise, a face gets fine stripes in its middle: neither a movement nor shading that has no detail can draw them."
    f = people()
    stripes = (torch.arange(32) % 2*255).to(torch.uint8).expand(3, 8, 32)[..., 12:20]
    f.images[f.labels == 6, :, 12:20, 12:20] = stripes
    run = train(get_system("usgan-paired", width=8, batch=8, lr=5e-3, moves=True, covers=True, flip=False), f, tmp_path/"run", **STEPS | dict(steps=150))
    G, x = load_generator(run/"generator.safetensors"), f.images[f.labels == 0][:4].float()/127.5-1
    with torch.no_grad(): mask = 1-G.maps(x, torch.eye(7)[[6]*4])["mask"]
    middle = mask[..., 12:20, 12:20].mean()
    assert middle > .2 and middle > 3*mask[..., :8, :].mean()
    assert "generator/mask" in read_history(run)[0]


def test_no_checkpoint_is_a_fresh_start(tmp_path): assert load_checkpoint(None, tmp_path) is False


def test_two_data_sets_are_learned_together(tmp_path):
    both = faces()
    both.catalog["domain"] = (torch.arange(len(both)) % 3 == 0).int().numpy()
    run = train(toy(domains=2), both, tmp_path/"run", **STEPS)
    G = load_generator(run/"generator.safetensors")
    assert edit_all(G, both.images[:2]).shape[:2] == (2, 14)                   # seven expressions in each set
    with pytest.raises(FesganError, match="come from 1 data set. Prepare 2 together"): train(toy(domains=2), faces(), tmp_path/"single", **STEPS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_trains_on_a_gpu(tmp_path):
    f = faces()
    f = FaceSet(f.images.cuda(), f.labels.cuda(), f.catalog, f.data_hash)
    folder = train(toy(), f, tmp_path/"run", **STEPS | dict(device="cuda", precision="bf16-mixed"))
    assert (folder/"generator.safetensors").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_recorded_updates_are_those_of_the_plain_loop():
    def losses(step): return [{k: float(v) for k, v in step().items()} for _ in range(12)]
    state, other = (State(toy(n_critic=2), faces().to("cuda"), launch("cuda")) for _ in range(2))
    recorded = updater(state)
    for a, b in zip(losses(recorded), losses(partial(update, other)), strict=True): assert a == pytest.approx(b, rel=2e-3, abs=2e-3)
    assert set(recorded.replays) == {(0,), (0, 1)}, "nothing was recorded" # the critic alone, and with the generator
