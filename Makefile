# make train   install into .venv and train a GAN on MNIST
# make test    install into .venv and run the tests
# make lint    ruff and mypy --strict
# make bench   install into .venv and time the kernels on the smallest nets, briefly
# make gpu     test and time everything on a GPU, with what is installed beside $(PYTHON): see docs/performance.md
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

train: $(VENV)/installed
	$(BIN)/python examples/dcgan_mnist.py $(ARGS)

test: $(VENV)/installed-test
	$(BIN)/python -m pytest

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/installed
	$(BIN)/python benchmarks/kernels.py --filter 28px --rounds 5 $(ARGS)

gpu:
	PYTHONPATH=. $(PYTHON) benchmarks/gpu.py $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info

# -e: the sources that you read are the sources that run. A file marks what is installed.
$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install -q -e '.[test]'
	touch $@

.PHONY: train test lint bench gpu clean
