"What stops a training, what is refused before it begins, and what another run in the folder means."
import os, signal, time
from functools import partial

import pytest
import torch
import yaml

from fesgan.files import FesganError
from fesgan.training import trainer
from fesgan.training.systems import get_system
from fesgan.training.trainer import Stopped, changed_params, read_history, read_params, train
from histories import people
from runs import fails, same

SHORT = dict(steps=4, log_every=2, save_every=2, sample_every=100, device="cpu")
FACES = people(14, 16)


def toy(**fields): return get_system("usgan", **dict(width=4, critic_width=4, batch=4, n_critic=2) | fields)


@pytest.fixture(scope="module")
def done(tmp_path_factory): return train(toy(), FACES, tmp_path_factory.mktemp("stops")/"done", **SHORT)


@pytest.fixture
def run(done, tmp_path):
    "A finished run of its own, as if it had been evaluated, too."
    import shutil
    shutil.copytree(done, tmp_path/"run")
    for name in trainer.MEASURED: (tmp_path/"run"/name).write_text("of the old generator")
    return tmp_path/"run"


def content(folder): return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_equal_runs_leave_equal_bytes(done, tmp_path):
    again = train(toy(), FACES, tmp_path/"again", **SHORT)
    for name in ("generator.safetensors", "params.yaml"): assert (again/name).read_bytes() == (done/name).read_bytes(), name


def test_longer_is_the_long_run(tmp_path, capsys):
    "Twice thirty updates are sixty in one go."
    both = SHORT | dict(steps=60, log_every=10, save_every=30)
    one = train(toy(), FACES, tmp_path/"one", **both)
    two = train(toy(), FACES, tmp_path/"two", **both | dict(steps=30))
    (two/"metrics.json").write_text("of the shorter run")
    train(toy(), FACES, two, **both)
    same(one, two)
    assert "goes on from 30 to 60 updates" in capsys.readouterr().err
    assert read_params(two)["steps"] == 60 and not (two/"metrics.json").exists()


@pytest.mark.parametrize("system,steps", [(toy(decay_from=.5), 8), (toy(l_feat=1.), 8), (toy(), 2)])
def test_not_longer_where_the_schedule_would_be_another(system, steps, tmp_path):
    run = train(system, FACES, tmp_path/"run", **SHORT)
    before = content(run)
    with pytest.raises(FesganError, match=f"holds another run: steps is 4 there and {steps} here"): train(system, FACES, run, **SHORT | dict(steps=steps))
    assert content(run) == before


def test_a_finished_run_is_lost_only_when_asked_for(run):
    before = content(run)
    with pytest.raises(FesganError, match="holds another run: lr is 0.0001 there and 0.001 here.*--replace"): train(toy(lr=1e-3), FACES, run, **SHORT)
    assert content(run) == before
    train(toy(lr=1e-3), FACES, run, **SHORT, replace=True)
    assert not [n for n in trainer.MEASURED if (run/n).exists()] and read_params(run)["lr"] == 1e-3


def test_finished_runs_need_no_checkpoints(run):
    for name in trainer.CHECKPOINTS: (run/name).unlink()
    before = content(run)
    train(toy(), FACES, run, **SHORT)
    assert content(run) == before


def test_changed_params(run):
    params = read_params(run)
    assert changed_params(run, params) == {} and changed_params(run/"none", params) == {}
    assert changed_params(run, dict(lr=1., seed=0, label="new")) == dict(lr=(1e-4, 1.))


