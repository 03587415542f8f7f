# Every target makes .venv and installs what it needs if it is not there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Torch first and pinned: a looser request pulls gigabytes of CUDA packages. TORCH= chooses another build.
TORCH ?= torch==2.13.0

.PHONY: demo test test-gpu lint bench clean

demo: $(VENV)/.test
	$(BIN)/equiv-probe demo

# Models of the tests are small: a second thread waits more than it works, by far where the machine is shared.
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/pytest --durations=30

test-gpu: $(VENV)/.test
	$(BIN)/pytest -m gpu

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_batching.py
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

$(VENV)/.test: pyproject.toml Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[test,lint]"
	# SchNetPack 2.2 declares Python >= 3.12 but runs on 3.11; the extra above holds its run-time needs.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --ignore-requires-python "schnetpack==2.2.0"
	touch $@

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache
