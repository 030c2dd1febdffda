# make demo    install, draw synthetic series, run the eight stages on fold 0, print scores, write a
#              report; deletes demo/ first
# make folds   after make demo: both stages on all five folds, hard slices, scores over all folds
# make test    install, then run all tests
# make check   install, then check style (ruff) and who may import whom (import-linter)
# make gpu-check   install, then test and measure on a GPU, in less than 8 minutes; gpu_check.json
# make clean   delete demo/; .venv stays
#
# Variables, such as in make demo DEMO=demo/seed45 SEED=45
#   SEED=44      of both trainings
#   SERIES=900   synthetic series to draw
#   DEMO=demo    folder for everything that the demo makes
#   HEATMAP=0.3  weight of the heatmap's loss; 0 is the published network
#   SHUFFLE=--shuffle-labels   the negative control: labels that do not belong to their pictures
#   PYTHON=python3             makes .venv; needs to be 3.11
PYTHON ?= python3
PY := .venv/bin/python
PIP := $(PY) -m pip --quiet --disable-pip-version-check
SERIES ?= 900
SEED ?= 44
HEATMAP ?= 0.3
SHUFFLE ?= --no-shuffle-labels
DEMO ?= demo
DATA := --data-dir $(DEMO)/data
MODEL := $(DATA) --model-dir $(DEMO)/model --encoder test_resnet
FOLD := $(MODEL) --fold 0
# The demo's pictures show the middle of the head alone, so the crop is as published: --view-mm 0.
TRAIN1 := $(PY) train_stage1.py $(MODEL) --no-pretrained --crop-size 88 --view-mm 0 --heatmap-weight $(HEATMAP) --epochs 30 --batch-size 16 --lr 3e-3 --ema-decay 0.99 --seed $(SEED) --workers 0

TRAIN2 := $(PY) train_stage2.py $(MODEL) --width 128 --epochs 30 --lr 1e-3 --ema-decay 0.99 --seed $(SEED)
FOLDS := 0 1 2 3 4

.PHONY: demo folds test check gpu-check clean

demo: .venv/run.txt
	rm -rf $(DEMO)
	$(PY) tools/make_demo_data.py --out $(DEMO)/data --series $(SERIES) --matrix 96 --slices 28 --workers 2 $(SHUFFLE)
	$(PY) preprocess_data.py $(DATA) --image-size 96 --no-write-slices --workers 2
	$(PY) create_folds.py $(DATA) --folds 5
	$(TRAIN1) --fold 0
	$(PY) eval_stage1.py $(FOLD) --workers 0
	$(PY) extract_features.py $(FOLD)
	$(TRAIN2) --fold 0
	$(PY) eval_stage2.py $(FOLD)
	$(PY) eval_end_to_end.py $(FOLD)
	$(PY) tools/report.py $(MODEL)

folds: .venv/run.txt
	for fold in $(FOLDS); do $(TRAIN1) --fold $$fold --resume && $(PY) extract_features.py $(MODEL) --fold $$fold && $(TRAIN2) --fold $$fold --resume || exit; done
	$(PY) tools/mine_hard_negatives.py $(MODEL)
	$(PY) eval_stage2.py $(MODEL) --fold all
	$(PY) eval_end_to_end.py $(MODEL) --fold all
	$(PY) tools/measure_findings.py $(MODEL) --fold all
	$(PY) tools/report.py $(MODEL)

# With bytecode, which otherwise each of the hundred processes of the tests would make again, and
# one thread each: two processes of two threads on two cores wait for one another. Three of one
# thread keep two cores busy, as tests wait for what they stop. In the order of tests/conftest.py:
# the longest files first.
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
