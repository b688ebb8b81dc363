"Whole-file failure modes and round trips of blocks, generator and critic, on tiny inputs."
import pickle

import pytest
import torch
from torch.nn import functional as F

from fesgan.files import FesganError
from fesgan.models.blocks import SARB, SEDN, count_parameters
from fesgan.models.critic import Critic
from fesgan.models.generator import Generator, load_generator, load_published, read_metadata, save_generator

BODY = {"main.0": (64, 10, 7, 7), "main.3": (128, 64, 4, 4), "main.6": (256, 128, 4, 4), "main.10": (256, 128, 4, 4), "main.13": (128, 64, 4, 4)}


def fake(name, seed=0):
    "A state dict with the published names and shapes, running statistics included, and seeded random numbers."
    gen = torch.Generator().manual_seed(seed)
    state = {}
    conv = lambda key,shape: state.__setitem__(f"{key}.weight", torch.randn(shape, generator=gen)*.03)
    def norm(key, n, tracked):
        state[f"{key}.weight"],state[f"{key}.bias"] = torch.rand(n, generator=gen) + .5,torch.randn(n, generator=gen)*.3
        if tracked: state.update({f"{key}.running_mean": torch.randn(n, generator=gen), f"{key}.running_var": torch.rand(n, generator=gen), f"{key}.num_batches_tracked": torch.tensor(7)})
    def unit(key, ni, nf, no_norm=False):
        conv(f"{key}.conv2d", (nf, ni, 3, 3))
        if no_norm: state[f"{key}.conv2d.bias"] = torch.randn(nf, generator=gen)
        else: norm(f"{key}.norm.norm", nf, False)
    def sedn(key, ni):
        for k in ("b1_2", "b2_2"): unit(f"{key}.{k}", ni, 64)
        for k in ("b1_1", "b2_1", "b2_plus_1", "b3_1", "b3_2"): unit(f"{key}.{k}", 64, 64)
        unit(f"{key}.out_block.0", 64, 1, no_norm=True)
    if name == "sargan": sedn("att_func", 3)
    for key,shape in BODY.items():
        conv(key, shape)
        i = int(key.split(".")[1])
        norm(f"main.{i+1}", shape[1] if i >= 10 else shape[0], True)
    if name == "usgan":
        for i in (0, 3): conv(f"main.9.main.{i}", (256, 256, 3, 3)); norm(f"main.9.main.{i+1}", 256, True)
    else:
        for k in ("conv1", "conv2"): unit(f"main.9.{k}", 256, 256)
        sedn("main.9.att_func", 256)
    conv("main.16", (3, 64, 7, 7))
    return state


def by_hand(w, x, c):
    "US-GAN or SARGAN computed from the authors' names with functional calls alone."
    norm = lambda h,k: F.instance_norm(h, weight=w[f"{k}.weight"], bias=w[f"{k}.bias"])
    h = torch.cat([x, c[:, :, None, None].repeat(1, 1, *x.shape[2:])], 1)
    for i,(stride,pad) in {0: (1, 3), 3: (2, 1), 6: (2, 1)}.items(): h = norm(F.conv2d(h, w[f"main.{i}.weight"], stride=stride, padding=pad), f"main.{i+1}").relu()
    if "main.9.main.0.weight" in w:
        f = norm(F.conv2d(h, w["main.9.main.0.weight"], padding=1), "main.9.main.1").relu()
        h = h + norm(F.conv2d(f, w["main.9.main.3.weight"], padding=1), "main.9.main.4")
    else:
        raw = lambda k,h,stride=1: F.conv2d(F.pad(h, (1, 1, 1, 1), mode="reflect"), w[f"main.9.{k}.conv2d.weight"], w.get(f"main.9.{k}.conv2d.bias"), stride)
        unit = lambda k,h,stride=1: norm(raw(k, h, stride), f"main.9.{k}.norm.norm")
        att = lambda k,h,stride=1: unit(f"att_func.{k}", h, stride).relu()
        double = lambda h: h.repeat_interleave(2, 2).repeat_interleave(2, 3)
        f = unit("conv2", unit("conv1", h).relu())
        half = att("b2_2", f, 2)
        quarter = att("b2_plus_1", att("b2_1", half, 2))
        half = att("b1_1", half) + att("b3_1", double(quarter))
        full = att("b1_2", f) + att("b3_2", double(half))
        h = h + torch.sigmoid(raw("att_func.out_block.0", full))*f
    for i in (10, 13): h = norm(F.conv_transpose2d(h, w[f"main.{i}.weight"], stride=2, padding=1), f"main.{i+1}").relu()
    return F.conv2d(h, w["main.16.weight"], padding=3).tanh() + x


def batch(size, n=2, seed=0):
    gen = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, size, size, generator=gen)*2 - 1,torch.eye(7)[torch.arange(n) % 7]


