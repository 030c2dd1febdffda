# make demo   everything from nothing: install, synthetic series, the eight scripts, their scores
# make test   install, then all tests
# make check  install, then ruff
# make clean  remove what the demo made; .venv stays
PYTHON ?= python3
PY := .venv/bin/python
PIP := $(PY) -m pip --quiet --disable-pip-version-check
DATA := --data-dir demo/data
FOLD := $(DATA) --model-dir demo/model --fold 0
ENCODER := --encoder resnet10t

.PHONY: demo test check clean

demo: .venv/run.txt
	rm -rf demo
	$(PY) tools/make_demo_data.py --out demo/data --series 720 --matrix 96 --slices 28 --workers 2
	$(PY) preprocess_data.py $(DATA) --image-size 96 --no-write-slices --workers 2
	$(PY) create_folds.py $(DATA) --folds 5
	$(PY) train_stage1.py $(FOLD) $(ENCODER) --no-pretrained --crop-size 88 --epochs 16 --lr 1e-3 --ema-decay 0.99 --workers 0
	$(PY) eval_stage1.py $(FOLD) $(ENCODER) --workers 0
	$(PY) extract_features.py $(FOLD) $(ENCODER)
	$(PY) train_stage2.py $(FOLD) $(ENCODER) --width 128 --epochs 30 --lr 5e-4 --ema-decay 0.99
	$(PY) eval_stage2.py $(FOLD) $(ENCODER)
	$(PY) eval_end_to_end.py $(FOLD) $(ENCODER)
	$(PY) tools/show_scores.py --model-dir demo/model $(ENCODER)

test: .venv/dev.txt
	$(PY) -m pytest

check: .venv/dev.txt
	@.venv/bin/ruff check --quiet .
	@.venv/bin/ruff format --check --quiet .

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
