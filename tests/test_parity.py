"Trainings give what they gave before, and what the papers' equations say."
import copy, json

import pytest
import torch

from fesgan.training.systems import get_system
from fesgan.training.trainer import State, draw, launch, learn
from histories import KEPT, RUNS, history, machine, people

KEPT = json.loads(KEPT.read_text())


@pytest.mark.parametrize("name", RUNS)
def test_history_is_the_old_one(name):
    "To the last digit where the numbers were made; another processor or PyTorch rounds otherwise, and Adam makes a millionth a hundredth in twelve updates."
    found, kept = history(name), KEPT["histories"][name]
    if machine() == KEPT["machine"]: assert found == kept
    assert found[0] == pytest.approx(kept[0], rel=1e-5, abs=1e-6)
    for a, b in zip(found, kept, strict=True): assert a == pytest.approx(b, rel=2e-2, abs=1e-4)


def plain_updates(G, D, system, batches, alphas):
    "Losses of every update as the papers' equations say, with autograd alone, one term after the other."
    rates = dict(lr=system.lr, betas=(system.beta1, system.beta2))
    opt_G, opt_D = torch.optim.Adam(G.parameters(), **rates), torch.optim.Adam(D.parameters(), **rates)
    def code(labels): return torch.eye(7, dtype=torch.float64)[labels]
    def entropy(logits, labels): return -(logits - logits.logsumexp(1, keepdim=True))[torch.arange(len(labels)), labels].mean()
    losses = []
    for k, (b, alpha) in enumerate(zip(batches, alphas), 1):
        fake = G(b.x, code(b.target)).detach()
        mixed = (alpha.view(-1, 1, 1, 1)*b.x + (1 - alpha.view(-1, 1, 1, 1))*fake).requires_grad_()
        slope, = torch.autograd.grad(D(mixed)[0].sum(), mixed, create_graph=True)
        gp = ((slope.square().sum((1, 2, 3)).sqrt() - 1)**2).mean()
        (real, logits), made = D(b.x), D(fake)[0]
        line = {"critic/real": -real.mean(), "critic/fake": made.mean(), "critic/cls": entropy(logits, b.label), "critic/gp": gp}
        opt_D.zero_grad()
        (line["critic/real"] + line["critic/fake"] + system.l_cls*line["critic/cls"] + system.l_gp*gp).backward()
        opt_D.step()
        if k % system.n_critic == 0:
            fake = G(b.x, code(b.target))
            score, logits = D(fake)
            cycle = (b.x - G(fake, code(b.label))).abs().mean()
            line |= {"generator/adv": -score.mean(), "generator/cls": entropy(logits, b.target), "generator/cyc": cycle}
            opt_G.zero_grad()
            (line["generator/adv"] + system.l_cls*line["generator/cls"] + system.l_cyc*cycle).backward()
            opt_G.step()
        losses.append({k: v.item() for k, v in line.items()})
    return losses


@pytest.mark.parametrize("name", ["usgan", "sargan", "stargan"])
def test_training_is_what_the_equations_say(name):
    "Ten critic and two generator updates in double precision, beside a loop written from the equations."
    system = get_system(name, width=4, critic_width=4, batch=4)
    state = State(system, people(), launch("cpu"))
    nets = state.nets.G, state.nets.D
    G, D = (copy.deepcopy(m).double() for m in nets)
    for m in nets: m.double()
    drawn = [draw(state) for _ in range(10)]
    batches = [d[0].each(lambda t: t.double() if t.is_floating_point() else t) for d in drawn]
    alphas = [d[1]["alpha"].double() for d in drawn]
    ours = [{k: v for k, v in learn(state, b, dict(alpha=a), due).items()} for b, a, (_, _, due) in zip(batches, alphas, drawn)]
    assert {v.dtype for line in ours for v in line.values()} == {torch.float64}, "a loss was cut to single precision"
    theirs = plain_updates(G, D, system, batches, alphas)
    assert [line.keys() for line in ours] == [line.keys() for line in theirs] and "generator/cyc" in ours[9]
    for a, b in zip(ours, theirs): assert {k: v.item() for k, v in a.items()} == pytest.approx(b, rel=1e-10, abs=1e-12)
    for a, b in zip(nets, (G, D)):
        for p, q in zip(a.parameters(), b.parameters()): assert torch.allclose(p, q, rtol=0, atol=1e-10)
