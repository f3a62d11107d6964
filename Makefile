# Everything a new machine needs beside Python 3.11+, make and Maven is installed into .venv. Bytecode is compiled here,
# because hosts that may not write it (PYTHONDONTWRITEBYTECODE, read-only file systems) would compile at each start.
VENV := .venv
BIN := $(VENV)/bin

# The demo runs the whole move on this machine and leaves nothing running.
.PHONY: setup demo dev check test test-extra bench bench-lag bench-fanout bench-scale bench-idle bench-commits bench-month chaos matrix clean pins
setup: $(VENV)/.ready

$(VENV)/.ready: requirements/dev.txt pyproject.toml
	python3 -m venv $(VENV)
	$(BIN)/python -m pip install -q uv==0.13.8
	$(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python -r requirements/dev.txt
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	@$(BIN)/python -m compileall -q sync_pipeline assets checks demo tests
	@touch $@

demo: setup
	$(BIN)/sync-pipeline demo run

# Servers, editors and Dagster until Ctrl-C; the next one goes on with what this one wrote.
dev: setup
	$(BIN)/sync-pipeline demo dev

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@mkdir -p $(VENV)/dagster && touch $(VENV)/dagster/dagster.yaml
	DAGSTER_HOME=$(CURDIR)/$(VENV)/dagster $(BIN)/dg check defs

# Two workers with servers of their own; what asserts how soon Dagster goes on has the machine to itself. Tests that
# are marked `long`, such as two code locations for three minutes, are left to test-extra.
ALONE := tests/failure/test_dagster_kills.py
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not long" $(ALONE:%=--ignore=%)
	$(BIN)/python -m pytest $(ALONE)

# Dagster's pages in this machine's Chromium; SYNC_SCREENSHOTS=docs/img renews the pictures of the tour.
test-extra: setup
	@$(BIN)/python -m tests.extra.chromium
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -r requirements/extra.txt
	$(BIN)/python -m pytest tests/extra
	$(BIN)/python -m pytest -m long tests/failure

# History filled with everything on, against binary COPY piped to COPY: make bench ROWS=100000
ROWS := 1000000
bench: setup
	$(BIN)/python -m tests.benchmarks.backfill --rows $(ROWS) $(BENCH)

# The live delta from commit to commit while 1,000 rows a second change, and while a parent of 50,000 rows is renamed.
SOURCE := wal
bench-lag: setup
	$(BIN)/python -m tests.benchmarks.lag $(SOURCE) $(BENCH)
bench-fanout: setup
	$(BIN)/python -m tests.benchmarks.fanout $(SOURCE) $(BENCH)

# History, a sweep and a bulk update of many narrow rows, by runs of a minute: make bench-scale SCALE=20000000
SCALE := 20000000
bench-scale: setup
	$(BIN)/python -m tests.benchmarks.scale --rows $(SCALE) $(BENCH)

# CPU of a pipeline in which nothing changes, without and with 1,000,000 files: make bench-idle BENCH="--entities 50"
bench-idle: setup
	$(BIN)/python -m tests.benchmarks.idle $(BENCH)

# Commits a second of a monolith whose tables have triggers of an outbox, with NOTIFY and without.
bench-commits: setup
	$(BIN)/python -m tests.benchmarks.commits $(BENCH)

# A month of live delta in Dagster's storage: its size after retention, and how long pages take to open.
bench-month: setup
	$(BIN)/python -m tests.benchmarks.month $(BENCH)

# Faults at random on real servers, round by round: make chaos ROUNDS=20 SEED=7 FROM=40 goes on where FROM=20 ended.
ROUNDS := 10
SEED := 1
FROM := 0
chaos: setup
	$(BIN)/python -m tests.chaos --rounds $(ROUNDS) --seed $(SEED) --from $(FROM) $(CHAOS)

# Every combination of which the suite tries one: make matrix MATRIX=shapes SEED=7; goes on where it stopped.
MATRIX :=
matrix: setup
	$(BIN)/python -m tests.matrix $(MATRIX) --seed $(SEED) $(OPTIONS)

clean:
	-test -x $(BIN)/sync-pipeline && $(BIN)/sync-pipeline demo down
	rm -rf $(VENV) .demo .bench .chaos .matrix .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# Renew the pinned versions. Registry addresses stay out of the file.
pins:
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	    --no-header --extra demo --extra dev pyproject.toml -o requirements/dev.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	    --no-header --group extra --constraint requirements/dev.txt -o requirements/extra.txt
