"""Notebooks, package and README say the same: run by `make test` and, with --write, by `make sync`.

    python tests/check_exports.py            # exit code 1 and the names of the files that differ
    python tests/check_exports.py --write    # write README.md from nbs/index.ipynb
"""
import os, shutil, subprocess, sys, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HINTS = {"package": "edit the notebook, not the package, then `make sync`", "notebooks": "run `nbdev_clean`", "README": "edit nbs/index.ipynb, then `make sync`"}


def run(*words, cwd):
    "A program of this environment."
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode: sys.exit(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}")


def contents(folder, suffix):
    "relative path -> bytes"
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob(f"*{suffix}")) if ".ipynb_checkpoints" not in p.parts}


def different(a, b):
    "Paths whose content is not the same on both sides."
    return sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))


def copy(root, to):
    "What nbdev needs, without the package: it is exported anew, so a module without a notebook is noticed, too."
    for name in ("settings.ini", "pyproject.toml", "README.md"):
        if (root/name).is_file(): shutil.copy(root/name, to/name)
    shutil.copytree(root/"nbs", to/"nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__"))
    (to/"fesgan").mkdir()
    shutil.copy(root/"fesgan"/"__init__.py", to/"fesgan"/"__init__.py")


def check(root=ROOT):
    "What differs: [(kind, path)]."
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        copy(root, tmp)
        run("nbdev_export", cwd=tmp)
        wrong = [("package", f"fesgan/{p}") for p in different(contents(root/"fesgan", ".py"), contents(tmp/"fesgan", ".py"))]
        run("nbdev_clean", cwd=tmp)
        wrong += [("notebooks", f"nbs/{p}") for p in different(contents(root/"nbs", ".ipynb"), contents(tmp/"nbs", ".ipynb"))]
    return wrong + ([("README", "README.md")] if readme(root) != (root/"README.md").read_text(encoding="utf-8") else [])


def readme(root=ROOT):
    from fesgan.reporting.markdown import notebook_markdown
    return notebook_markdown(root/"nbs"/"index.ipynb", root)


def main(words):
    if "--write" in words:
        from fesgan.files import atomic
        with atomic(ROOT/"README.md") as tmp: tmp.write_text(readme(), encoding="utf-8")
        return 0
    wrong = check()
    for kind, path in wrong: print(f"{path} is out of step: {HINTS[kind]}", file=sys.stderr)
    if not wrong: print("Notebooks, package and README agree.")
    return int(bool(wrong))


if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