@pytest.mark.parametrize("name,registered", [("usgan", 2_533_440), ("sargan", 3_203_394)])
def test_published_weights_give_the_published_network(name, registered, tmp_path):
    state,(x,c) = fake(name),batch(32)
    assert sum(v.numel() for k,v in state.items() if k.rpartition(".")[2] in ("weight", "bias")) == registered
    with torch.no_grad(): expected = by_hand(state, x, c)
    assert (expected - x).abs().mean() > .01                       # the network does something
    torch.save(state, tmp_path/"200000-G.ckpt")
    torch.save({"state_dict": {f"module.{k}": v for k,v in state.items()}}, tmp_path/"wrapped.pth")
    for source in (state, tmp_path/"200000-G.ckpt", tmp_path/"wrapped.pth"):
        G = load_published(name, source)
        assert not G.training
        with torch.no_grad(): assert torch.allclose(G(x, c), expected, atol=1e-5)
        with torch.no_grad(): assert torch.allclose(G.train()(x, c), expected, atol=1e-5)  # instance statistics in both modes


def test_published_weights_without_running_statistics():
    state,(x,c) = fake("usgan"),batch(16)
    bare = {k: v for k,v in state.items() if k.rpartition(".")[2] in ("weight", "bias")}
    with torch.no_grad(): assert torch.equal(load_published("usgan", bare)(x, c), load_published("usgan", state)(x, c))


def test_every_misfit_is_named():
    state = fake("usgan")
    del state["main.4.bias"]
    state["main.0.weight"] = torch.zeros(64, 8, 7, 7)
    state["main.99.weight"] = torch.zeros(1)
    with pytest.raises(FesganError) as e: load_published("usgan", state)
    for part in ("3 of the weights", "missing: main.4.bias (128,)", "unexpected: main.99.weight (1,)", "main.0.weight is (64, 8, 7, 7), must be (64, 10, 7, 7)"): assert part in str(e.value)
    with pytest.raises(FesganError, match="usgan, sargan"): load_published("stgan", state)
    with pytest.raises(FesganError, match="missing: main.9.conv1.conv2d.weight"): load_published("sargan", fake("usgan"))
    assert load_published("usgan", {**fake("usgan"), "main.0.weight": torch.zeros(64, 8, 7, 7)}, n_conditions=5).config["n_conditions"] == 5


class Evil:
    def __reduce__(self): return (exec, ("raise SystemExit('code ran')",))


def test_checkpoint_files_that_are_none(tmp_path):
    (tmp_path/"empty.ckpt").write_bytes(b"")
    (tmp_path/"evil.ckpt").write_bytes(pickle.dumps({"main.0.weight": Evil()}, protocol=2))
    torch.save({"epoch": 3, "G": torch.zeros(1)}, tmp_path/"other.ckpt")
    torch.save(fake("usgan"), tmp_path/"whole.ckpt")
    (tmp_path/"cut.ckpt").write_bytes((tmp_path/"whole.ckpt").read_bytes()[:5000])
    for name in ("empty", "evil", "other", "cut", "missing"):
        with pytest.raises(FesganError, match=f"{name}.ckpt"): load_published("usgan", tmp_path/f"{name}.ckpt")


@pytest.mark.parametrize("kw", [dict(), dict(block="sarb", final_relu=True), dict(blocks=2, skip="none", n_conditions=5)])
def test_save_and_load(kw, tmp_path):
    G = Generator(width=4, **kw)
    path = save_generator(G.to(memory_format=torch.channels_last), tmp_path/"new"/"g.safetensors", label="x", seed=3)
    H = load_generator(path)
    assert H.config == G.config and not H.training
    assert all(torch.equal(a, H.state_dict()[k]) for k,a in G.state_dict().items())
    assert read_metadata(path)["seed"] == 3
    assert [p.name for p in path.parent.iterdir()] == ["g.safetensors"]
    half = load_generator(save_generator(G, tmp_path/"h.safetensors", dtype=torch.float16))
    assert all(v.dtype == torch.float32 for v in half.state_dict().values())
    assert (tmp_path/"h.safetensors").stat().st_size < path.stat().st_size


def test_generator_files_that_are_none(tmp_path):
    from safetensors.torch import save_file
    path = save_generator(Generator(width=4), tmp_path/"g.safetensors")
    (tmp_path/"cut.safetensors").write_bytes(path.read_bytes()[:-100])
    (tmp_path/"text.safetensors").write_text("hello")
    save_file({"w": torch.zeros(1)}, tmp_path/"foreign.safetensors")
    for name in ("cut", "text", "foreign", "missing"):
        with pytest.raises(FesganError, match=f"{name}.safetensors"): load_generator(tmp_path/f"{name}.safetensors")
    save_file({"w": torch.zeros(1)}, tmp_path/"odd.safetensors", {"generator": '{"width": 4}'})
    with pytest.raises(FesganError, match="missing: encode.0.weight"): load_generator(tmp_path/"odd.safetensors")
    save_file({"w": torch.zeros(1)}, tmp_path/"later.safetensors", {"generator": '{"gate": 4}'})
    with pytest.raises(FesganError, match="another version"): load_generator(tmp_path/"later.safetensors")


