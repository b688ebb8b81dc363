"""What tests share: training runs, the command line, the study."""
import os, signal, sys, tempfile, time, traceback
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


def run_page(name, work, **parameters):
    "Run one of the study's notebooks from the repository, as the graph does."
    import papermill
    said = {k: str(v) if isinstance(v, Path) else v for k, v in parameters.items()}
    papermill.execute_notebook(f"{ROOT}/nbs/study/{name}.ipynb", work/"page.ipynb", said, cwd=ROOT, progress_bar=False)


def untrained_reader(path, **settings):
    "A reader of action units that says 1 for each, whatever it sees."
    from fesgan.evaluation.expression import judge_settings
    from fesgan.evaluation.unit_reader import UnitReader, save_unit_reader, unit_network
    settings, means = judge_settings(arch="vgg", width=4, **settings), [1.]*17
    save_unit_reader(UnitReader(unit_network(settings, means), settings, means), path)


class Forked:
    "A call in a copy of this process: another process, in which nothing need be imported again."
    def __init__(self, call, *args, cwd=ROOT, **env):
        self.out = tempfile.TemporaryFile("w+")
        if not (pid := os.fork()): self._run(call, args, cwd, env)
        self.pid, self.code = pid, None

    def _run(self, call, args, cwd, env):
        code = 1
        try:
            for stream in (1, 2): os.dup2(self.out.fileno(), stream)
            sys.stdout, sys.stderr = (open(stream, "w", closefd=False) for stream in (1, 2))
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.chdir(cwd)
            os.environ.update(env)
            code = call(*args)
        except SystemExit as e: code = e.code if isinstance(e.code, int) else int(e.code is not None)
        except BaseException: traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr): stream.flush()
            os._exit(code if isinstance(code, int) else 0)

    def poll(self):
        "The exit code; nothing while it runs."
        if self.code is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done: self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def wait(self, seconds=300):
        "The exit code and what it printed."
        end = time.monotonic()+seconds
        while self.poll() is None:
            if time.monotonic() > end: self.kill(signal.SIGKILL)
            time.sleep(.02)
        self.out.seek(0)
        return self.code, self.out.read()

    def kill(self, number): os.kill(self.pid, number)


def train_and_kill(module, folder):
    "Train what a module of tests calls its toy in a process of its own, and kill it in the middle."
    tests = sys.modules[module]
    run = Forked(lambda: tests.train(tests.toy(), tests.faces(), folder, **STEPS))
    while len(read_history(folder)) < 5 and run.poll() is None: time.sleep(0.02)
    if run.poll() is None: run.kill(signal.SIGKILL)
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


def study_command(work, *more, profile="toy"):
    "The study of a profile such as toy.yaml, all within one folder, as a person would type it."
    return [str(w) for w in (Path(sys.executable).parent/"fesgan", "study", "--profile", work/f"{profile}.yaml", "--work", work/"runs", "--out", work/"reports", "--cores", "2", *more)]
