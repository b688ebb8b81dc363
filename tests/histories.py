"""Short trainings whose losses are kept in histories.json; `python tests/histories.py` writes them anew."""
import json, platform
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch

from fesgan.data.faceset import FaceSet
from fesgan.training.systems import get_system
from fesgan.training.trainer import read_history, train

KEPT = Path(__file__).with_suffix(".json")
SMALL = dict(width=4, critic_width=4, batch=4, n_critic=2)
RUNS = { # name: system, changed fields
    "US-GAN": ("usgan", dict(n_critic=3)),
    "SARGAN": ("sargan", {}),
    "SARGAN, six blocks, no skip": ("sargan", dict(blocks=6, skip=False)),
    "StarGAN + perceptual": ("stargan-perceptual", {}),
    "StarGAN + skip + dropout": ("stargan-skip-dropout", {}),
    "StarGAN, two data sets": ("stargan", dict(domains=2, balance=True)),
    "US-GAN, recoloured, with pairs": ("usgan", dict(recolour=.5, l_pair=10., decay_from=.25)),
    "pairs alone": ("usgan-paired", dict(moves=True, n_critic=1)),
}


def people(n=28, size=32):
    "Seeded noise: four people in seven expressions, two data sets, landmarks."
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, size, size), generator=rng, dtype=torch.uint8)
    table = pd.DataFrame(dict(subject=[str(i//7) for i in range(n)], dataset="test", domain=[i//14 for i in range(n)]))
    return FaceSet(images, torch.arange(n) % 7, table, "test", landmarks=torch.rand(n, 68, 2, generator=rng))


def machine():
    "What decides how sums are rounded: processor and PyTorch."
    cpu = [l.partition(": ")[2] for l in Path("/proc/cpuinfo").read_text().splitlines() if l.startswith("model name")]
    return [cpu[0] if cpu else platform.processor(), torch.backends.cpu.get_cpu_capability(), torch.__version__]


def history(name):
    "The terms of each of twelve updates, on one thread."
    system, fields = RUNS[name]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with TemporaryDirectory() as folder:
            run = train(get_system(system, **SMALL | fields), people(), Path(folder)/"run", steps=12, log_every=1, device="cpu")
            return [{k: v for k, v in line.items() if k != "updates_per_second"} for line in read_history(run)]
    finally: torch.set_num_threads(threads)


if __name__ == "__main__":
    rows = [f"{json.dumps(name)}: {json.dumps(history(name))}" for name in RUNS]
    KEPT.write_text('{"machine": ' + json.dumps(machine()) + ',\n "histories": {\n' + ",\n".join(rows) + "}}\n")
