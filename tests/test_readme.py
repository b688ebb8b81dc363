"The exporter's checks notice what they are for, and the front page's links lead somewhere."
import re
from pathlib import Path

import check_exports
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def small(tmp_path):
    "A repository of one module and a front page, in step."
    for name in ("settings.ini", "pyproject.toml"): (tmp_path/name).write_text((ROOT/name).read_text())
    (tmp_path/"nbs").mkdir(); (tmp_path/"fesgan").mkdir()
    (tmp_path/"fesgan"/"__init__.py").write_text((ROOT/"fesgan"/"__init__.py").read_text())
    v4 = nbformat.v4
    cells = [v4.new_markdown_cell("# One\n\n> A module."), v4.new_code_cell("#| default_exp one"), v4.new_code_cell("#| export\ndef f(): return 1")]
    nbformat.write(v4.new_notebook(cells=cells), tmp_path/"nbs"/"00_one.ipynb")
    nbformat.write(v4.new_notebook(cells=[v4.new_markdown_cell("# Front")]), tmp_path/"nbs"/"index.ipynb")
    (tmp_path/"README.md").write_text("# Front\n")
    check_exports.run("nbdev_clean", cwd=tmp_path)
    check_exports.run("nbdev_export", cwd=tmp_path)
    return tmp_path


def test_in_step(small): assert check_exports.check(small) == []


def test_out_of_step(small):
    (small/"fesgan"/"one.py").write_text((small/"fesgan"/"one.py").read_text().replace("return 1", "return 2"))
    (small/"fesgan"/"stray.py").write_text("")
    (small/"README.md").write_text("# Back\n")
    nb = nbformat.read(small/"nbs"/"index.ipynb", 4)
    nb.metadata["language_info"] = {"name": "python"}
    nbformat.write(nb, small/"nbs"/"index.ipynb")
    assert set(check_exports.check(small)) == {("package", "fesgan/one.py"), ("package", "fesgan/stray.py"), ("notebooks", "nbs/index.ipynb"), ("README", "README.md")}


def anchors(text):
    "GitHub's anchors of the headings."
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links(name):
    text = (ROOT/name).read_text()
    links = [m for m in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.S)) if not m.startswith("http")]
    lost = [m for m in links if (m[1:] not in anchors(text) if m.startswith("#") else not (ROOT/m.split("#")[0]).exists())]
    assert not lost
