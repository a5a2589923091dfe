# The two commands a new machine needs are `make demo` and `make test`; each sets up what it uses in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# The CUDA extra that fits the driver: CUDA 13 needs driver 580, CUDA 12 runs on 525 and newer.
DRIVER := $(shell nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 | cut -d. -f1)
CUDA_EXTRA := $(shell if [ -z "$(DRIVER)" ]; then :; elif [ "$(DRIVER)" -ge 580 ] 2>/dev/null; then echo cuda13; \
	elif [ "$(DRIVER)" -ge 525 ] 2>/dev/null; then echo cuda12; fi)

# Test workers are processes: each keeps BLAS to one thread, or they would fight for the cores.
WORKERS ?= auto
PYTEST := OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: demo test test-unit test-peers test-host test-gpu lint format wheel check-wheel bench clean

demo: $(VENV)/.demo ## run the digits network and show what to try next
	$(BIN)/gpuq demo

test: $(VENV)/.test ## everything: lint, types, unit tests, real runtimes beside us
	$(PYTEST) tests

test-unit: $(VENV)/.test ## the rooms of gpuq alone, without the real runtimes
	$(PYTEST) tests --ignore tests/peers

test-peers: $(VENV)/.test ## real runtimes beside us; 20,000 random operators in each profile
	GPUQ_PEER_CASES=$(or $(GPUQ_PEER_CASES),20000) GPUQ_PEER_INPUTS=20 $(PYTEST) tests/peers

test-host: $(VENV)/.test ## every kernel with every rule, dtype and way of loading, 300 random layers each, on the CPU
	GPUQ_HOST_CASES=300 GPUQ_KERNEL_CASES=30 $(PYTEST) tests/host_cuda tests/test_cuda_*.py tests/test_sass.py tests/peers/test_random_kernels.py

test-gpu: $(VENV)/.test ## what only a GPU can show
	$(BIN)/python -m pytest -m gpu tests

lint: $(VENV)/.test ## ruff, mypy, import contracts
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

format: $(VENV)/.test ## rewrite the code as ruff wants it
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

wheel: $(VENV)/.test ## dist/gpuq-*.whl
	$(PIP) install --quiet "build>=1.2"
	rm -rf dist && $(BIN)/python -m build --wheel --outdir dist .

check-wheel: wheel ## the wheel alone, in an empty environment, runs the demo
	rm -rf build/wheel-env && $(PYTHON) -m venv build/wheel-env
	build/wheel-env/bin/python -m pip --disable-pip-version-check install --quiet dist/gpuq-*.whl
	cd build/wheel-env && bin/gpuq --version && bin/gpuq demo

bench: $(VENV)/.test ## whole networks on the CPU, shared models beside LiteRT, JSON to bench/results/
	$(BIN)/python -m bench.bench_models --device cpu

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "gpuq needs Python 3.10 or newer")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml
	$(PIP) install --quiet --editable ".$(if $(CUDA_EXTRA),[$(CUDA_EXTRA)])"
	touch $@

# Tests compile every kernel, GPU or not: without a driver to fit, for the newest CUDA.
$(VENV)/.test: $(VENV)/bin/python pyproject.toml
	$(PIP) install --quiet --editable ".[test,$(or $(CUDA_EXTRA),cuda13)]"
	touch $@ $(VENV)/.demo
