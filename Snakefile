"""The study as a graph: each node is a notebook, run by papermill with its parameters.

    fesgan study --profile demo             # or, the same:
    snakemake --configfile profiles/demo.yaml --cores 2

`reports/runs/<profile>/` (git-ignored) holds what the study works on and produces; the last node publishes the
tables, figures, pages and small results into `reports/<profile>/`. Snakemake decides what is out of date.
"""
import os, json, shlex
import pandas as pd
from snakemake.utils import Paramspace

if not config: raise WorkflowError("Name a profile of the study: snakemake --configfile profiles/demo.yaml --cores 2")

NB = "nbs/study"
NAME = config["name"]
WORK = config.get("work", "reports/runs") + f"/{NAME}"            # everything, git-ignored
OUT = config.get("out", "reports") + f"/{NAME}"                   # what is published
SEEDS = config["seeds"]
GPU_MEM_MB = config.get("gpu_mem_mb", 0)                          # of a card, for one training: so many share it as fit (fesgan study --gpu-mem-mb); a cluster gives each a GPU
WHERE = dict(device=config.get("device", "auto"), precision=config.get("precision", "32-true"))
CARD = dict(gpu=int(GPU_MEM_MB > 0), gpu_mem_mb=GPU_MEM_MB, runtime=config.get("minutes", 60))
JUDGES = [j for j in ("judge", "second") if j in config]          # `second` is optional: another network's opinion
JUDGED = ("22_table_variants", "23_table_augment", "33_strength") # the notebooks that ask the judges, or show what is known about them
os.environ.setdefault("FESGAN_HEADLESS", "1")


# Which runs there are: run id -> the system, what is changed in it, steps and seed; below WORK/<group>/.
RUNS = {f"trained/{name}/seed{s}": {**config["train"], **fields, "seed": s} for name, fields in config["variants"].items() for s in SEEDS}
if config.get("sweep"):                                           # a csv: one column a field of a system, one row a run
    space = Paramspace(pd.read_csv(config["sweep"], dtype=str))
    RUNS |= {f"sweep/{pattern}": {**config["train"], **row} for pattern, row in zip(space.instance_patterns, space.to_dict("records"))}
SHIPPED = {f"shipped/{name}/seed0": name for name in config.get("shipped", [])}

def members(group): return [r for r in [*RUNS, *SHIPPED] if r.startswith(group + "/")]

# Which notebook is run for which group: an ablation needs both of its sides there.
GROUPS = {g: said for g, said in (config["groups"] | {"sweep": [config["groups"]["trained"][0], f"A sweep: {config.get('sweep')}."]}).items() if members(g)}
def present(group): return {r.split("/")[1] for r in members(group)}
def pairs(notebook, group): return [p for p in config["ablations"].get(notebook, []) if set(p) <= present(group)]
VIEWS = {"trained": config["views"], "shipped": config["views"], "sweep": ["40_sweep"]}
NODES = [(g, nb) for g in GROUPS for nb in VIEWS[g] + [a for a in config["ablations"] if g != "sweep" and pairs(a, g)]]


def papermill(notebook, run, **parameters):
    "The command line of one node; its executed notebook is `run`."
    return f"papermill {NB}/{notebook}.ipynb {run} -y {shlex.quote(json.dumps(parameters))} --cwd . --no-progress-bar --log-output"

def node(notebook, **parameters):
    "A shell command as a function of the wildcards, for `params.command`."
    def command(wildcards):
        p = {k: v(wildcards) if callable(v) else v for k, v in parameters.items()}
        return papermill(notebook, p.pop("run"), **p)
    return command


wildcard_constraints:
    run="(trained|shipped|sweep)/.+|judges",
    judge="judge|second",
    group="trained|shipped|sweep",
    notebook=r"\d\d_\w+",

localrules: all, adopt

rule all:
    input: f"{WORK}/published.json"

prepare = node("00_prepare", run=f"{WORK}/prepare.ipynb", out=f"{WORK}/faces", **config["data"])

rule prepare:
    input: nb=f"{NB}/00_prepare.ipynb"
    output: f"{WORK}/faces/prepare.json", f"{WORK}/faces/faces.npy", f"{WORK}/faces/catalog.csv"
    log: f"{WORK}/prepare.log"
    params: command=prepare
    shell: "{params.command} > {log} 2>&1"

judge = node("01_judge", run=lambda w: f"{WORK}/judges/{w.judge}.ipynb", faces=f"{WORK}/faces", name=lambda w: w.judge, settings=lambda w: config[w.judge]["settings"],
             limit=lambda w: config[w.judge].get("limit"), out=f"{WORK}/judges", **WHERE)

