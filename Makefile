# Everything a person or CI does with this checkout. `make help` lists it.

PY := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test lint contract matrix load stalled bench

help: ## this list
	@echo 'usage: make TARGET [VARIABLE=value ...]'
	@echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{printf "%-12s %s\n", $$1, $$2}'
	@echo
	@sed -n 's/^#: *\([A-Z_]*\) *\(.*\)/  \1|\2/p' Makefile | awk -F'|' '{printf "%-12s %s\n", $$1, $$2}'

#: HEADLESS   1: no page and no live screen, `make demo` ends by itself (demo)
#: DURATION   seconds of traffic (demo)
#: FAULTS     1: 20 flips, 6 killed workers and 2 restarts of Redis in a minute (demo)
#: CLIENTS    so many v1 and so many raw ones, as 500+200; default 40+24 (demo)
#: PORT_BASE  first of three ports; default 8000 (demo, serve)
#: REDIS_URL  use this Redis instead of the embedded Valkey (demo, serve)
#: PYTHON     the Python that .venv is made with; default: the newest suitable one found
#: PROFILE    quick, ci or deep; default: ci (contract)
#: EXAMPLES   lives for each driver; default: what the profile says (contract)
#: BACKENDS   legacy, channels, mixed, memory, with commas between; default: all (contract)
#: REPORT     the page that the run writes; default: var/contract.html (contract)
#: SEED       what chance begins with; a run says which it took (contract)
#: MUTANTS    0: none; 1: all; or names with commas between; default: all but for quick (contract)
#: PYTHONS    3.12, 3.13, with commas between; default: all (matrix)
#: DJANGOS    5.2, 6.0, 6.1; default: all (matrix)
#: REDIS      valkey, redis: the embedded one, Debian's redis-server; default: both (matrix)
#: ONLY       a part of a benchmark's name: only those (bench)
#: ROUNDS     of each benchmark, in place of its own number (bench)
#: RESULTS    the file that is written; default: benchmarks/results.json, a page beside it (bench)
#: ARGS       more arguments, for example ARGS="-k hub -x" (test: pytest's; load, stalled)
#
# Variables given to make reach the programs as environment variables of the same name.

setup: ## make .venv and install everything pinned; the other targets do it by themselves
	@./bootstrap test

demo: ## the whole idea, live: traffic on both backends while the flag goes up and comes back
	@./bootstrap run
	@$(PY) -m demo

serve: ## both backends in the foreground without traffic, until Ctrl-C
	@./bootstrap run
	@$(PY) -m demo serve

test: ## lint, then all tests
	@./bootstrap test
	@$(PY) -m tests $(ARGS)

lint: ## ruff, mypy --strict and the import rules
	@./bootstrap test
	@$(PY) -m tests lint

contract: ## the contract, executed: random lives on both backends, on the two mixed, and in memory
	@./bootstrap test
	@REPORT=$${REPORT-var/contract.html} $(PY) -m contract_tests

matrix: ## the contract's quick profile on every supported Python, Django and Redis that can be had here
	@./bootstrap test
	@$(PY) -m tests.matrix

load: ## 2,000 live connections change the backend while others come in: whether newcomers wait for it
	@./bootstrap test
	@$(PY) -m tests.load $(ARGS)

stalled: ## 200 of 1,000 connections take nothing any more: the others get everything, and memory is bounded
	@./bootstrap test
	@$(PY) -m tests.stalled $(ARGS)

bench: ## what things cost, beside the real peers and the floor, in ten minutes
	@./bootstrap bench
	@$(PY) -m benchmarks