@pytest.mark.parametrize("block", ["residual", "sarb"])
@pytest.mark.parametrize("size", [20, 32, 36, 48, 64, 100, 256])
def test_sizes_that_work(block, size):
    x,c = batch(size, n=1)
    G = Generator(width=4, block=block).train()
    G(x, c).mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in G.parameters())


def test_oblong_images_work(): assert Generator(width=4, block="sarb")(torch.zeros(1, 3, 24, 40), torch.eye(7)[:1]).shape == (1, 3, 24, 40)


@pytest.mark.parametrize("block,size", [("residual", 4), ("residual", 30), ("sarb", 16), ("sarb", 33)])
def test_sizes_that_do_not(block, size):
    with pytest.raises(FesganError, match=f"{size}x{size} pixels do not fit.*multiples of 4"): Generator(width=4, block=block)(*batch(size))


@pytest.mark.parametrize("block", ["residual", "sarb"])
def test_channels_last_changes_nothing(block):
    G,(x,c) = Generator(width=8, block=block),batch(32)
    with torch.no_grad():
        expected = G(x, c)
        y = G.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last), c)
    assert torch.allclose(y, expected, atol=1e-5)


def test_an_edit_does_not_depend_on_the_batch():
    G,(x,c) = Generator(width=8, block="sarb"),batch(32, n=3)
    with torch.no_grad(): assert torch.allclose(G(x, c), torch.cat([G(x[i:i+1], c[i:i+1]) for i in range(3)]), atol=1e-5)


def test_labels_of_any_number_type():
    G,(x,c) = Generator(width=4),batch(16)
    with torch.no_grad(): assert torch.equal(G(x, c), G(x, c.long()))


@pytest.mark.parametrize("block", ["residual", "sarb"])
def test_every_parameter_learns(block):
    x,c = batch(32)
    G = Generator(width=4, block=block, blocks=2)
    (G(x, c) - torch.flip(x, (3,))).square().mean().backward()
    assert not [k for k,p in G.named_parameters() if p.grad is None or not p.grad.any()]


def test_the_attention_map_is_the_one_used():
    G,(x,c) = Generator(width=4, block="sarb"),batch(32)
    used = []
    G.body[0].attention.register_forward_hook(lambda m,i,o: used.append(o))
    with torch.no_grad(): G(x, c); a = G.attention(x, c)
    assert torch.equal(a, used[0]) and a.shape == (2, 1, 8, 8)


def test_block_parameters(): assert (count_parameters(SARB(256)), count_parameters(SEDN(256))) == (1_661_377, 480_705)


@pytest.mark.parametrize("size,kw,source,params", [(128, {}, 2, 44_778_432), (64, {}, 1, 44_735_424)])
def test_critic_at_paper_settings(size, kw, source, params):
    D = Critic(size, **kw)
    s,c = D(batch(size, n=1)[0])
    assert s.shape == (1, 1, source, source) and c.shape == (1, 7) and count_parameters(D) == params


@pytest.mark.parametrize("size", [32, 48, 100])
def test_gradient_penalty_reaches_the_weights(size):
    D,x = Critic(size, width=4),batch(size)[0].requires_grad_()
    g, = torch.autograd.grad(D(x)[0].sum(), x, create_graph=True)
    (g.flatten(1).norm(dim=1) - 1).square().mean().backward()
    for k,p in D.named_parameters(): assert (p.grad is not None and p.grad.any()) == (k.endswith("weight") and not k.startswith("condition")), k


def test_critic_double_backward_is_right():
    D = Critic(4, width=1, layers=2).double()
    x = torch.randn(1, 3, 4, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0), requires_grad=True)
    slope = lambda w: torch.autograd.grad(torch.func.functional_call(D, {"main.0.weight": w}, (x,))[0].sum(), x, create_graph=True)[0].square().sum()
    assert torch.autograd.gradcheck(slope, D.main[0].weight.detach().clone().requires_grad_())


def test_critic_limits():
    with pytest.raises(FesganError, match="choose between 1 and 5 layers, or images of at least 64 pixels"): Critic(32, layers=6)
    with pytest.raises(FesganError, match="built for 32x32"): Critic(32, width=4)(torch.zeros(1, 3, 64, 64))
    assert Critic(32, width=4).config["layers"] == 5
