"""The study as a graph: each node is a notebook, run by papermill with its parameters.

    fesgan study --profile demo             # or, the same:
    snakemake --configfile profiles/demo.yaml --cores 2

`reports/runs/<profile>/` (git-ignored) holds what the study works on and produces, `report/` in it the tables, figures,
pages and small results of the last node. Snakemake decides what is out of date. It works in that folder, so that its
locks and what it remembers are this study's alone: names of files below count from there, parameters of notebooks from
the repository.
"""
import os, json, re, shlex
from pathlib import Path
from fesgan.app.profiles import EVALUATION, checked, published_runs, read_sweep, start_run, study_folders, study_runs, sweep_folder
from fesgan.files import MEASURED, FesganError, atomic
from fesgan.reporting.questions import QUESTIONS, ablation_nodes

if not config: raise WorkflowError("Name a profile of the study: snakemake --configfile profiles/demo.yaml --cores 2")
try: config = checked(config)                                     # nothing below meets a name that a shell would read as more
except FesganError as e: raise WorkflowError(str(e))

REPOSITORY = Path(workflow.basedir).resolve()
WORK, OUT = study_folders(config)                                 # everything, git-ignored; what is published
workdir: str((REPOSITORY/WORK).resolve())
HOME = os.path.relpath(REPOSITORY, (REPOSITORY/WORK).resolve())   # the repository, seen from there
NB = f"{HOME}/nbs/study"
GPU_MEM_MB = config.get("gpu_mem_mb", 0)                          # of a card, for one training: so many share it as fit (fesgan study --gpu-mem-mb); a cluster gives each a GPU
WHERE = dict(device=config.get("device", "auto"), precision=config.get("precision", "32-true"))
CARD = dict(gpu=int(GPU_MEM_MB > 0), gpu_mem_mb=GPU_MEM_MB, runtime=config.get("minutes", 60))
REPLACE = config.get("replace", False)                            # no parameter of a rule: it makes nothing out of date
VIEWED, ABLATIONS = config.get("views", []), {node: config["ablations"][q] for node, q in ablation_nodes().items() if q in config.get("ablations", {})}
JUDGED = ("22_table_variants", "23_table_augment", "25_table_units", "33_strength") # the notebooks that ask judges or a reader, or show what is known about them
os.environ.setdefault("FESGAN_HEADLESS", "1")


def told(part): return dict(settings={}) | (part or {})           # what a network's notebook is told: if not a key, how to train

# Who judges: name -> what its notebook is told. `second` is optional: another network's opinion.
def judges(part):
    said = config.get(part)
    if said is None: return {}
    each = [dict(key=k) for k in said.get("keys") or []] or [told(said) | dict(key=None, seed=n) for n in said.get("seeds", [0])]
    return {part + f"-{n}"*(n > 0): {k: v for k, v in one.items() if k != "seeds"} for n, one in enumerate(each)}

JUDGES = judges("judge") | judges("second")
READER = config.get("reader")                                     # of action units, where the faces know theirs
READERS = [f"judges/{j}.safetensors" for j in [*JUDGES, *["reader"]*(READER is not None)]]
PEOPLE = config.get("people")                                     # a reader of people, for systems that learn from one
FROZEN = {"people": "judges/people.safetensors"} if PEOPLE is not None else {}   # what trainings may learn from: name -> file

# Networks that read faces: name -> its notebook, and what that is told.
NETWORKS = {name: ("01_judge", dict(name=name) | said) for name, said in JUDGES.items()}
if READER is not None: NETWORKS["reader"] = "01a_units", dict(key=None) | told(READER)
if PEOPLE is not None: NETWORKS["people"] = "01b_people", told(PEOPLE)

