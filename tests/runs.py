"""What tests share: training runs, the command line, the study."""
import os, signal, subprocess, sys, time
from pathlib import Path

import torch

from fesgan.models.generator import load_generator
from fesgan.training.trainer import read_history

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
STEPS = dict(steps=60, log_every=5, save_every=10, sample_every=30, device="cpu")


def terms(folder): return [{k: v for k, v in h.items() if k != "updates_per_second"} for h in read_history(folder)]


def same(a, b):
    assert terms(a) == terms(b)
    x, y = (load_generator(f/"generator.safetensors").state_dict() for f in (a, b))
    assert all(torch.equal(x[k], y[k]) for k in x)


def program(module, folder, steps="STEPS"):
    "A program that trains what a module of tests calls its toy."
    return f"import sys; sys.path.insert(0, 'tests')\nfrom {module} import *\nfrom pathlib import Path\ntrain(toy(), faces(), Path({str(folder)!r}), **{steps})"


def train_and_kill(module, folder):
    "Train in a process of its own and kill it in the middle."
    run = subprocess.Popen([sys.executable, "-c", program(module, folder)], cwd=ROOT, stderr=subprocess.DEVNULL)
    while len(read_history(folder)) < 5 and run.poll() is None: time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (folder/"generator.safetensors").exists(), "the run was over before it was killed"
    assert not list(folder.glob(".generator*")), "half a generator"


def fesgan(*words):
    "Exit code and what a terminal would show."
    from typer.testing import CliRunner # the machine with the GPU has none
    from fesgan.app.cli import app
    r = CliRunner().invoke(app, [str(w) for w in words], prog_name="fesgan")
    if r.exception and not isinstance(r.exception, SystemExit): raise r.exception
    return r.exit_code, r.output


def fails(*words, says, code=2):
    got, out = fesgan(*words)
    assert got == code and "Traceback" not in out
    assert says in " ".join(out.split())


def study_command(work, *more):
    "The study of a profile toy.yaml, all within one folder, as a person would type it."
    return [str(w) for w in (Path(sys.executable).parent/"fesgan", "study", "--profile", work/"toy.yaml", "--work", work/"runs", "--out", work/"reports", "--cores", "2", *more)]