def flip(path, at=None):
    "One bit of a file, in the middle of its weights."
    data = bytearray(path.read_bytes())
    data[at or len(data)//2] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_costs_the_updates_since_the_checkpoint_before(run, tmp_path, capsys):
    flip(run/"checkpoint.pt")
    long = SHORT | dict(steps=8)
    same(train(toy(), FACES, run, **long), train(toy(), FACES, tmp_path/"whole", **long))
    assert "checkpoint.pt cannot be read" in capsys.readouterr().err


def old_format(run):
    "Checkpoints as earlier versions wrote them."
    for name in trainer.CHECKPOINTS:
        saved = torch.load(run/name, weights_only=True)
        torch.save({k: v for k, v in saved.items() if k not in ("params", "sha256")}, run/name)


@pytest.mark.parametrize("harm,system,says", [
    (lambda r: [flip(r/c) for c in trainer.CHECKPOINTS], toy(), "cannot be read. Delete them"),
    (lambda r: (r/"params.yaml").unlink(), toy(lr=1e-3), "holds another run: lr is 0.0001 there"),
    (lambda r: (r/"params.yaml").write_text((r/"params.yaml").read_text().replace("lr: 0.0001", "lr: 0.001")), toy(lr=1e-3), "checkpoints in .* of another run: lr was 0.0001 and is 0.001"),
    (lambda r: (old_format(r), (r/"params.yaml").unlink()), toy(width=8), "checkpoints in .* of another run"),
    (lambda r: (r/"params.yaml").write_text("[unclosed"), toy(), "params.yaml holds no parameters of a run"),
    (lambda r: (r/"params.yaml").write_bytes(b"\xff\xfe\x00"), toy(), "params.yaml holds no parameters of a run"),
    (lambda r: (r/"params.yaml").write_text("just text"), toy(), "params.yaml holds no parameters of a run"),
    (lambda r: (r/"history.jsonl").write_bytes(b"\x00\xff\n{\"step\": 4}\n"), toy(), "history.jsonl is damaged: its line 1"),
    (lambda r: (r/"history.jsonl").write_text('{"step": 2}\n3\n'), toy(), "history.jsonl is damaged: its line 2"),
])
def test_a_damaged_run_is_not_trained_on(run, harm, system, says):
    harm(run)
    (run/"generator.safetensors").unlink()                                      # so that there is something to do
    with pytest.raises(FesganError, match=says): train(system, FACES, run, **SHORT)


def test_lost_parameters_come_back(run):
    params = read_params(run)
    (run/"params.yaml").unlink()
    train(toy(), FACES, run, **SHORT)
    assert read_params(run) == params


def test_checkpoints_of_earlier_versions_are_read(run, tmp_path):
    old_format(run)
    long = SHORT | dict(steps=8)
    same(train(toy(), FACES, run, **long), train(toy(), FACES, tmp_path/"whole", **long))


@pytest.mark.parametrize("fields,changed,says", [
    (dict(batch=1e12), {}, "Not enough memory for batches of 1000000000000 faces .* GB are needed, .* GB are free"),
    (dict(width=10**6), {}, "Not enough memory"), (dict(critic_layers=9), {}, "choose between 1 and 4 layers"), (dict(block="sarb"), {}, "at least 20 with the sarb block"),
    (dict(domains=2), {}, "come from 1 data set"), ({}, dict(steps=0), "steps=0"), ({}, dict(steps=1.5), "steps=1.5"), ({}, dict(seed=-1), "seed=-1"),
    ({}, dict(seed=2**70), "is not a whole number from 0 to"), ({}, dict(log_every=0), "log_every=0"), ({}, dict(precision="16-bit"), "precision '16-bit' is not known")])
def test_what_cannot_be_trained_claims_no_folder(fields, changed, says, tmp_path):
    start = time.monotonic()
    with pytest.raises(FesganError, match=says): train(toy(**fields), FACES, tmp_path/"run", **SHORT | changed)
    assert not (tmp_path/"run").exists() and time.monotonic() - start < 60
    train(toy(), FACES, tmp_path/"run", **SHORT | dict(steps=1))


def test_a_size_that_fails_leaves_the_folder_free(tmp_path):
    with pytest.raises(FesganError, match="18x18 pixels do not fit"): train(toy(), people(14, 18), tmp_path/"run", **SHORT)
    train(toy(), FACES, tmp_path/"run", **SHORT | dict(steps=1))


@pytest.mark.parametrize("name", ["prepare.json", "faces.npy", "notes.txt", "photos/anna.jpg"])
def test_a_folder_with_something_else_is_left_alone(name, tmp_path):
    (tmp_path/name).parent.mkdir(exist_ok=True)
    (tmp_path/name).write_text("mine")
    before = content(tmp_path)
    with pytest.raises(FesganError, match="is no run folder: it holds"): train(toy(), FACES, tmp_path, **SHORT, replace=True)
    assert content(tmp_path) == before


def test_not_a_folder(tmp_path):
    os.mkfifo(tmp_path/"fifo")
    for path in ("/dev/null", tmp_path/"fifo", tmp_path/("x"*300)):
        with pytest.raises(FesganError, match="cannot be written to"): train(toy(), FACES, path, **SHORT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_save_first(number, tmp_path, monkeypatch, done):
    save = trainer.save_checkpoint
    def save_and_stop(state, folder):
        save(state, folder)
        os.kill(os.getpid(), number)
    before = signal.getsignal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with monkeypatch.context() as m:
            m.setattr(trainer, "save_checkpoint", save_and_stop)
            with pytest.raises(Stopped, match="stopped after 3 of 4 updates"): train(toy(), FACES, tmp_path/"run", **SHORT)
    finally: signal.signal(signal.SIGHUP, before)
    same(train(toy(), FACES, tmp_path/"run", **SHORT), done)


def clock(hours, jump): return 1e9 - jump*next(hours)


def test_a_clock_that_jumps(tmp_path, monkeypatch):
    "The clock of the day stands still, or goes back an hour at each look."
    for jump in (0, 3600):
        hours = iter(range(10**6))
        with monkeypatch.context() as m:
            m.setattr(time, "time", partial(clock, hours, jump))
            run = train(toy(), FACES, tmp_path/f"run{jump}", **SHORT)
        facts = yaml.safe_load((run/"provenance.json").read_text())
        assert facts["seconds"] >= 0 and all(h["updates_per_second"] > 0 for h in read_history(run))


@pytest.mark.parametrize("words,says", [
    (["--seed", "-1"], "Invalid value for '--seed'"), (["--seed", 2**70], "is not a whole number from 0 to"), (["--set", "name=x"], "field of usgan 'name' is not known"),
    (["--set", "image_size=33"], "33x33 pixels do not fit"), (["--set", "batch=1e12"], "GB are needed"), (["--set", "l_cyc=inf"], "l_cyc=inf is not a number"),
    (["--set", "title=Mine"], "field of usgan 'title' is not known")])
def test_the_command_line(words, says, tmp_path, prepared):
    fails("train", "usgan", prepared, "-o", tmp_path/"run", "--device", "cpu", *words, says=says)
    assert not (tmp_path/"run").exists()


def test_the_faces_folder_is_no_run_folder(prepared): fails("train", "usgan", prepared, "-o", prepared, "--device", "cpu", says="is no run folder")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    from fesgan.data.catalog import read_catalog
    from fesgan.data.prepared import prepare_faces
    return prepare_faces(read_catalog("rendered"), tmp_path_factory.mktemp("prepared")/"faces", size=32, crop="whole", limit=28)
