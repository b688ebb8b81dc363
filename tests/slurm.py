"""A Slurm of one's own: a controller and some nodes on this machine, for tests and for trying `fesgan study --on slurm`.

    python tests/slurm.py        # starts one, says how to use it, and stops it on Ctrl-C

Needs Debian's slurm-wlm and munge; not root, no configuration of the machine, no accounting.
"""
import contextlib, getpass, os, shutil, signal, socket, subprocess, sys, tempfile, time
from pathlib import Path

import psutil

NEEDED = ("setpriv", "munged", "slurmctld", "slurmd", "sbatch", "srun")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin" # where Debian puts daemons
OPTIONS = ("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2") # no accounting here, hence no sacct; jobs of seconds
CONF = """
ClusterName=fesgan
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MinJobAge=7200
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,batch_sched_delay=1
SlurmdTimeout=10
SlurmctldTimeout=30
KillWait=20
ReturnToService=2
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing():
    "Programs that a private Slurm needs and this machine lacks."
    return [p for p in NEEDED if not shutil.which(p, path=PATH)]


def free_ports(n):
    "Port numbers that nobody uses now."
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for s in sockets: s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def kill(processes):
    for p in processes:
        with contextlib.suppress(psutil.Error): p.kill()


class Slurm:
    "The daemons in one folder."
    def __init__(self, folder, nodes=("n1", "n2"), cpus=1):
        self.folder, self.nodes, self.daemons = Path(folder), nodes, {}
        self.env = {**os.environ, "PATH": f"{self.folder}/bin:{PATH}", "SLURM_CONF": str(self.folder/"slurm.conf")}
        for name in ("bin", "state", *(f"spool-{n}" for n in nodes)): (self.folder/name).mkdir()
        (self.folder/"bin"/"srun").write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun", path=PATH)} "$@"\n') # Snakemake's job steps lose SLURM_CONF
        (self.folder/"bin"/"srun").chmod(0o755)
        host, ports = socket.gethostname().split(".")[0], free_ports(1+len(nodes))
        lines = "\n".join(f"NodeName={n} NodeHostname={host} NodeAddr=127.0.0.1 Port={p} CPUs={cpus} RealMemory=64000" for n, p in zip(nodes, ports[1:]))
        (self.folder/"slurm.conf").write_text(CONF.format(host=host, ports=ports, folder=self.folder, user=getpass.getuser(), nodes=lines))
        (self.folder/"cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupMountpoint=/nowhere\n") # groups are not used; this plugin alone leaves the machine's in peace
        (self.folder/"munge.key").write_bytes(os.urandom(128))
        (self.folder/"munge.key").chmod(0o400)

    def start(self):
        "Start everything and wait until the nodes are idle."
        f = self.folder
        self._spawn("munged", "munged", "--foreground", "--force", f"--socket={f}/munge.socket", f"--key-file={f}/munge.key", f"--pid-file={f}/munge.pid", f"--seed-file={f}/munge.seed")
        self._wait(lambda: (f/"munge.socket").exists(), "munged")
        self._spawn("slurmctld", "slurmctld", "-D", "-c")
        for n in self.nodes: self.start_node(n)
        self._wait(lambda: all(self.state(n) == "idle" for n in self.nodes), "the nodes")

    def start_node(self, name): self._spawn(name, "slurmd", "-D", "-N", name)

    def _spawn(self, name, *command):
        "A daemon that ends with this process, even if that is killed."
        with (self.folder/f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *command], env=self.env, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)

    def _wait(self, ready, what, seconds=60):
        end = time.monotonic()+seconds
        while not ready():
            if time.monotonic() > end: raise RuntimeError(f"{what} did not start in {seconds} s:\n"+"\n".join(p.read_text()[-2000:] for p in sorted(self.folder.glob("*.out"))))
            time.sleep(.2)

    def ask(self, *command):
        "What a Slurm command prints."
        return subprocess.run(command, env=self.env, capture_output=True, text=True).stdout.strip()

    def state(self, node): return self.ask("sinfo", "-h", "-N", "-n", node, "-o", "%t")

    def jobs(self):
        "All jobs that the controller remembers: id -> (state, node, comment)."
        rows = [line.split("|") for line in self.ask("squeue", "-h", "--states=all", "-o", "%i|%T|%N|%k").splitlines()]
        return {r[0]: tuple(r[1:]) for r in rows}

    def processes(self, node=None):
        "What runs here, or on one node only: the daemons of jobs first, then the jobs."
        found = []
        for p in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                env = p.environ()
                if env.get("SLURM_CONF") == self.env["SLURM_CONF"] and p.pid != os.getpid() and (node is None or env.get("SLURMD_NODENAME") == node): found.append(p)
        return list({d for p in found if (d := p.parent()) and d.name().startswith("slurmstepd")})+found # a job's daemon hides its own environment

    def kill_node(self, name):
        "A power cut: the node's daemon and all that runs on it die at once."
        self.daemons[name].kill()
        kill(self.processes(name))
        self.daemons[name].wait()

    def stop(self):
        "End everything, whatever state it is in."
        for p in self.daemons.values(): p.terminate()
        kill(self.processes())
        for p in self.daemons.values(): p.wait()


@contextlib.contextmanager
def slurm(**kw):
    "A running private Slurm; its folder is short-lived and its name short, as sockets need."
    folder = tempfile.mkdtemp(prefix="slurm-", dir="/tmp")
    os.chmod(folder, 0o755) # munge wants its socket's folder open to others
    own = Slurm(folder, **kw)
    try:
        own.start()
        yield own
    finally:
        own.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    if missing(): sys.exit(f"Not installed: {', '.join(missing())}. On Debian: apt-get install slurm-wlm munge")
    with slurm() as own:
        print(f"export SLURM_CONF={own.env['SLURM_CONF']} PATH={own.folder}/bin:$PATH")
        print(f"sinfo; fesgan study --on slurm -- {' '.join(OPTIONS)}\nCtrl-C here stops it.", flush=True)
        for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, lambda *_: sys.exit())
        signal.pause()