# Which runs there are: run id -> the system, what is changed in it, steps and seed; below WORK/<group>/.
if config.get("sweep"): config["sweep"] = str(REPOSITORY/config["sweep"])
RUNS = study_runs(config)
ROWS = {sweep_folder(row): row for row in (read_sweep(config["sweep"]) if config.get("sweep") else [])}
SHARED = {folder: row for folder, row in ROWS.items() if folder not in RUNS}   # differ from a training in their evaluation alone
PUBLISHED = published_runs(config, REPOSITORY)                    # what a report has need not be trained and measured
SHIPPED = {f"shipped/{name}/seed0": name for name in config.get("shipped", [])}

def evaluated(run): return {k.split(".")[1]: int(v) for k, v in ROWS.get(run, {}).items() if k in EVALUATION}

# What a group's tables hold: the runs that the profile or the csv names, in its order.
MEMBERS = {"trained": [r for v in config.get("variants", {}) for r in RUNS if r.startswith(f"trained/{v}/")], "shipped": list(SHIPPED), "sweep": list(ROWS)}
def members(group): return MEMBERS[group]
def inside(group): return [r.removeprefix(f"{group}/") for r in members(group)]

# Which notebook is run for which group: an ablation needs both of its sides there.
GROUPS = {g: said for g, said in (config["groups"] | ({"sweep": [config["groups"]["trained"][0], f"A sweep: {config['sweep']}."]} if ROWS else {})).items() if members(g)}
def present(group): return {r.split("/")[1] for r in members(group)}
def pairs(notebook, group): return [p for p in ABLATIONS[notebook] if set(p) <= present(group)]
VIEWS = {"trained": VIEWED, "shipped": VIEWED, "sweep": ["40_sweep"]}
NODES = [(g, nb) for g in GROUPS for nb in VIEWS[g] + [a for a in ABLATIONS if g != "sweep" and pairs(a, g)]]


def entry(run):
    "What the manifest says of a run."
    said = RUNS.get(run) or ROWS.get(run) or {}
    group, *variant = [part for part in run.split("/") if not re.fullmatch(r"seed~?\d+", part)]
    return dict(group=group, variant="/".join(variant), seed=int(said.get("seed", 0)), fields={k: v for k, v in said.items() if k != "seed"})

onstart:
    "Say what belongs to the study, and take back what was published: it holds until something is made anew."
    Path("published.json").unlink(missing_ok=True)
    with atomic("manifest.json") as tmp: tmp.write_text(json.dumps(dict(runs={r: entry(r) for g in GROUPS for r in members(g)}), indent=1))


def papermill(notebook, run, **parameters):
    "The command line of one node; its executed notebook is `run`."
    return shlex.join(["papermill", f"{NB}/{notebook}.ipynb", run, "-y", json.dumps(parameters), "--cwd", HOME, "--no-progress-bar", "--log-output"])

def kernel(command="{params.command}"):
    "A line of shell. Of many kernels that start at once two may draw the same port: one that did not come up is started again, once."
    run = f"{command} > {{log:q}} 2>&1"
    return f"({run} || (grep -q 'Kernel died before replying' {{log:q}} && {run}))"

def node(notebook, **parameters):
    "A shell command as a function of the wildcards, for `params.command`."
    def command(wildcards):
        p = {k: v(wildcards) if callable(v) else v for k, v in parameters.items()}
        return papermill(notebook, p.pop("run"), **p)
    return command

def python(call, *words):
    "The command line of one function, whose arguments are words."
    home, name = call.rsplit(".", 1)
    return shlex.join(["python", "-c", f"import sys; from {home} import {name}; {name}(*sys.argv[1:])", *words])


wildcard_constraints:
    run="(trained|shipped|sweep)/.+|judges",
    reader="|".join(map(re.escape, NETWORKS)) or "(?!)",
    group="trained|shipped|sweep",
    notebook=r"\d\d_\w+",

localrules: all, adopt, share, take_up
ruleorder: take_up > evaluate

METRICS = [f"{r}/metrics.json" for g in GROUPS for r in members(g)]
MADE = [f"faces/{f}" for f in ("prepare.json", "faces.npy", "catalog.csv")] + READERS
MADE += [f"{r}/generator.safetensors" for r in [*RUNS, *SHARED, *SHIPPED] if r not in PUBLISHED] + [f"{r}/{f}" for g in GROUPS for r in members(g) for f in ("edits.csv", "recognition.npz")]
ANSWERS = [f"results/{g}/{n}.done" for g, n in NODES]

