"""No sentence says more than its numbers: better and worse, judges and jury, p-values, few people, verdicts."""
import json, math, re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fesgan.reporting import study, tables

ROOT = Path(__file__).parents[1]
ROW = dict(metric="acd", baseline=.285, variant=.301, truth=.331, difference=.016, low=.003, high=.028, p=.004, p_holm=.02, n=168, people=24, seeds=2, judges={})
UP, DOWN, FLAT = (dict(difference=d, low=d-.04, high=d+.04) for d in (.06, -.06, .01))
ACCURACY = ROW | dict(metric="accuracy", baseline=.44, variant=.50, truth=.9, **UP)


def say(row=ROW, **other): return tables.answer_sentence(row | other, "using SARB")


def cell(notebook, text): # the cells of a study notebook that hold `text`
    cells = json.loads((ROOT/"nbs"/"study"/f"{notebook}.ipynb").read_text())["cells"]
    return [s for c in cells if text in (s := "".join(c["source"]))]


@pytest.mark.parametrize("truth,word", [(.331, "which is better"), (.2, "which is worse"), (.29, "neither better nor worse: the true face's 0.290 lies between"),
                                        (math.nan, "neither better nor worse: the true face is not known here")])
def test_better_only_towards_the_true_face(truth, word):
    said = say(truth=truth)
    assert word in said and "0.016 [0.003, 0.028]" in said
    assert ("better" in said and "worse" in said) == ("neither" in said)


def test_a_step_towards_the_truth_is_not_worse():
    "The sentence that started it: SARB raised ACD 0.285 to 0.301 while true faces have .331."
    assert "worse" not in say() and "nearer to the true face's 0.331" in say()


@pytest.mark.parametrize("metric,a,b,word", [("psnr", 29., 28., "worse"), ("lpips", .2, .1, "better"), ("dists", .1, .2, "worse"), ("ssim", .8, .9, "better")])
def test_distances_to_the_truth_need_no_row(metric, a, b, word):
    d = b-a
    assert f"which is {word}" in say(metric=metric, baseline=a, variant=b, truth=math.nan, difference=d, low=d-.01, high=d+.01)


@pytest.mark.parametrize("judges,claims,words", [
    ({"judge": UP, "second": UP, "fer": UP}, True, "all 2 own judges agree, the jury agrees"),
    ({"judge": UP, "second": UP, "fer": DOWN}, True, "the jury sees the opposite"),
    ({"judge": UP, "second": UP, "fer": FLAT}, True, "the jury sees none"),
    ({"judge": UP, "second": UP}, True, "no outside jury has read them"),
    ({"judge": UP, "second": FLAT, "fer": UP}, False, "not all 2 own judges see one"),
    ({"judge": UP, "second": DOWN, "fer": UP}, False, "not all 2 own judges see one"),
    ({"judge": UP}, False, "a single judge has read them, which decides nothing"),
    ({}, False, "a single judge"),
])
def test_accuracy_only_where_all_judges_agree(judges, claims, words):
    said = say(ACCURACY, judges=judges)
    assert said.count(".") and "\n" not in said and words in said
    assert ("raised accuracy" in said) == claims and ("so no difference is claimed" in said) == (not claims)
    for j in judges if len(judges) > 1 else (): assert j in said  # the jury's number stands in the same sentence


@pytest.mark.parametrize("p,text", [(0., "< .001"), (.0009, "< .001"), (.0123, ".012"), (1., "1.000"), (math.nan, "–")])
def test_no_p_value_is_zero(p, text):
    assert tables.p_cell(p) == text


def test_holm_over_all_pairs_of_a_question(tmp_path):
    from test_rows import make_run
    folders = [make_run(tmp_path, v, label=v, distance=d) for v, d in (("a", .3), ("b", .31), ("c", .3), ("d", .305))]
    alone, = study.compare(folders, [["a", "b"]], "x", tmp_path/"1", "it")
    first, second = study.compare(folders, [["a", "b"], ["c", "d"]], "x", tmp_path/"2", "it")
    assert (first.table.p == alone.table.p).all() and (first.table.p_holm >= alone.table.p_holm).all() and (first.table.p_holm > alone.table.p_holm).any()
    assert (second.table.p_holm >= second.table.p).all() and "p (Holm)" in first.text


def test_few_people_are_marked(tmp_path):
    from test_rows import make_run
    few, many = [make_run(tmp_path/str(n), "a", label="A", people=n) for n in (6, 12)]
    texts = {f: tables.results_table(tables.read_runs([f]), tables.read_edits([f]), metrics=["acd"]) for f in (few, many)}
    assert texts[few].ACD[0].endswith("]†") and "Fewer than ten people" in texts[few].attrs["note"]
    assert texts[many].ACD[0].endswith("]") and "Fewer than ten" not in texts[many].attrs["note"]
    assert "of 6 people, which is few," in say(people=6)


# --- verdicts -----------------------------------------------------------------------------------

def comparison(**change):
    rows = [ACCURACY | dict(judges={"judge": UP, "second": UP, "fer": UP}), ROW | dict(metric="psnr", baseline=28., variant=29., truth=math.nan, difference=1., low=.5, high=1.5), ROW]
    return study.Comparison("A against B", None, [], pd.DataFrame(rows).assign(**change))


