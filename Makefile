# Every target makes .venv and installs what it needs if it is not there: what the demo needs for the demo, the rest for
# the tests. `make test ARGS="-k name"` passes arguments to pytest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Torch first and pinned: a looser request pulls gigabytes of CUDA packages. TORCH= chooses another build.
TORCH ?= torch==2.13.0
# Errors show; a page of warnings about the registry does not.
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check
# Where uv is installed it installs what comes after torch, which pip may have from a place that uv does not look at.
INSTALL := $(if $(shell command -v uv),uv pip install --quiet --python $(BIN)/python,$(PIP) install)
# Models of the tests are small: a second process helps, a second thread waits more than it works.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal

.PHONY: demo test test-fast hosts gpu-check lint docs docs-run bench clean

demo: $(VENV)/.demo
	$(BIN)/equiv-probe demo

test: $(VENV)/.test
	$(PYTEST) --durations=30 $(ARGS)

# Without what is marked slow: trainings in other processes, coverage by brute force, browsers.
test-fast: $(VENV)/.test
	$(PYTEST) -m "not slow" $(ARGS)

# Trainings with other people's packages, each in an environment of its own: make hosts HOST=nequip, or all of them.
hosts:
	$(PYTHON) tests/hosts/install.py $(HOST)

# On a machine with a GPU: the tests marked gpu, then the benchmarks, as one table in gpu-check.md.
gpu-check: $(VENV)/.test
	$(BIN)/python tests/benchmarks/gpu_check.py $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site, without network: docs/_build/html/index.html. Warnings and broken links are errors.
docs: $(VENV)/.docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --builder html docs docs/_build/html

# What the gallery shows, made anew by the force fields themselves: make docs-run ARGS=chgnet, or all of it.
docs-run: $(VENV)/.docs
	OMP_NUM_THREADS=1 $(BIN)/python docs/stored_results.py $(ARGS)

bench: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_import.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_batching.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_evaluators.py --structures 4
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_probe.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_lightning.py
	# Smaller than by default, a minute or two each; their own --help says how to ask for more.
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_grids.py --voxels 32
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_monitor.py --models emt transformer --rounds 3
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_twirled_calculator.py --repeats 3
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_sampler.py --steps 300 --samples 8
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_penalty.py --passes 600 --seeds 1
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_curvature.py --structures 2
	test -z "$$EQUIV_PROBE_DATA" || OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_pyg.py

$(VENV)/.demo: pyproject.toml Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install "$(TORCH)"
	$(INSTALL) -e ".[demo]"
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(INSTALL) -e ".[test,lint]"
	# SchNetPack 2.2 declares Python >= 3.12 but runs on 3.11; the extra above holds its run-time needs.
	$(PIP) install --no-deps --ignore-requires-python "schnetpack==2.2.0"
	touch $@

$(VENV)/.docs: $(VENV)/.test
	$(INSTALL) -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) dist docs/_build docs/generated .mypy_cache .ruff_cache .pytest_cache