rule judge:
    "A classifier that reads edits; `second`, where a profile has it, is another opinion. Its checkpoint is no output either."
    input: nb=f"{NB}/01_judge.ipynb", faces=rules.prepare.output
    output: f"{WORK}/judges/{{judge}}.safetensors"
    log: f"{WORK}/judges/{{judge}}.log"
    params: command=judge
    resources: **CARD
    shell: "{params.command} > {log} 2>&1"

train = node("02_train", run=lambda w: f"{WORK}/{w.run}/train.ipynb", faces=f"{WORK}/faces", folder=lambda w: f"{WORK}/{w.run}", fields=lambda w: RUNS[w.run],
             **WHERE)

rule train:
    "One run. Its checkpoint is no output, so that a run that was killed goes on instead of starting again."
    input: nb=f"{NB}/02_train.ipynb", faces=rules.prepare.output
    output: f"{WORK}/{{run,(trained|sweep)/.+}}/generator.safetensors"
    log: f"{WORK}/{{run}}/train.log"
    params: command=train
    resources: **CARD
    shell: "{params.command} > {log} 2>&1"

rule adopt:
    "A shipped generator becomes a run folder like any other."
    input: weights=lambda w: f"data/models/{w.name}.safetensors"
    output: f"{WORK}/shipped/{{name}}/seed0/generator.safetensors"
    params: folder=lambda w: f"{WORK}/shipped/{w.name}/seed0"
    shell: "python -c 'from fesgan.training.shipped import adopt; adopt(\"{wildcards.name}\", \"{params.folder}\")'"

evaluate = node("03_evaluate", run=lambda w: f"{WORK}/{w.run}/evaluate.ipynb", faces=f"{WORK}/faces", judges=f"{WORK}/judges", folder=lambda w: f"{WORK}/{w.run}",
                limit=lambda w: config["evaluate"][w.run.split("/")[0]], inception=config.get("inception"), **WHERE)

rule evaluate:
    input: nb=f"{NB}/03_evaluate.ipynb", generator=f"{WORK}/{{run}}/generator.safetensors", judges=[f"{WORK}/judges/{j}.safetensors" for j in JUDGES], faces=rules.prepare.output
    output: f"{WORK}/{{run}}/metrics.json", f"{WORK}/{{run}}/edits.csv", f"{WORK}/{{run}}/recognition.npz"
    log: f"{WORK}/{{run}}/evaluate.log"
    params: command=evaluate
    shell: "{params.command} > {log} 2>&1"

augment = node("04_augment", run=lambda w: f"{WORK}/{w.run}/augment.ipynb", faces=f"{WORK}/faces", folder=lambda w: None if w.run == "judges" else f"{WORK}/{w.run}",
               out=lambda w: f"{WORK}/{w.run}/augmented.npz", **config.get("augment", {}), **WHERE)

rule augment:
    "Classifiers that learn from real faces and a run's edits, or, in the folder of the judges, from real faces alone."
    input: lambda w: [f"{NB}/04_augment.ipynb"] + [f"{WORK}/{w.run}/generator.safetensors"]*(w.run != "judges"), faces=rules.prepare.output
    output: f"{WORK}/{{run}}/augmented.npz"
    log: f"{WORK}/{{run}}/augment.log"
    params: command=augment
    resources: **CARD
    shell: "{params.command} > {log} 2>&1"

def answer_parameters(w):
    p = dict(runs=f"{WORK}/{w.group}", out=f"{WORK}/results/{w.group}", size=GROUPS[w.group][0])
    if w.notebook in JUDGED: p["judges"] = f"{WORK}/judges"
    if w.notebook.startswith("1"): p["pairs"] = pairs(w.notebook, w.group)
    if w.notebook.startswith("3"): p["faces"] = f"{WORK}/faces"
    return p

def augmented(w): return [f"{WORK}/{r}/augmented.npz" for r in ["judges", *members(w.group)]] if w.notebook == "23_table_augment" else []

def answer(w):
    return papermill(w.notebook, f"{WORK}/results/{w.group}/{w.notebook}.ipynb", **answer_parameters(w))

rule answer:
    "A table, an ablation or a figure, from the run folders of one group."
    input: lambda w: [f"{NB}/{w.notebook}.ipynb"] + [f"{WORK}/{r}/metrics.json" for r in members(w.group)] + augmented(w)
    output: f"{WORK}/results/{{group}}/{{notebook}}.done"
    log: f"{WORK}/results/{{group}}/{{notebook}}.log"
    params: command=answer
    shell: "{params.command} > {log} 2>&1 && touch {output}"

publish = node("90_report", run=f"{WORK}/report.ipynb", work=WORK, out=OUT, title=config["title"], groups=GROUPS, pictures=config.get("pictures", True))

rule publish:
    input: nb=f"{NB}/90_report.ipynb", answers=[f"{WORK}/results/{g}/{n}.done" for g, n in NODES]
    output: f"{WORK}/published.json"
    log: f"{WORK}/report.log"
    params: command=publish
    shell: "{params.command} > {log} 2>&1"
