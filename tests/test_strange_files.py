"Files that somebody else wrote: generators, checkpoints, parameters. None fills the memory, none ends in a traceback."
import json, os, stat, time

import pytest
import torch
from safetensors.torch import save_file

from fesgan.files import FesganError, parse_yaml, read_yaml
from fesgan.models import generator as module
from fesgan.models.generator import Generator, load_generator, load_published, published_names, read_metadata, save_generator
from runs import fails


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return Generator(width=4)


def strange(small, path, weights=None, text=None, drop=(), **config):
    "A file like ours with other numbers in it."
    state = {k: v.detach().clone() for k, v in small.state_dict().items() if k not in drop}
    if weights: state["decode.6.weight"] = weights(state["decode.6.weight"])
    save_file(state, path, {"generator": json.dumps(small.config | config) if text is None else text})
    return path


NUMBERS = [
    (dict(blocks=100_000), "blocks=100000 is out of range"), (dict(blocks=60_000), "the file holds 22 tensors"), (dict(width=10**9), "width=1000000000 is out of range"),
    (dict(width=-1), "width=-1 is out of range"), (dict(width=0), "out of range"), (dict(width=4.5), "not of the type int"), (dict(width=True), "not of the type int"),
    (dict(width="4"), "not of the type int"), (dict(width=None), "not of the type int"), (dict(width=float("nan")), "not of the type int"), (dict(n_conditions=10**12), "out of range"),
    (dict(domains=-3), "out of range"), (dict(moves="yes"), "not of the type bool"), (dict(block="wing"), "choose one of"), (dict(block=[]), "not of the type str"),
    (dict(wings=2), "another version of fesgan"), (dict(blocks=2), "do not fit"), (dict(width=60_000), "do not fit"), (dict(skip="some"), "choose one of"),
    (dict(text="7"), "not a set of arguments"), (dict(text="{"), "metadata is damaged"), (dict(text="["*100_000), "metadata is damaged"), (dict(text="[1]"), "not a set of arguments"),
    (dict(weights=lambda w: w*float("nan")), "NaN or infinity"), (dict(weights=lambda w: w/0), "NaN or infinity"), (dict(weights=lambda w: w.double().fill_(1e300)), "NaN or infinity"),
    (dict(weights=lambda w: w.int()), "real numbers"), (dict(weights=lambda w: w.bool()), "real numbers"), (dict(weights=lambda w: w.to(torch.complex64)), "real numbers"),
    (dict(weights=lambda w: w[:1].clone()), "do not fit"), (dict(drop=("decode.6.weight",)), "missing: decode.6.weight")]


@pytest.mark.parametrize("change, says", NUMBERS)
def test_generators_of_strangers(tmp_path, small, change, says):
    start = time.time()
    with pytest.raises(FesganError) as e: load_generator(strange(small, tmp_path/"g.safetensors", **change))
    assert says in str(e.value) and "g.safetensors" in str(e.value) or "choose one of" in says
    assert time.time()-start < 30
    fails("adopt", tmp_path/"g.safetensors", "--as", "usgan", "-o", tmp_path/"run", says=" ".join(says.split()))
    assert not (tmp_path/"run").exists()


def test_nothing_is_built_before_the_numbers_are_read(tmp_path, small, monkeypatch):
    "Sixty gigabytes of weights are never asked for: shapes are compared without memory."
    path = strange(small, tmp_path/"g.safetensors", width=60_000)
    made = []
    real = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **kw: made.append(t := real(*a, **kw)) or t)
    with pytest.raises(FesganError, match="do not fit"): load_generator(path)
    assert made and all(t.is_meta for t in made)


@pytest.mark.parametrize("content", [b"", b"x"*7, b"\xff"*64, (10**15).to_bytes(8, "little")+b"{}"])
def test_no_safetensors_at_all(tmp_path, content):
    (tmp_path/"g.safetensors").write_bytes(content)
    with pytest.raises(FesganError, match="is not a safetensors file"): load_generator(tmp_path/"g.safetensors")


def test_a_pipe_is_no_generator(tmp_path):
    os.mkfifo(tmp_path/"g.safetensors")
    with pytest.raises(FesganError, match="no such file"): load_generator(tmp_path/"g.safetensors")


