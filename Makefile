# make demo: train a demo (TASK=roads, avalanches, colorization, aesthetics)    make docs: the site
# make test: linters and quick tests    make slow: slow tests    make clean: delete the environment
PYTHON ?= python3
ENV ?= .venv
BIN = $(ENV)/bin
TASK ?= clouds
RUN := runs/$(TASK)/demo-$(shell date +%Y-%m-%d_%H-%M-%S)

.PHONY: demo test lint slow docs install clean

install: $(ENV)/installed

$(ENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(ENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/python -m datamodules.samples $(TASK) sample/$(TASK)
	$(BIN)/belvedere fit --config $(TASK)/demo --output $(RUN)
	$(BIN)/belvedere test --ckpt_path $(RUN)/checkpoints/best.ckpt
	$(BIN)/belvedere predict --ckpt_path $(RUN)/checkpoints/best.ckpt
	@echo; echo 'Look at:'
	@best=$$($(BIN)/python -c 'import json; print(json.load(open("$(RUN)/record.json"))["best_epoch"])'); \
	ls $(RUN)/curves.png $(RUN)/panels/epoch_$$(printf %04d $$best).png $(RUN)/test/metrics.csv $(RUN)/predict*/overview.html 2>/dev/null || true

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -m 'not slow' --cov -n auto --maxprocesses 4

slow: install
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile

docs: install
	$(BIN)/python -m website

clean:
	rm -rf $(ENV) build .mypy_cache .pytest_cache .ruff_cache .coverage
