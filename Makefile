# make demo and make test need Python 3.11 or newer and nothing else: they make .venv and install into it.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
WORKDIR ?= runs/digits

.PHONY: help install demo test test-slow docs lint fuzz smoke claims reproduce techniques equivalence posteriors notebooks benchmarks check-device clean
STUDIES := score_accuracy mode_weights manifold_noise objective_cost small_noise few_steps

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("score_jax needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable '.[dev,tensorboard]'
	@touch $@

install: $(VENV)/.installed  ## make .venv and install

demo: install  ## train on real handwritten digits, sample, evaluate: about 3 minutes on 2 cores
	$(RUN) experiments/train.py --config=configs/digits.py --workdir=$(WORKDIR)
	$(RUN) experiments/evaluate.py --workdir=$(WORKDIR)
	@echo "Look at $(WORKDIR)/samples/grid.png, annealing.gif and neighbours.png, at $(WORKDIR)/figures/ and $(WORKDIR)/evaluations/"

test: install  ## the tests, 8 to 18 minutes on 2 cores
	$(RUN) -m pytest -n 2 --dist worksteal -m "not slow"

test-slow: install  ## the tests that take minutes
	$(RUN) -m pytest -m slow -n 2 --dist worksteal

$(VENV)/.docs: $(VENV)/.installed
	$(RUN) -m pip install --quiet --editable '.[docs]'
	@touch $@

docs: $(VENV)/.docs  ## the documentation as a site, into site/; fails on warnings and broken links
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --clean
	@echo "site/index.html is there; searching needs a server: $(RUN) -m http.server --directory site"

lint: install  ## formatting, lint, types
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

fuzz: install  ## 10,000 damaged files for every reader: about 5 minutes on 2 cores
	$(RUN) -m tests.fuzz $(FUZZ)

smoke: install  ## a few seconds of training and sampling: for a second Python version
	$(RUN) -m pytest tests/test_smoke.py

claims: install  ## run the textbook's claims and rewrite docs/claims.md
	$(RUN) -m experiments.claims

reproduce: install  ## the toy studies: run each and rewrite its result, about 6 minutes on 2 cores
	for study in $(STUDIES); do $(RUN) -m experiments.studies.$$study || exit 1; done

techniques: install  ## NCSN to NCSNv2 on Fashion-MNIST: 30 core-minutes
	$(RUN) -m experiments.studies.ncsn_techniques

equivalence: install  ## SMLD, DDPM and the samplers compared: 8 minutes on 2 cores
	$(RUN) -m experiments.studies.ddpm_equivalence

posteriors: install  ## conditional samplers against exact posteriors: 12 minutes on 2 cores
	$(RUN) -m experiments.posterior_benchmark

notebooks: install  ## execute the notebooks in place
	$(VENV)/bin/jupyter-execute --inplace notebooks/*.ipynb

benchmarks: install  ## run every benchmark and rewrite benchmarks/README.md's tables
	$(RUN) benchmarks/run.py

check-device:  ## on a GPU or TPU: does everything work, and how fast; with whatever is installed, 10 minutes
	$(if $(wildcard $(RUN)),$(RUN),$(PYTHON)) benchmarks/check_device.py $(CHECK)

clean:
	rm -rf $(VENV) build site *.egg-info .pytest_cache .mypy_cache .ruff_cache
