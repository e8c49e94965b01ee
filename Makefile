# `make demo` and `make test` are all that a fresh machine needs besides Python 3.11 and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
INSTALLED := $(VENV)/.installed
# The embedded Postgres of the tests: 18 or 16; `debian` for the distribution's, or a postgresql:// URL of a superuser.
SERVER ?= 18
# Into how many hash partitions the tests put the assets; 0 leaves them in a plain table.
PARTITIONS ?= 0
# Commits of this repository that `make bench` measures as well, and its rounds.
AGAINST ?=
ROUNDS ?= 3
COMMITS = $(AGAINST:%=--against %)
LOADING = $(BIN)/python benchmarks/loading.py --repeat $(ROUNDS) $(COMMITS)
OURS = floor,limit,first,unchanged,document,document-unchanged
# Test processes, each with a server of its own.
WORKERS ?= 2

.PHONY: help demo test test-faults check format bench bench-peers bench-scaling bench-memory package constraints clean

help:  ## Show this.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(INSTALLED)  ## Load a sample index into the embedded Postgres, twice: the second run changes nothing.
	$(BIN)/seed-registry sample --records 5000 --duplicates 1 --invalid 0.1 --out $(VENV)/demo.json
	$(BIN)/seed-registry load --database-url embedded $(VENV)/demo.json
	$(BIN)/seed-registry load --database-url embedded $(VENV)/demo.json

test: $(INSTALLED)  ## Run the tests against a real Postgres.
	$(BIN)/pytest -q -n $(WORKERS) --dist loadfile --server $(SERVER) --partitions $(PARTITIONS) $(PYTEST)

test-faults: $(INSTALLED)  ## Run the catalogue of faults and bad input, and slow tests (25 minutes); FAULTS=--slice for some of each kind.
	$(BIN)/pytest -q -n $(WORKERS) --server $(SERVER) -m "" tests/faults $(FAULTS)
	$(BIN)/pytest -q -n $(WORKERS) --server $(SERVER) -m slow $(FAULTS)

check: $(INSTALLED)  ## Format, lint, types, import layering.
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_architecture.py

format: $(INSTALLED)  ## Format the code.
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

bench: $(INSTALLED)  ## Measure decoding, starting, and loading next to psql and the peers that are set up, into docs/benchmarks.md (an hour).
	$(BIN)/python benchmarks/decoding.py
	$(BIN)/python benchmarks/decoding.py --dialects --megabytes 10 --repeat 9 --bytes 2000,4400 --write-docs dialects
	$(BIN)/python benchmarks/starting.py $(COMMITS) --write-docs starting
	$(BIN)/python benchmarks/history.py --write-docs history
	$(LOADING) --write-docs mid
	$(LOADING) --ways first,unchanged --batch-size 500 --write-docs mid-500
	$(LOADING) --ways $(OURS) --size real --write-docs real
	$(LOADING) --ways first,unchanged --size real --batch-size 500 --write-docs real-500
	$(LOADING) --ways changed --size real --changed 100 --batch-size 500 --concurrency 4 --write-docs changed
	@if ls /usr/lib/postgresql/*/bin/initdb > /dev/null 2>&1; then \
	  set -x; $(LOADING) --ways first --size real --server packaged --existing-table --write-docs existing; \
	  else echo "There is no packaged Postgres: without the table that was there before." >&2; fi

bench-peers:  ## Set up the peers of `make bench`, in environments of their own.
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install -q --disable-pip-version-check -r benchmarks/peers/requirements.txt
	@if command -v npm > /dev/null; then npm ci --prefix benchmarks/peers/node --no-audit --no-fund; \
	  else echo "There is no npm: without the peer that runs on Node." >&2; fi

bench-scaling: $(INSTALLED)  ## Time and memory at 200,000 to 20,000,000 records, 1 to 16 workers, into docs/benchmarks.md (an hour, 70 GB of disk).
	$(BIN)/python benchmarks/scaling.py --write-docs scaling
	$(BIN)/python benchmarks/scaling.py --processes 1,2,4 --records 2000000 --write-docs processes
	$(BIN)/python benchmarks/scaling.py --defer-indexes --workers '' --records 200000,5000000 --write-docs deferred-indexes

bench-memory: $(INSTALLED)  ## Peak memory of a 2 GB NDJSON and a 1 GB document (minutes, 3 GB of disk).
	$(BIN)/python benchmarks/memory.py

package: $(INSTALLED)  ## Build the wheel, install it into an empty environment, and load with it.
	rm -rf dist .venv-package
	$(BIN)/python -m pip wheel -q --disable-pip-version-check --no-deps --wheel-dir dist .
	$(PYTHON) -m venv .venv-package
	.venv-package/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt dist/*.whl
	cd dist && ../.venv-package/bin/seed-registry sample --records 500 --out sample.json && \
	  ../.venv-package/bin/seed-registry load --database-url embedded sample.json && \
	  ../.venv-package/bin/seed-registry runs --database-url embedded --json > /dev/null
	rm -rf dist .venv-package

constraints:  ## Pin what is newest within the ranges of pyproject.toml.
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install -q -e '.[dev]'
	(echo '# What development and CI install; made with `make constraints`. Users get the ranges of pyproject.toml.'; \
	  $(BIN)/pip freeze --exclude-editable) > constraints.txt

clean:  ## Remove what was set up here; the embedded database stays (`seed-registry db reset`).
	rm -rf $(VENV) $(PEERS) .venv-commits benchmarks/peers/node/node_modules dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  (echo "Python 3.11 or newer is needed: make PYTHON=python3.12 …" >&2; exit 1)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
