# All set-up happens here: `make demo` and `make test` work on a fresh clone.
VENV := .venv
PYTHON ?= python3.11
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CXX_SOURCES := $(wildcard zerrow_store/*/*.cc zerrow_store/*/*/*.cc zerrow_store/*/*/*.h)
NATIVE := $(CXX_SOURCES) CMakeLists.txt pyproject.toml
SF ?= 0.1
PYTHONS ?= $(PYTHON)

.PHONY: demo test test-rays test-oldest test-metrics test-debian wheels matrix test-kernel test-kernel-debug test-cgroup2 lint format bench bench-guest bench-huge-pages bench-decache bench-kernelzero \
	bench-pressure bench-pipelines bench-sandbox bench-transfer bench-control bench-cluster report gate nightly sanitize docs clean

demo: $(STAMP)
	$(BIN)/python -m benchmarks.demo --scale $(SF)

test: $(STAMP)
	$(BIN)/python -m pytest

# A part of them over the older versions of Ray. RAYS="2.57 2.58": only these.
test-rays: $(STAMP)
	VENV=$(VENV) RAYS="$(RAYS)" sh tools/rays.sh

# All of them beside the oldest versions of Python, pyarrow, Ray and NumPy. TESTS="tests/node": only these.
test-oldest:
	PYTHON=$(PYTHON) sh tools/oldest.sh $(TESTS)

# Metrics at Ray's own endpoint, which takes what ray[default] installs.
test-metrics: $(STAMP)
	VENV=$(VENV) sh tools/metrics.sh

# Wheels for these Pythons, into dist/: PYTHONS="python3.10 python3.13". PYARROWS="19 26": not for every
# libarrow; CORNERS=1: for the oldest and newest. ARCH=aarch64: for another processor.
wheels:
	PYTHONS="$(PYTHONS)" PYARROWS="$(PYARROWS)" CORNERS="$(CORNERS)" ARCH="$(ARCH)" sh tools/wheels.sh

# A job from those wheels, beside all versions that they are made for; CORNERS=1: the oldest and newest.
matrix: $(STAMP)
	$(BIN)/python -m tools.matrix $(if $(CORNERS),--corners) $(PYTHONS)

# README's lines of installing, as an ordinary user of an empty Debian; wants root, debootstrap, and a
# wheel for Python 3.11 in dist/. DEBIANS="bookworm" WAYS="sources": not all.
test-debian:
	sh tools/debian.sh

# Boots Debian's kernels in QEMU; wants apt, and root if packages are missing. KERNEL_TESTS="--fast"
test-kernel: $(STAMP)
	$(BIN)/python kmod/tests/run.py --python $(BIN)/python $(KERNEL_TESTS)

# Once more with KASAN and lockdep; builds that kernel, once.
test-kernel-debug:
	$(PYTHON) kmod/tests/run.py --debug --timeout 7200

# The documentation's site, into build/docs. A broken link is an error.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

bench: $(STAMP)
	$(BIN)/python -m benchmarks.hop

# Calls and hops of an ordinary job; GUEST=--data: Ray Data.
bench-guest: $(STAMP)
	$(BIN)/python -m benchmarks.guest $(GUEST)

bench-huge-pages: $(STAMP)
	$(BIN)/python -m benchmarks.huge_pages

bench-decache: $(STAMP)
	$(BIN)/python -m benchmarks.decache

# Instructions, counted in QEMU.
bench-kernelzero: $(STAMP)
	$(BIN)/python -m benchmarks.kernelzero

bench-pressure: $(STAMP)
	$(BIN)/python -m benchmarks.pressure

bench-pipelines: $(STAMP)
	$(BIN)/python -m benchmarks.pipelines

bench-sandbox: $(STAMP)
	$(BIN)/python -m benchmarks.sandbox

# Between two stores; as root also at 10 Gbit/s. TRANSFER="--rounds 2 --sizes 65536 16777216"
bench-transfer: $(STAMP)
	$(BIN)/python -m benchmarks.transfer $(TRANSFER)

# Between the nodes of a cluster, as root; CLUSTER="--address HOST:PORT": of one that is there.
bench-cluster: $(STAMP)
	$(BIN)/python -m benchmarks.cluster $(CLUSTER)

# Between the stores of many nodes, by measured costs.
bench-control: $(STAMP)
	$(BIN)/python -m benchmarks.control_traffic

# The evidence as one page: a check that all cases run, in some minutes; FULL=1: in hours, resumable.
# CASES="zero-copy peers": only these.
report: $(STAMP)
	$(BIN)/python -m benchmarks.report $(if $(FULL),--full) $(if $(CASES),--only $(CASES))

# Counts that have to be as they are written down. RECORD=1: writes them down.
gate: $(STAMP)
	RECORD=$(RECORD) $(BIN)/python -m pytest tests/gate

nightly: $(STAMP) test-rays test-oldest
	$(BIN)/python -m tests.nightly.pyarrow_suite
	$(BIN)/python -m tests.nightly.sandbox_calls
	$(BIN)/python -m tests.nightly.chaos
	$(BIN)/python -m tests.nightly.ratios

# The sandbox's limits with cgroup v2, for machines that have v1; wants a kernel of `make test-kernel`.
test-cgroup2: $(STAMP)
	$(BIN)/python -m tests.nightly.sandbox_cgroup2

sanitize: $(STAMP)
	VENV=$(VENV) sh tools/sanitize.sh

$(STAMP): $(NATIVE) tools/setup.sh
	PYTHON=$(PYTHON) VENV=$(VENV) sh tools/setup.sh
	touch $@

clean:
	rm -rf $(VENV) build dist data results .pytest_cache .mypy_cache .ruff_cache .hypothesis
