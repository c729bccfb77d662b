# make demo: train a demo    make test: linters and quick tests    make slow: slow tests    make docs: the site    make clean: delete the environment
PYTHON ?= python3
ENV ?= .venv
BIN = $(ENV)/bin
RUN := runs/clouds/demo-$(shell date +%Y-%m-%d_%H-%M-%S)

.PHONY: demo test lint slow docs install clean

install: $(ENV)/installed

$(ENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(ENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/python -m datamodules.samples clouds sample/clouds
	$(BIN)/belvedere fit --config clouds/demo --output $(RUN)
	$(BIN)/belvedere test --ckpt_path $(RUN)/checkpoints/best.ckpt
	$(BIN)/belvedere predict --ckpt_path $(RUN)/checkpoints/best.ckpt
	@echo; echo 'Look at:'
	@ls $(RUN)/curves.png $(RUN)/predict/overlays/*.jpg && ls $(RUN)/panels/*.png | tail -n 1
	@ls $(RUN)/metrics.csv $(RUN)/thresholds.csv $(RUN)/test/metrics.csv $(RUN)/predict/submission.csv

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -m 'not slow' --cov -n auto --maxprocesses 4

slow: install
	$(BIN)/python -m pytest -m slow

docs: install
	$(BIN)/python -m website

clean:
	rm -rf $(ENV) build .mypy_cache .pytest_cache .ruff_cache .coverage