@pytest.mark.parametrize("change, says", [
    (lambda s: s | {"main.16.weight": s["main.16.weight"]*float("nan")}, "NaN or infinity"), (lambda s: s | {"main.16.weight": s["main.16.weight"].int()}, "real numbers"),
    (lambda s: s | {"main.16.weight": torch.zeros(1).expand(10**6, 10**6)}, "wrong shape"), (lambda s: {k: v for k, v in s.items() if "main.9" not in k}, "missing"),
    (lambda s: s | {"main.16.weight": s["main.16.weight"].to_sparse()}, "real numbers"), (lambda s: {}, "no plain state dict"), (lambda s: {"a": 1}, "no plain state dict")])
def test_checkpoints_of_strangers(tmp_path, small, change, says):
    theirs = {k: small.state_dict()[v] for k, v in published_names("usgan").items()}
    torch.save(change(theirs), tmp_path/"G.ckpt")
    with pytest.raises(FesganError, match=says): load_published("usgan", tmp_path/"G.ckpt", width=4)
    fails("adopt", tmp_path/"G.ckpt", "--as", "usgan", "--set", "width=4", "-o", tmp_path/"run", says=says)


def test_loaded_weights_are_a_copy_and_the_random_state_stays(tmp_path, small):
    path = save_generator(small, tmp_path/"g.safetensors")
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    G = load_generator(path)
    assert torch.equal(torch.random.get_rng_state(), before)
    first = G.decode[6].weight.clone()
    path.write_bytes(b"\0"*path.stat().st_size) # in place, under the map
    assert torch.equal(G.decode[6].weight, first) and all(p.requires_grad and p.dtype == torch.float32 for p in G.parameters())


def test_equal_runs_give_equal_files(tmp_path, small):
    old = os.umask(0o027)
    try: paths = [save_generator(small, tmp_path/f"{i}.safetensors", label="x", updates=5, a=1, b=2, c="Ünïcode") for i in range(12)]
    finally: os.umask(old)
    assert len({p.read_bytes() for p in paths}) == 1
    assert stat.S_IMODE(paths[0].stat().st_mode) == 0o640
    assert read_metadata(paths[0])["c"] == "Ünïcode" and torch.equal(load_generator(paths[0]).decode[6].weight, small.decode[6].weight)


def test_files_of_earlier_versions_load(tmp_path, small):
    "Metadata in any order, fewer fields, half precision."
    state = {k: v.half() for k, v in small.state_dict().items()}
    few = {k: small.config[k] for k in ("width", "n_conditions", "block", "blocks", "skip", "final_relu")}
    save_file(state, tmp_path/"old.safetensors", {"label": '"US-GAN"', "generator": json.dumps(few)})
    assert load_generator(tmp_path/"old.safetensors").config == small.config


# ---- YAML

BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(f"{b}: &{b} [{','.join(['*'+a]*9)}]\n" for a, b in zip("abcdefghijklmno", "bcdefghijklmnop"))


@pytest.mark.parametrize("text, says", [
    (BOMB, "reference *a is not read"), ("a: &a 1\nb: *a", "reference *a"), ("x: &x {<<: *x}", "reference *x"), ("a: [", "is not YAML"), ("["*5_000, "is not YAML"),
    ("!!python/object/apply:os.system ['true']", "is not YAML"), ("7", "no fields"), ("", "no fields"), ("- 1", "no fields"), ("a: 2026-99-99", "is not YAML"), ("\x00", "is not YAML")])
def test_parameters_of_strangers(tmp_path, text, says):
    (tmp_path/"params.yaml").write_text(text)
    start = time.time()
    with pytest.raises(FesganError) as e: read_yaml(tmp_path/"params.yaml")
    assert says in str(e.value) and "params.yaml" in str(e.value) and time.time()-start < 30


def test_evaluate_reads_no_bomb(tmp_path, small):
    save_generator(small, tmp_path/"run"/"generator.safetensors")
    (tmp_path/"run"/"params.yaml").write_text(BOMB)
    fails("evaluate", tmp_path/"run", tmp_path, says="reference *a is not read")


def test_parameters_that_cannot_be_read(tmp_path):
    (tmp_path/"params.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(FesganError, match="cannot be read"): read_yaml(tmp_path/"params.yaml")
    with pytest.raises(FesganError, match="no such file"): read_yaml(tmp_path)


def test_what_we_write_is_read():
    import yaml
    from fesgan.training.systems import SYSTEMS, as_params
    for system in SYSTEMS.values(): assert parse_yaml(yaml.safe_dump(as_params(system), sort_keys=False)) == as_params(system)


def test_the_shipped_cards_and_profiles_are_read():
    from fesgan.files import project, shipped
    for path in [*shipped("models").glob("*.yaml"), *project("profiles").glob("*.yaml")]: assert read_yaml(path)
    assert module.MOST > 1000
