# One machine, nothing prepared but Python 3.11+: every target sets itself up first.
PORT ?= 8123
# USER is also a variable of every shell: only one given to make counts.
ifeq ($(origin USER),command line)
TOKEN_USER := $(USER)
else
TOKEN_USER := alice
endif
export PORT TOKEN_USER

PYTHON := .venv/bin/python
READY := .venv/.ready-$(shell cat requirements/*.txt | cksum | cut -d' ' -f1)
# The launcher stops when make is killed, so that no server is left on the port.
LAUNCH := R1_STOP_WITH_PARENT=1 exec $(PYTHON) -m r1site.launch

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup run serve prepare token stop test fuzz coverage lint bench-crypto bench-query bench-lexical bench-rates bench-starvation bench-stream bench-summarize

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## / - /'

setup: $(READY)  ## create .venv and install the requirements

run: $(READY)  ## start the service on PORT, load the demo, print a token for alice
	@$(LAUNCH) run

serve: $(READY)  ## start the service on PORT
	@$(LAUNCH) serve

prepare: $(READY)  ## database, roles, migrations and model, without serving
	@$(LAUNCH) prepare

token: $(READY)  ## print a token for USER (alice)
	@exec $(PYTHON) -m r1site.launch token --user "$$TOKEN_USER"

stop: $(READY)  ## stop every server started here; data stays
	@exec $(PYTHON) -m r1site.launch stop

test: $(READY)  ## run the tests; ARGS go to pytest
	@$(PYTHON) -m pytest $(ARGS)

fuzz: $(READY)  ## try FUZZ_EXAMPLES (200) requests an operation against the OpenAPI document
	@FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-200} $(PYTHON) -m pytest tests/api/test_contract.py $(ARGS)

# What keeps users apart: each of these files is covered to at least COVERED percent, or coverage fails.
GUARDED := memory/security.py memory/keyring.py $(wildcard memory/rls*.py)
COVERED := 90

coverage: $(READY)  ## run the tests, show which lines they miss, hold GUARDED to COVERED percent
	@$(PYTHON) -m pytest --cov=memory --cov=reranker --cov=r1site --cov-report=term-missing:skip-covered $(ARGS)
	@failed=0; for file in $(GUARDED); do \
		$(PYTHON) -m coverage report --include=$$file --fail-under=$(COVERED) || failed=1; \
	done; exit $$failed

lint: $(READY)  ## check the style
	@$(PYTHON) -m ruff check .

bench-crypto: $(READY)  ## time the sealing primitives
	@$(PYTHON) deploy/bench/crypto.py $(ARGS)

bench-query: $(READY)  ## time queries end to end
	@$(PYTHON) deploy/bench/query.py $(ARGS)

bench-lexical: $(READY)  ## time the lexical leg and weigh its storage
	@$(PYTHON) deploy/bench/lexical.py $(ARGS)

bench-rates: $(READY)  ## time one decision of the rate limiter
	@$(PYTHON) deploy/bench/rates.py $(ARGS)

bench-starvation: $(READY)  ## attack a service of its own and time what others feel
	@$(PYTHON) deploy/bench/starvation.py $(ARGS)

bench-stream: $(READY)  ## run 1,200 streams at a service of its own
	@$(PYTHON) deploy/bench/stream.py $(ARGS)

bench-summarize: $(READY)  ## time summaries of 200 chunks and weigh what they say
	@$(PYTHON) deploy/bench/summarize.py $(ARGS)

# The stamp comes last, so that an interrupted set-up is done again. torch comes first and alone: what
# depends on it would otherwise pull in another build of it. All to stderr; stdout is for results.
$(READY):
	@set -e; exec 1>&2; \
	rm -f .venv/.ready-*; \
	if ! $(PYTHON) -m pip --version >/dev/null 2>&1; then \
		for python in python3.11 python3 ""; do \
			"$${python:-false}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
		done; \
		if [ -z "$$python" ]; then \
			echo "Python 3.11 or newer is needed, with its venv module; none was found as python3.11 or python3."; \
			exit 1; \
		fi; \
		echo "set-up: creating .venv with $$("$$python" --version)"; \
		"$$python" -m venv .venv; \
	fi; \
	echo "set-up: installing torch (the first time takes some minutes)"; \
	$(PYTHON) -m pip install --quiet --disable-pip-version-check "$$(grep -h '^torch==' requirements/ml.txt)"; \
	echo "set-up: installing requirements/dev.txt"; \
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt; \
	touch $@; \
	echo "set-up: done"
