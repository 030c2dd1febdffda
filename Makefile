# make all     the eight stages on your data, for each of FOLDS, and a report; run it again to continue
# make status  which stages are done
# make demo    install, draw synthetic series, run the eight stages on fold 0, print scores, write a
#              report; continues what is there
# make folds   the same for all five folds of the demo, then mine hard slices
# make test    install, then run all tests
# make check   install, then check style (ruff) and who may import whom (import-linter)
# make gpu-check   install, then test and measure on a GPU, in less than 8 minutes; gpu_check.json
# make clean   delete demo/; .venv stays
#
# The parts of make all, for a batch system (docs/scale.md):
# make tables          stages 1 and 2
# make fold FOLD=3     stages 3 to 7 of a fold
# make pool            stage 8 of FOLDS, pooled if these are all; the report
#
# Variables of make all, such as in make all DATA=data FOLDS="0 1 2"
#   DATA=data MODEL=model      --data-dir and --model-dir
#   ENCODER=convnext_base.dinov3_lvd1689m
#   FOLDS="0 1 2"              folds to train, of DEAL=10 that are dealt; default: all ten
#   PREPROCESS= STAGE1= EXTRACT= STAGE2=   more flags of preprocess_data.py, train_stage1.py,
#                              extract_features.py and train_stage2.py
#   LOADERS=4                  loader processes of stages 3 and 4
#
# Variables of make demo and make folds, such as in make demo DEMO=demo/seed45 SEED=45
#   SEED=44      of both trainings
#   SERIES=900   synthetic series to draw
#   DEMO=demo    folder for everything that the demo makes
#   HEATMAP=0.3  weight of the heatmap's loss; 0 is the published network
#   SHUFFLE=--shuffle-labels   the negative control: labels that do not belong to their pictures
#   PYTHON=python3             makes .venv; needs to be 3.11
PYTHON ?= python3
PY := .venv/bin/python
PIP := $(PY) -m pip --quiet --disable-pip-version-check
DATA ?= data
MODEL ?= model
ENCODER ?= convnext_base.dinov3_lvd1689m
FOLDS ?= 0 1 2 3 4 5 6 7 8 9
DEAL ?= 10
FOLD ?= 0
PREPROCESS ?=
STAGE1 ?=
EXTRACT ?=
STAGE2 ?=
LOADERS ?= 4
SERIES ?= 900
SEED ?= 44
HEATMAP ?= 0.3
SHUFFLE ?= --no-shuffle-labels
DEMO ?= demo

OF_ALL = --data-dir "$(DATA)" --model-dir "$(MODEL)" --encoder $(ENCODER)
OF_FOLD = $(OF_ALL) --fold $(FOLD)
RUN = $(MODEL)/$(subst /,_,$(ENCODER))/fold-$(FOLD)
EVERY = $(filter $(DEAL),$(words $(FOLDS)))
MAKEFLAGS += --no-print-directory
SOME_MAY_FAIL = || [ $$? = 3 ]  # exit code 3: finished, some series could not be read

# The demo's pictures show the middle of the head alone, so the crop is as published: --view-mm 0.
OF_DEMO = DATA="$(DEMO)/data" MODEL="$(DEMO)/model" ENCODER=test_resnet DEAL=5 LOADERS=0 \
	PREPROCESS="--image-size 96 --no-write-slices --workers 2" \
	STAGE1="--no-pretrained --crop-size 88 --view-mm 0 --heatmap-weight $(HEATMAP) --epochs 30 --batch-size 16 --lr 3e-3 --ema-decay 0.99 --seed $(SEED)" \
	STAGE2="--width 128 --epochs 30 --lr 1e-3 --ema-decay 0.99 --seed $(SEED)"

.PHONY: all status tables fold stages pool demo drawn folds test check gpu-check clean

all: .venv/run.txt
	@$(MAKE) tables
	@for fold in $(FOLDS); do $(MAKE) fold FOLD=$$fold || exit; done
	@$(MAKE) pool

status: .venv/run.txt
	@$(PY) tools/status.py $(OF_ALL)

tables: .venv/run.txt
	$(PY) preprocess_data.py --data-dir "$(DATA)" $(PREPROCESS) $(SOME_MAY_FAIL)
	$(PY) create_folds.py --data-dir "$(DATA)" --folds $(DEAL)

# A fold is done if its scores are newer than its weights.
fold: .venv/run.txt
	@if [ "$(RUN)/scores_stage2.json" -nt "$(RUN)/best_stage1.pth" ] && \
		[ "$(RUN)/scores_stage2.json" -nt "$(RUN)/weights_inference.pth" ]; \
	then echo "fold $(FOLD) is done: delete $(RUN)/scores_stage2.json to run it again"; \
	else $(MAKE) status stages; fi

stages:
	$(PY) train_stage1.py $(OF_FOLD) $(STAGE1) --workers $(LOADERS) --resume
	$(PY) eval_stage1.py $(OF_FOLD) --workers $(LOADERS)
	$(PY) extract_features.py $(OF_FOLD) $(EXTRACT)
	$(PY) train_stage2.py $(OF_FOLD) $(STAGE2) --resume
	$(PY) eval_stage2.py $(OF_FOLD)

pool: .venv/run.txt
	$(if $(EVERY),$(PY) eval_stage2.py $(OF_ALL) --fold all)
	@for fold in $(if $(EVERY),all,$(FOLDS)); do \
		$(PY) eval_end_to_end.py $(OF_ALL) --fold $$fold $(SOME_MAY_FAIL) || exit; done
	$(if $(EVERY),$(PY) tools/measure_findings.py $(OF_ALL) --fold all)
	$(PY) tools/report.py $(OF_ALL)
	@$(MAKE) status

demo: drawn
	@$(MAKE) all FOLDS=0 $(OF_DEMO)

folds: drawn
	@$(MAKE) all FOLDS="0 1 2 3 4" $(OF_DEMO)
	$(PY) tools/mine_hard_negatives.py --data-dir $(DEMO)/data --model-dir $(DEMO)/model --encoder test_resnet

drawn: .venv/run.txt
	$(PY) tools/make_demo_data.py --out $(DEMO)/data --series $(SERIES) --matrix 96 --slices 28 --workers 2 $(SHUFFLE)

# With bytecode, which otherwise each of the hundred processes of the tests would make again, and
# one thread each: two processes of two threads on two cores wait for one another. Three keep two
# cores busy, as some tests wait (288 s, two take 336 s). In the order of tests/conftest.py: the
# longest files first.
test: .venv/dev.txt
	env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder

check: .venv/dev.txt
	@.venv/bin/ruff check --quiet .
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/lint-imports > /dev/null || { .venv/bin/lint-imports; exit 1; }

gpu-check: .venv/dev.txt
	$(PY) tools/gpu_check.py

clean:
	rm -rf demo

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/run.txt: requirements.txt | .venv/bin/python
	$(PIP) install -r requirements.txt
	@cp requirements.txt $@

.venv/dev.txt: requirements-dev.txt .venv/run.txt
	$(PIP) install -r requirements-dev.txt
	@cp requirements-dev.txt $@