rule all:
    "Not the report alone: a step that failed left nothing, and is due until it is done."
    input: MADE, METRICS, ANSWERS, "published.json"

prepare = node("00_prepare", run="prepare.ipynb", out=f"{WORK}/faces", **config["data"])

rule prepare:
    input: nb=f"{NB}/00_prepare.ipynb"
    output: "faces/prepare.json", "faces/faces.npy", "faces/catalog.csv"
    log: "prepare.log"
    params: command=prepare
    shell: kernel()

def read(w):
    notebook, said = NETWORKS[w.reader]
    return node(notebook, run=f"judges/{w.reader}.ipynb", faces=f"{WORK}/faces", out=f"{WORK}/judges", **said, **WHERE)(w)

rule reader:
    """A judge reads expressions (`second`, where a profile has it, is another opinion), `reader` action units, `people`, for systems that
    learn from it, who somebody is. A checkpoint is no output, so that whoever was stopped goes on."""
    input: nb=lambda w: f"{NB}/{NETWORKS[w.reader][0]}.ipynb", faces=rules.prepare.output
    output: "judges/{reader}.safetensors"
    log: "judges/{reader}.log"
    params: command=read
    resources: **CARD
    shell: kernel()

def start(run):
    "The generator that a run starts from."
    other = start_run(run, RUNS)
    return other and f"{other}/generator.safetensors"

def started(w): return f"{WORK}/{start(w.run)}" if start(w.run) else None

train = node("02_train", run=lambda w: f"{w.run}/train.ipynb", faces=f"{WORK}/faces", folder=lambda w: f"{WORK}/{w.run}", start=started,
             readers={k: f"{WORK}/{v}" for k, v in FROZEN.items()}, fields=lambda w: {k: v for k,v in RUNS[w.run].items() if k != "start"}, common=config.get("train", {}), **WHERE)

rule train:
    """One run. Its checkpoint is no output, so that a run that was killed goes on instead of starting again.
    What was measured of the generator before goes first. The first seeds come first, in the profile's order."""
    input: nb=f"{NB}/02_train.ipynb", faces=rules.prepare.output, start=lambda w: [start(w.run)] if start(w.run) else [], readers=[*FROZEN.values()]
    output: "{run,trained/.+|sweep/(?!.*evaluate[.]).+}/generator.safetensors"
    log: "{run}/train.log"
    params: command=train, void=lambda w: shlex.join(f"{w.run}/{f}" for f in MEASURED)
    priority: lambda w: len(RUNS)-list(RUNS).index(w.run)
    resources: **CARD
    shell: "rm -f {params.void} && " + kernel("{params.command} -p replace {REPLACE}")

rule adopt:
    "A shipped generator becomes a run folder like any other."
    input: weights=lambda w: f"{HOME}/data/models/{w.name}.safetensors"
    output: "shipped/{name}/seed0/generator.safetensors"
    params: command=lambda w: python("fesgan.training.shipped.adopt", w.name, f"shipped/{w.name}/seed0")
    shell: "{params.command}"

def origin(w): return sweep_folder(SHARED[w.row], False)

rule share:
    "A row of a sweep whose training another row has done: it is only evaluated otherwise."
    input: lambda w: f"{origin(w)}/generator.safetensors"
    output: "{row,sweep/.*evaluate[.].+}/generator.safetensors"
    params: command=lambda w: python("fesgan.app.study.share", origin(w), w.row, *(f"{k}={v}" for k, v in evaluated(w.row).items()))
    shell: "{params.command}"

def command(w):
    "The seed of the test faces is a parameter only where a sweep varies it."
    return node("03_evaluate", **MEASURE, **READS, **{k: v for k, v in evaluated(w.run).items() if k == "seed"})(w)