@pytest.mark.parametrize("change,size,verdict,why", [
    ({}, "real", "yes", "accuracy +6.0 points"),
    ({}, "toy", "undecided", "not decided: toy run"),
    (dict(seeds=1), "short", "undecided", "one seed"),
    (dict(people=9), "real", "undecided", "9 people are too few"),
    (dict(p_holm=.06), "real", "undecided", "not shown"),
    (dict(judges=[{"judge": UP, "second": UP, "fer": DOWN}, {}, {}]), "real", "undecided", "accuracy +6.0 points [+2.0, +10.0] not shown"),
    (dict(judges=[{"judge": UP}, {}, {}]), "real", "undecided", "not shown"),
    (dict(truth=[math.nan]*3), "real", "undecided", "not shown"),
])
def test_rule_of_a_verdict(change, size, verdict, why):
    said = study.decide("Does it help?", [comparison(**change)], size)
    assert (said.verdict, said.n) == (verdict, 168) and why in said.reason


def test_verdict_comes_first(tmp_path):
    verdict = study.decide("Does it help?", [comparison()], "real")
    study.save_answers(tmp_path/"results"/"trained", "x", "Does it help?", [study.Comparison("A against B", None, ["A sentence."])], verdict)
    kept = json.loads((tmp_path/"results"/"trained"/"answers"/"x.json").read_text())["verdict"]
    assert kept["verdict"] == "yes" and kept["people"] == 24 and kept["seeds"] == 2 and kept["n"] == 168
    front = study.report_markdown(tmp_path/"out", tmp_path, "T", {"trained": ("real", "")})
    assert front.index("| Does it help? | yes |") < front.index("## A real run") < front.index("A sentence.")


def test_old_answers_without_a_verdict_still_load(tmp_path):
    path = tmp_path/"answers"/"old.json"
    path.parent.mkdir()
    path.write_text(json.dumps(dict(name="old", question="?", answers={"A": ["said"]})))
    assert study.read_answers(tmp_path)[0]["verdict"] is None and len(study.verdict_table(study.read_answers(tmp_path))) == 0


# --- what the notebooks say ---------------------------------------------------------------------

def test_fields_that_differ_are_computed(tmp_path):
    from test_rows import make_run
    folders = [make_run(tmp_path, v, label=v, epochs=e, padding=p, block=b) for v, e, p, b in (("usgan", 350, "zeros", "residual"), ("sargan", 400, "reflect", "sarb"))]
    [c] = study.compare(folders, [["usgan", "sargan"]], "block", tmp_path, "SARB")
    assert c.fields.to_numpy().tolist() == [["epochs", "350", "400"], ["padding", "zeros", "reflect"], ["block", "residual", "sarb"]] or set(c.fields.field) == {"epochs", "padding", "block"}
    assert "epochs (350, 400)" in c.sentences[0] and "padding (zeros, reflect)" in c.sentences[0]
    assert not cell("10_ablation", "differ in nothing else") and cell("10_ablation", "c.fields")


def test_augment_says_what_the_paper_prints():
    t = tables.published("cascade_table1").set_index(["dataset", "method"])
    gains = (t.accuracy_real_generated-t.accuracy_real).round(1)
    text = " ".join(cell("23_table_augment", "Do edits help a classifier?"))
    assert gains["RaFD", "GANimation"] == .1 and gains["RaFD", "Cascade EF-GAN"] == 1.5 and gains["CFEE", "Cascade EF-GAN"] == 1.0
    assert "alone (RaFD" not in text and "0.1 points for GANimation" in text and "4,000" in text
    assert (tables.published("cascade_table3").accuracy_real_generated > 92.21).all()


def test_balance_says_both_samples():
    text = "".join(cell("13_balance", "Of the edits of all"))
    assert "of the sample of" in text and "readers_say(found)" in text
    output = json.loads((ROOT/"nbs"/"study"/"13_balance.ipynb").read_text())["cells"][-1]["outputs"][0]["text"]
    said = next(line for line in output if "all 7,178 test faces" in line)
    assert "+1.4 points" in said and "+0.3 points" in said and "sample of 40 faces +5.8 points" in said


def test_metrics_are_called_what_they_are():
    assert tables.METRICS["fvs"][0] == "FVS (dlib)"
    assert not re.search("[↑↓]", "".join(tables.metric_title(m) for m in ("acd", "fvs", "verified", "colour")))  # standing still is not best
    assert {"jury", "lpips", "dists", "kid"} <= set(tables.METRICS)


def test_claims_are_corrected_and_the_jury_is_heard():
    from fesgan.evaluation.recognition import Recognition
    def read(**shares):
        rng, wanted, labels = np.random.default_rng(0), np.tile(np.arange(7), (300, 1)), np.random.default_rng(1).integers(0, 7, 300)
        spoil = lambda x, p: np.where(rng.random(x.shape) < p, x, (x+1) % 7)
        return Recognition(np.arange(300), np.arange(300), labels, np.arange(7), {j: spoil(labels, .64) for j in shares}, {j: spoil(wanted, s) for j, s in shares.items()})
    found = {"StarGAN": [read(judge=.4, second=.4, fer=.4)], "StarGAN + dropout": [read(judge=.6, second=.6, fer=.2)]}
    claims = study.variants_claims(found, tables.published("variants_table2"))
    assert (claims.p_holm >= claims.p).all() and len(claims) == 6
    said = study.variants_answers(claims)[0]
    assert "the jury (fer): -" in said and "the other way round" in said and said.endswith("All own judges: as in the paper.") and "p < .001" in said
