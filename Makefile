# Every target does its own set-up: a fresh machine needs python3 (3.11 or newer) and nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed
WHEEL_ENV := build/wheel-env
WORKERS ?= 2
KILLS ?= 300
PYTHONS ?= 3.11 3.12 3.13

.DEFAULT_GOAL := help
.PHONY: help demo test quick lint types pytest exhaustive docs faults wheel pythons database browser bench weights clean

help:
	@echo "make demo     search, retrain and export a network on real data (under 4 minutes on 2 cores)"
	@echo "make test     lint, types, tests, and the built wheel in an environment of its own"
	@echo "make quick    the quick tests alone (under a minute on 2 cores)"
	@echo "make lint     ruff: rules and format"
	@echo "make types    mypy, strict, on the four source folders"
	@echo "make pytest   the tests alone"
	@echo "make exhaustive  what is one of many alike, of which make pytest tries a few"
	@echo "make faults   kill searches $(KILLS) times and inspect what they leave (the long form of tests/faults)"
	@echo "make docs     build the site in build/site: warnings and dead links are errors"
	@echo "make wheel    build sdist and wheel, install the wheel, try it"
	@echo "make pythons  install wheel and sdist on Python $(PYTHONS), and try them (needs uv)"
	@echo "make database installs PostgreSQL from Debian's packages, for the tests of a shared ledger"
	@echo "make browser  installs Chromium from Debian's packages, for the tests of pages"
	@echo "make bench    speed of a search step against the edge-by-edge reference"
	@echo "make weights  train the small networks of the hub again (about an hour on 2 cores)"
	@echo "make clean    remove builds and tool caches (the environment stays)"

demo: $(INSTALLED)
	$(BIN)/spacelang demo

# On a machine of its own (CI is set) tests get a database server and a browser where those can be had.
test: $(if $(CI),database browser) lint types pytest docs wheel $(if $(CI),pythons)
	@echo "make test: all passed"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

# One thread a worker: two workers of two threads each would fight for the same cores.
pytest: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal --durations 40 -m "not exhaustive"

# Every one of many alike: each published network, each strategy in two processes, each form of a strategy.
exhaustive: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal -q -m exhaustive

docs: $(INSTALLED)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "docs: build/site/index.html"

# Tests marked slow, and files of them, are left out.
quick: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal -q -m "not slow and not exhaustive"

# The kills of all campaigns together; the tests of `make pytest` do a few. The table is at the end.
faults: $(INSTALLED)
	SPACELANG_KILLS=$(KILLS) OMP_NUM_THREADS=1 $(BIN)/pytest tests/faults -q -s

# The wheel is tried outside the repository, in an environment that sees the dependencies of $(VENV)
# through a .pth file but not its editable install.
wheel: $(INSTALLED)
	@echo "wheel: building sdist and wheel"
	@rm -rf build/wheel* build/lib build/bdist* dist && mkdir -p build
	@$(BIN)/python -m build --no-isolation --outdir dist . > build/wheel.log 2>&1 || { cat build/wheel.log; exit 1; }
	@$(BIN)/python -m venv --without-pip $(WHEEL_ENV)
	@$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> "$$($(WHEEL_ENV)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/dependencies.pth"
	@$(PIP) --python $(WHEEL_ENV)/bin/python install --quiet --no-deps dist/*.whl
	@$(PIP) check
	@cd build && PYTHONSAFEPATH=1 wheel-env/bin/python ../tests/check_wheel.py
	@cd build && wheel-env/bin/spacelang --help > /dev/null
	@cd build && PYTHONSAFEPATH=1 OMP_NUM_THREADS=1 wheel-env/bin/python -m pytest -q -p no:cacheprovider \
		../tests/hub/test_entries.py ../tests/test_repository.py

# CPU builds of PyTorch are enough here, and a tenth of the size. What cannot be had (a Python, a package) is told of.
pythons: wheel
	@if ! command -v uv > /dev/null; then echo "pythons: no uv, so only $$($(BIN)/python --version) was tried"; exit 0; fi; \
	for python in $(PYTHONS); do for package in dist/*.whl dist/*.tar.gz; do \
		echo "pythons: $$package on Python $$python"; \
		uv venv --quiet --clear --python $$python build/python && \
		uv pip install --quiet --python build/python --torch-backend cpu $$package \
			|| { echo "pythons: it could not be installed there"; continue; }; \
		uv pip check --quiet --python build/python && \
		(cd build && PYTHONSAFEPATH=1 python/bin/python ../tests/check_wheel.py) || exit 1; \
	done; done

# $(call debian,TARGET,PROGRAM,PACKAGE) installs a package where tests lack a program and apt-get may be used.
define debian
@if [ -n "$(wildcard $(2))" ]; then echo "$(1): $(3) is installed"; \
elif [ "$$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then \
	echo "$(1): no $(3); installing it takes root and Debian's apt-get (its tests are skipped)"; \
else { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $(3); } \
	> /dev/null || echo "$(1): $(3) could not be installed (its tests are skipped)"; fi
endef

database:
	$(call debian,database,/usr/lib/postgresql/*/bin/pg_ctl,postgresql)

browser:
	$(call debian,browser,/usr/bin/chromium /usr/bin/chromium-browser /usr/bin/google-chrome,chromium)

bench: $(INSTALLED)
	$(BIN)/python benchmarks/supernet_step.py

# Another machine gets other last digits, so the checksums in hub/architectures/small.yaml change with the files.
weights: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/train_hub_weights.py

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find spacelang strategies hub evaluators tests benchmarks examples -name __pycache__ -exec rm -rf {} +

# A stamp makes the second call immediate; a changed pyproject.toml installs again. pip's own output
# goes to a log, its present step to the screen, and all of it when it fails.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(None if sys.version_info >= (3, 11) else \
		'spacelang needs Python 3.11 or newer; $(PYTHON) is ' + sys.version.split()[0] + '. Try: make PYTHON=python3.12 ...')"
	@$(BIN)/python -m pip --version > /dev/null 2>&1 \
		|| { $(BIN)/python -c "" && $(BIN)/python -m ensurepip; } > /dev/null 2>&1 \
		|| $(PYTHON) -m venv --clear $(VENV)
	@echo "installing spacelang and its dependencies into $(VENV) (PyTorch is large: minutes the first time)"
	@$(PIP) install --editable ".[dev]" > $(VENV)/install.log 2>&1 & pid=$$!; \
		trap 'kill $$pid; exit 130' INT TERM; \
		while kill -0 $$pid 2> /dev/null; do \
			now=$$(tail -n 1 $(VENV)/install.log | cut -c 1-100); \
			test "$$now" = "$$before" || echo "  $$now"; before=$$now; sleep 2; \
		done; \
		wait $$pid || { cat $(VENV)/install.log; exit 1; }
	@touch $@