MEASURE = dict(run=lambda w: f"{w.run}/evaluate.ipynb", faces=f"{WORK}/faces", judges=f"{WORK}/judges", folder=lambda w: f"{WORK}/{w.run}",
                limit=lambda w: evaluated(w.run).get("limit", config.get("evaluate", {}).get(w.run.split("/")[0])), inception=config.get("inception"), **WHERE)

READS = dict(reader=f"{WORK}/judges/reader.safetensors") if READER is not None else {}

rule evaluate:
    input: nb=f"{NB}/03_evaluate.ipynb", generator="{run}/generator.safetensors", judges=READERS, faces=rules.prepare.output
    output: "{run}/metrics.json", "{run}/edits.csv", "{run}/recognition.npz"
    log: "{run}/evaluate.log"
    params: command=command
    shell: kernel()

rule take_up:
    "A run of a published report, as it was measured; its generator comes along only if it ships."
    input: lambda w: f"{PUBLISHED[w.run]}/metrics.json", faces=rules.prepare.output, judges=READERS
    output: "{run}/metrics.json", "{run}/edits.csv", "{run}/recognition.npz"
    wildcard_constraints: run="|".join(map(re.escape, PUBLISHED)) or "(?!)"
    params: command=lambda w: python("fesgan.app.study.take_up", str(PUBLISHED[w.run]), w.run, "faces", "judges", str(config.get("evaluate", {}).get("trained") or ""))
    shell: "{params.command}"

augment = node("04_augment", run=lambda w: f"{w.run}/augment.ipynb", faces=f"{WORK}/faces", folder=lambda w: None if w.run == "judges" else f"{WORK}/{w.run}",
               out=lambda w: f"{WORK}/{w.run}/augmented.npz", **(config.get("augment") or {}), **WHERE)

rule augment:
    "Classifiers that learn from real faces and a run's edits, or, in the folder of the judges, from real faces alone."
    input: lambda w: [f"{NB}/04_augment.ipynb"] + [f"{w.run}/generator.safetensors"]*(w.run != "judges"), faces=rules.prepare.output
    output: "{run}/augmented.npz"
    log: "{run}/augment.log"
    params: command=augment
    resources: **CARD
    shell: kernel()

def book(notebook):
    "The notebook of a node: one measures all ablations but those that have their own."
    return QUESTIONS[ablation_nodes()[notebook]].notebook if notebook in ABLATIONS else notebook

def answer_parameters(w):
    p = dict(runs=f"{WORK}/{w.group}", out=f"{WORK}/results/{w.group}", size=GROUPS[w.group][0], members=inside(w.group))
    if w.notebook in JUDGED: p["judges"] = f"{WORK}/judges"
    if w.notebook in ABLATIONS: p["pairs"] = pairs(w.notebook, w.group)
    if book(w.notebook) == "10_ablation": p["question"] = ablation_nodes()[w.notebook]
    if w.notebook.startswith("3"): p["faces"] = f"{WORK}/faces"
    return p

def augmented(w): return [f"{r}/augmented.npz" for r in ["judges", *members(w.group)]] if w.notebook == "23_table_augment" else []

def answer(w):
    return papermill(book(w.notebook), f"results/{w.group}/{w.notebook}.ipynb", **answer_parameters(w))

rule answer:
    "A table, an ablation or a figure, from the run folders of one group."
    input: lambda w: [f"{NB}/{book(w.notebook)}.ipynb"] + [f"{r}/metrics.json" for r in members(w.group)] + augmented(w)
    output: "results/{group}/{notebook}.done"
    log: "results/{group}/{notebook}.log"
    params: command=answer
    shell: kernel() + " && touch {output:q}"

publish = node("90_report", run="report.ipynb", work=WORK, out=OUT, title=config["title"], groups=GROUPS, pictures=config.get("pictures", True),
               members={g: inside(g) for g in GROUPS})

rule publish:
    input: nb=f"{NB}/90_report.ipynb", answers=ANSWERS, metrics=METRICS
    output: "published.json"
    log: "report.log"
    params: command=publish
    shell: kernel()
