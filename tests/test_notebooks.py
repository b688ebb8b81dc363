"""The notebooks that readers open are run again, and must show what they show in the repository.

They read what ships, in data/, and no study's results: a study that ran before changes nothing here. Nor do they
change a study's: what they write goes into a temporary folder.
"""
import re
from pathlib import Path

import nbformat
import pytest
from pytest_notebook.nb_regression import NBRegressionFixture

ROOT = Path(__file__).parents[1]
READ = ["index", "study/20_table_usgan", "study/21_table_sargan", "study/10_ablation"]
IGNORED = ("/metadata/language_info", "/metadata/widgets", "/metadata/kernelspec", "/cells/*/execution_count", "/cells/*/outputs/*/execution_count", "/cells/*/outputs/*/data/image/png")
# Another processor may round the last digits otherwise: two digits behind the point must agree.
ROUNDED = (("/cells/*/outputs/*/data/text/plain", r"(\d\.\d\d)\d+", r"\1"), ("/cells/*/outputs/*/data/text/html", r"(\d\.\d\d)\d+", r"\1"),
           ("/cells/*/outputs/*/text", r"(\d\.\d\d)\d+", r"\1"))


def parameters(nb):
    "The cell that papermill would replace."
    return next((c for c in nb.cells if "parameters" in c.metadata.get("tags", [])), None)


@pytest.mark.parametrize("name", READ)
def test_outputs(name, tmp_path):
    path = ROOT/"nbs"/f"{name}.ipynb"
    nb = nbformat.read(path, 4)
    if cell := parameters(nb): cell.source = re.sub(r'(?m)^out: str = "[^"]*"', f'out: str = "{tmp_path}"', cell.source)
    nbformat.write(nb, tmp_path/path.name)
    check = NBRegressionFixture(exec_timeout=300, exec_cwd=str(path.parent), diff_ignore=IGNORED, diff_replace=ROUNDED, diff_color_words=False)
    check.check(str(tmp_path/path.name))


@pytest.mark.parametrize("name", [n for n in READ if n.startswith("study/")])
def test_inputs_are_frozen(name):
    "Neither a study nor publishing writes where these notebooks read."
    cell = parameters(nbformat.read(ROOT/"nbs"/f"{name}.ipynb", 4))
    runs = re.search(r'(?m)^runs: str = "([^"]*)"', cell.source)[1]
    assert runs.startswith("data/") and (ROOT/runs).is_dir()


def exports(folder):
    "Module -> (notebook, its exported code), in the order of the names."
    for path in sorted((ROOT/"nbs"/folder).glob("*.ipynb")):
        sources = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
        module = next((m[1] for s in sources if (m := re.match(r"#\| default_exp (\S+)", s))), None)
        if module: yield module, path.stem, "\n".join(s for s in sources if s.startswith("#| export"))


@pytest.mark.parametrize("folder", ["data", "models", "training", "evaluation", "reporting"])
def test_a_notebook_imports_from_lower_numbers(folder):
    "The order of reading is the order of importing, and no two notebooks share a number."
    before, numbers = set(), []
    for module, name, code in exports(folder):
        imported = set(re.findall(r"from fesgan\.(\S+) import", code))
        assert {m for m in imported if m.startswith(f"{folder}.")} <= before, name
        before.add(module)
        numbers.append(name.split("_")[0])
    assert numbers and len({*numbers}) == len(numbers)


def test_cells_are_short():
    "What CONTRIBUTING asks for: a definition that fits on a screen, lines that fit beside another window."
    for path in sorted((ROOT/"nbs").rglob("*.ipynb")):
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type != "code" or "parameters" in cell.metadata.get("tags", []): continue # a line each, with its meaning
            where, lines = f"{path.relative_to(ROOT)}, cell {cell.id}", cell.source.splitlines()
            if lines[0].startswith("#| export"): assert len(lines) <= 31, f"{where}: {len(lines)-1} lines; 15 are the habit, 30 the limit"
            assert max(map(len, lines)) <= 120, f"{where}: a line of {max(map(len, lines))} characters; 120 are the limit"
