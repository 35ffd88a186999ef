# The commands of this project. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup run test check format demo bench bench-quick bench-report bench-in-turns bench-ladder bench-h2 bench-core bench-push fuzz fuzz-reading h2spec faults simulate corpus attacks fault fault-matrix soak fleet-proof lock audit pythons release docs docs-serve docs-reference page-pictures page-scale clean
FUZZ_FRAMES ?= 1000000
FUZZ_LIVE_FRAMES ?= 100000
FUZZ_SEED ?= 1

help: ## list the commands
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  \1\t/' | expand -t 14

setup: $(STAMP) ## make .venv with everything, from a bare Python 3.11

$(STAMP): pyproject.toml requirements.lock hatch_build.py xds/version.py $(wildcard xds/schema/binary.py protos/*/*.proto)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (about a minute on a new machine)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.8'
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --require-hashes requirements.lock
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --editable .
	@# Compiled once, here: where PYTHONDONTWRITEBYTECODE is set, each start would take three times as long.
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib xds tests/support >/dev/null || true
	@.ci/servers etcd
	@touch $@

run: setup ## serve snapshots/quickstart to Envoys on 127.0.0.1:18000
	@exec $(BIN)/xds serve snapshots/quickstart

demo: setup ## the control plane, two Envoys and two upstreams; ends with Ctrl-C
	@exec $(BIN)/python snapshots/demo.py

test: setup ## everything that must hold: format, lint, types, architecture, all tests
	@.ci/servers
	@.ci/check $(BIN)

check: setup ## only the quick ones: format, lint, types, architecture
	@.ci/check $(BIN) quick

format: setup ## rewrite the code as `make test` wants it
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .

bench: setup ## ours and the peers side by side, all rows, into bench/RESULTS.md; about 50 minutes
	@$(BIN)/python -m bench.compare

bench-quick: setup ## the same, small, in a few minutes, into build/bench-quick: shows that it works
	@$(BIN)/python -m bench.compare --quick

bench-report: setup ## bench/RESULTS.md again from the saved results, without running anything
	@$(BIN)/python -m bench.compare --report-only

bench-push: setup ## what a pushed change costs, on SQLite and on etcd, for bench/RESULTS.md; about 6 minutes
	@$(BIN)/python bench/push.py --write
	@$(BIN)/python -m bench.compare --report-only

BEFORE ?= origin/main
TURNS ?=
bench-in-turns: setup ## what the working tree costs beside BEFORE=REV, in turns; TURNS='--rows 100x1000 --rounds 20'
	@$(BIN)/python -m bench.in_turns --before $(BEFORE) $(TURNS)

bench-ladder: setup ## what each thing that a control plane does costs, rung by rung, into bench/results/ladder.md; an hour
	@$(BIN)/python -m bench.ladder
	@$(BIN)/python -m bench.compare --report-only

bench-h2: setup ## what a delivery costs through the h2 library and through this project's HTTP/2, for bench/RESULTS.md; half a minute
	@$(BIN)/python -m bench.h2_cost --write
	@$(BIN)/python -m bench.compare --report-only

bench-core: setup ## the micro-benchmark of the pure core
	@$(BIN)/python bench/micro.py

fuzz: setup ## a million frames by chance at the HTTP/2 connection, and some over TCP: bench/results/http2/
	@$(BIN)/python tests/http2/fuzz.py --frames $(FUZZ_FRAMES) --seed $(FUZZ_SEED) --seconds 1800 --output bench/results/http2/fuzz.json
	@$(BIN)/python tests/http2/fuzz.py --live --frames $(FUZZ_LIVE_FRAMES) --seed $(FUZZ_SEED) --seconds 900 --output bench/results/http2/fuzz-live.json

READING_CASES ?= 100000
fuzz-reading: setup ## READING_CASES spellings of values by chance, in YAML and JSON, each judged by us and by a real Envoy; 20 minutes
	@XDS_READING_CASES=$(READING_CASES) $(BIN)/python -m pytest -q --timeout 7200 tests/envoy/test_reading.py

h2spec: setup ## the conformance suite for HTTP/2 servers, in plaintext and over TLS (needs Go): bench/results/http2/
	@$(BIN)/python bench/h2spec.py --output bench/results/http2/h2spec.json
	@$(BIN)/python bench/h2spec.py --tls --output bench/results/http2/h2spec-tls.json

faults: setup ## the long runs: 200 kill -9 under pushes, 20 etcd leaders killed, cut off, paused, 50 writers, 40 swaps per form; 45 minutes
	@XDS_SWAPS=40 XDS_WRITES=1000 XDS_KILLS=200 XDS_ETCD_FAULTS=20 XDS_REPLICA_STREAMS=2000 $(BIN)/python -m pytest -q -s tests/faults tests/envoy/test_make_before_break.py \
	  -k 'kill or leader or cost or replica or streams or writers' 2>&1 | tee bench/results/faults.txt; exit $${PIPESTATUS[0]}

SEEDS ?= 10000
SOCKET_SEEDS ?= 600
JOBS ?= $(shell nproc)
simulate: setup ## SEEDS=10000 runs of clients like Envoy, replicas on a store, changes and faults by chance, and SOCKET_SEEDS=600 over sockets: bench/results/simulation*.txt; 15 minutes; goes on where it was cut off
	@PYTHONPATH=tests $(BIN)/python -m simulation --seeds $(SEEDS) --jobs $(JOBS) --output bench/results/simulation.txt
	@PYTHONPATH=tests $(BIN)/python -m simulation --sockets --seeds $(SOCKET_SEEDS) --output bench/results/simulation-sockets.txt

CORPUS_SEEDS ?= 20
corpus: setup ## resources of every kind, judged by a real Envoy and by this server, with CORPUS_SEEDS=20 values of every message type; 10 minutes
	@XDS_CORPUS_SEEDS=$(CORPUS_SEEDS) $(BIN)/python -m pytest -q tests/corpus

ATTACKS ?= all
attacks: setup ## 1,000 streams that are pushed to while each of some thirty attacks runs, or those of ATTACKS=nacks,churn; 20 minutes
	@XDS_FAULTS=full XDS_ATTACKS=$(ATTACKS) XDS_ATTACKS_TABLE=$(if $(filter all,$(ATTACKS)),bench/results/attacks.txt) $(BIN)/python -m pytest -q -s --tb=short tests/faults/test_row2_attacks.py

ROW ?=
FAULT = XDS_FAULTS=full XDS_FAULT_RESULTS=bench/results/faults $(BIN)/python -m pytest -q -s --tb=short -p no:cacheprovider
fault: setup ## one row of the fault matrix at full size, as ROW=3: bench/results/faults and docs/reliability.md; wants a quiet machine
	@ls tests/faults/test_row$(ROW)_*.py >/dev/null 2>&1 || { echo "say which row, as in make fault ROW=3: docs/reliability.md has them"; exit 2; }
	@$(FAULT) tests/faults/test_row$(ROW)_*.py; told=$$?; $(BIN)/python -m bench.reliability; exit $$told

fault-matrix: setup ## rows 1 to 8 of the fault matrix, one after the other, at full size; an hour and a half
	@$(FAULT) tests/faults/test_row[1-8]_*.py; told=$$?; $(BIN)/python -m bench.reliability; exit $$told

SOAK_S ?= 7200
soak: setup ## row 9 of it: SOAK_S=7200 seconds of changes with random faults; goes on where it was cut off (build/soak.jsonl)
	@XDS_SOAK_S=$(SOAK_S) XDS_SOAK_FILE=build/soak.jsonl $(FAULT) tests/faults/test_row9_soak.py; told=$$?; $(BIN)/python -m bench.reliability; exit $$told

docs: setup ## build the documentation site strictly, into build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file docs/site/mkdocs.yml

docs-serve: setup ## show the documentation site on 127.0.0.1:8000 while you write
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --config-file docs/site/mkdocs.yml

fleet-proof: setup ## 10,000 sidecars on two replicas: xds wait against their own record, into bench/results; 10 minutes
	@XDS_PROOF_SIDECARS=10000 XDS_PROOF_ROUNDS=50 $(BIN)/python -m pytest -q -s tests/replicas/test_fleet_proof.py

docs-reference: setup ## write docs/reference, docs/limits.md and Grafana's dashboard from the code
	@$(BIN)/python docs/site/reference.py
	@$(BIN)/python docs/site/dashboard.py
	@$(BIN)/python docs/site/limits.py

page-pictures: setup ## write the pictures of the page in docs/how-to, as the browser's test sees them (needs Chromium)
	@XDS_PAGE_PICTURES=docs/how-to $(BIN)/python -m pytest -q -p no:cacheprovider tests/page/test_browser.py -k pictures

PAGE_SCALE ?= --nodes 10000 --minutes 10
page-scale: setup ## the page at 10,000 simulated nodes in Chromium: load times, long tasks, memory over 10 minutes: bench/results/page/scale.json
	@$(BIN)/python -m bench.page_scale $(PAGE_SCALE) --output bench/results/page/scale.json

lock: setup ## resolve the dependencies again into requirements.lock
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --all-extras --group dev --python-version 3.11 --upgrade \
	  --custom-compile-command 'make lock' pyproject.toml --output-file requirements.lock

audit: ## compare requirements.lock with PyPI's advisories (pip-audit); says so where these can't be reached
	@.ci/audit

PYTHONS ?= python3.12 python3.13
pythons: ## `make test` of what is committed on other Pythons, one after the other, in build/; PYTHONS='/path/to/python3.13'
	@for python in $(PYTHONS); do \
	  version=$$($$python -c 'import sys; print("python%d.%d" % sys.version_info[:2])') || { echo "$$python does not run: say which do, as in PYTHONS=/path/to/python3.13"; exit 1; }; \
	  rm -rf "build/$$version" && git clone --quiet . "build/$$version" && $(MAKE) --no-print-directory -C "build/$$version" test PYTHON="$$python" || exit 1; \
	done

TAG ?=
release: setup ## the sdist and the wheel into dist/, each installed and tried in an empty environment; TAG=v1.2.3 for a release
	@.ci/release $(BIN) $(TAG)

clean: ## remove .venv and what was built
	@rm -rf $(VENV) xds/_generated dist
