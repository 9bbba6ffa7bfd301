# One machine, nothing prepared but Python 3.11+: every target sets itself up first.
PORT ?= 8123
# USER is also a variable of every shell: only one given to make counts.
ifeq ($(origin USER),command line)
TOKEN_USER := $(USER)
else
TOKEN_USER := alice
endif
export PORT TOKEN_USER
# Each process of a service, and each worker of the tests, would compile all of the code anew: 15 s of each `make test`
# worker before its first test.
unexport PYTHONDONTWRITEBYTECODE

PYTHON := .venv/bin/python
READY := .venv/.ready-$(shell cat requirements/*.txt requirements/*.lock | cksum | cut -d' ' -f1)
# The tools of lock and audit have requirements of their own, which must not mix with the service's.
AUDIT_PYTHON := .venv-audit/bin/python
AUDIT_READY := .venv-audit/.ready-$(shell cat requirements/audit.lock | cksum | cut -d' ' -f1)
# So do clients of the service, generated from its OpenAPI document.
CLIENTS_PYTHON := .venv-clients/bin/python
CLIENTS_READY := .venv-clients/.ready-$(shell cat requirements/clients.lock | cksum | cut -d' ' -f1)
TYPESCRIPT := var/clients/typescript
TYPESCRIPT_READY := $(TYPESCRIPT)/.ready-$(shell cat tests/clients/typescript/package-lock.json | cksum | cut -d' ' -f1)
# And the key server that wraps users' keys in a test.
KEY_SERVER_PYTHON := .venv-key-server/bin/python
KEY_SERVER_READY := .venv-key-server/.ready-$(shell cat requirements/key-server.lock | cksum | cut -d' ' -f1)
# And what drives a browser.
BROWSER_PYTHON := .venv-browser/bin/python
BROWSER_READY := .venv-browser/.ready-$(shell cat requirements/browser.lock | cksum | cut -d' ' -f1)
# And the memories that `make bench-peers` compares with.
PEERS_PYTHON := .venv-peers/bin/python
PEERS_READY := .venv-peers/.ready-$(shell cat deploy/bench/peers/requirements.* | cksum | cut -d' ' -f1)
# The launcher stops when make is killed, so that no server is left on the port.
LAUNCH := R1_STOP_WITH_PARENT=1 exec $(PYTHON) -m r1site.launch

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup run serve prepare token stop check format lint quick test nonregression gpu-test fuzz coverage test-key-server test-former test-pooler test-browser test-prometheus lock audit former-export former-import clients test-clients bench-admin bench-context bench-conversations bench-crypto bench-forms bench-query bench-lexical bench-queue bench-rates bench-starvation bench-stream bench-summarize bench-one-caller bench-open-loop bench-own-index bench-peers drill-moves drill-keys drill-key-server drill-another-model simulate-canary drill-schema loadtest profile-query gate drill-canary

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

check: $(READY)  ## format, style, types and who may import whom; seconds, no server
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports

format: $(READY)  ## format the code and sort its imports
	@$(PYTHON) -m ruff check --select I --fix .
	@$(PYTHON) -m ruff format .

lint: $(READY)  ## check the style alone
	@$(PYTHON) -m ruff check .

# Each worker runs whole files, on a PostgreSQL of its own. WORKERS=0: one process, in the order the files stand.
# One more than two cores: on those, a quarter of their time was left over by tests that wait.
WORKERS ?= 3
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# Of what needs the server, one way through each promise: stored, found, cited and erased; kept apart; sealed; migrated.
SLICE := tests/api/test_walk.py \
	tests/db/test_rls_matrix.py::test_naming_another_users_hash_reaches_nothing \
	tests/db/test_rls_matrix.py::test_a_row_cannot_be_inserted_for_another_user_whether_they_have_it_or_not \
	tests/security/test_sealing.py::test_aad_binding_prevents_cross_tenant_decryption \
	tests/security/test_sealing.py::test_blobs_swapped_between_two_rows_of_one_user_do_not_open \
	tests/db/test_migrations.py::test_the_way_up_makes_every_table_and_keeps_tenants_apart \
	tests/db/test_migrations.py::test_the_models_need_no_migration_that_is_not_there

quick: $(READY)  ## the tests to run while you write: units, and a slice on PostgreSQL; ARGS go to pytest
	@$(PYTHON) -m pytest $(PARALLEL) -m "not slow" tests/unit tests/non_regression $(SLICE) $(ARGS)

test: $(READY)  ## run all the tests, WORKERS (3) at a time; ARGS go to pytest
	@$(PYTHON) -m pytest $(PARALLEL) $(ARGS)

# With FUZZ_EXAMPLES set, whatever tries examples tries other ones each time.
fuzz: $(READY)  ## try FUZZ_EXAMPLES (200) requests an operation against the OpenAPI document, and new examples of all else
	@FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-200} $(PYTHON) -m pytest tests/api/test_contract.py \
		tests/db/test_isolation_machine.py tests/db/test_thread_machine.py tests/unit $(ARGS)

nonregression: $(READY)  ## measure the published targets, three runs each, on a machine that does nothing else; ARGS go to pytest
	@R1_NONREGRESSION=1 $(PYTHON) -m pytest -q -m measured tests/non_regression $(ARGS)

gpu-test: $(READY)  ## check this machine's NVIDIA GPU: driver, memory, loads, speed; each check is skipped without one
	@$(PYTHON) -m pytest -s -m gpu -rs tests/gpu $(ARGS)

# What keeps users apart, their texts sealed and their memories whole: each of these rooms, and each file named alone,
# is covered to at least COVERED percent, or coverage fails; so it does where one is not there.
GUARDED := memory/sealing memory/keys memory/isolation memory/rls.py memory/security.py memory/indexing \
	memory/services/index.py reranker
COVERED := 90

coverage: $(READY)  ## run all the tests, show which lines they miss, hold GUARDED to COVERED percent
	@$(PYTHON) -m pytest $(PARALLEL) --cov=memory --cov=reranker --cov=r1site \
		--cov-report=term-missing:skip-covered $(ARGS)
	@failed=0; for room in $(GUARDED); do \
		$(PYTHON) -m coverage report --include="$$room,$$room/*" --fail-under=$(COVERED) || failed=1; \
	done; exit $$failed

test-key-server: $(READY) $(KEY_SERVER_READY)  ## users' keys wrapped by an OpenBao server that it starts; ARGS go to pytest
	@R1_BAO=.venv-key-server/bin/bao $(PYTHON) -m pytest tests/faults/test_key_server.py $(ARGS)

test-former: $(READY)  ## the way out of a database of the version before: refused, exported from, taken in; a minute
	@R1_TEST_FORMER=1 $(PYTHON) -m pytest tests/faults/test_former.py $(ARGS)

# Debian's own, unpacked into a folder: nothing is installed. Another one: R1_PGBOUNCER=/path/to/it
POOLER := var/pooler
test-pooler: $(READY)  ## the service through Debian's pgbouncer in transaction mode; ARGS go to pytest
	@set -e; program="$${R1_PGBOUNCER:-$$(command -v pgbouncer || true)}"; \
	if [ -z "$$program" ]; then \
		mkdir -p $(POOLER) && cd $(POOLER); \
		apt-get download -q pgbouncer libevent-2.1-7 libc-ares2 >&2; \
		for package in ./*.deb; do dpkg -x "$$package" .; done; \
		export LD_LIBRARY_PATH="$$(dirname "$$(find "$$PWD" -name 'libcares.so.2')")"; \
		program="$$PWD/usr/sbin/pgbouncer"; cd "$(CURDIR)"; \
	fi; \
	R1_PGBOUNCER="$$program" $(PYTHON) -m pytest tests/faults/test_pooler.py $(ARGS)

# Debian's, installed where there is none and it may be. Another one: R1_CHROMIUM=/path/to/it
test-browser: $(READY) $(BROWSER_READY)  ## the pages for people, walked in Chromium; pictures in var/browser; ARGS go to pytest
	@set -e; browser="$${R1_CHROMIUM:-$$(command -v chromium || true)}"; \
	if [ -z "$$browser" ]; then \
		echo "set-up: installing chromium" >&2; \
		apt-get install -q -y --no-install-recommends chromium >&2; browser="$$(command -v chromium)"; \
	fi; \
	packages="$$($(BROWSER_PYTHON) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"; \
	PYTHONPATH="$$packages" R1_CHROMIUM="$$browser" $(PYTHON) -m pytest tests/browser $(ARGS)

# Debian's own, unpacked into a folder; but for a template nothing is installed. Another folder: R1_PROMETHEUS=/path/to/it
MONITORING := var/monitoring
test-prometheus: $(READY)  ## a service scraped by Debian's Prometheus, alerts received, every panel drawn; ARGS go to pytest
	@set -e; programs="$${R1_PROMETHEUS:-}"; \
	if [ -z "$$programs" ]; then \
		mkdir -p $(MONITORING) && cd $(MONITORING); \
		if [ ! -x usr/bin/promtool ]; then \
			apt-get download -q prometheus prometheus-alertmanager >&2; \
			for package in ./*.deb; do dpkg -x "$$package" .; done; \
		fi; \
		if [ ! -e /usr/share/prometheus/alertmanager ]; then \
			echo "set-up: /usr/share/prometheus/alertmanager, where Debian's Alertmanager looks for its template" >&2; \
			mkdir -p /usr/share/prometheus && cp -r usr/share/prometheus/alertmanager /usr/share/prometheus/; \
		fi; \
		programs="$$PWD/usr/bin"; cd "$(CURDIR)"; \
	fi; \
	R1_PROMETHEUS="$$programs" $(PYTHON) -m pytest tests/faults/test_prometheus.py $(ARGS)

lock: $(AUDIT_READY)  ## lock requirements/*.txt anew; ARGS go to uv, such as --upgrade
	@$(AUDIT_PYTHON) deploy/supply/lock.py $(ARGS)

audit: $(AUDIT_READY)  ## look the locked distributions up among known vulnerabilities; var/audit.json, var/sbom.json
	@$(AUDIT_PYTHON) deploy/supply/audit.py

# The version before the schema was made anew, at the commit before its last migration went.
FORMER := var.former-version
former-export: $(READY)  ## every user's documents from a var/ of the version before, as JSON Lines; plain text
	@test -d $(FORMER) || git worktree add -q --detach $(FORMER) \
		"$$(git log --diff-filter=D --format=%H -1 -- 'memory/migrations/0014_data_key_remains*')^"
	@R1_FORMER=$(FORMER) R1_VAR_DIR="$${R1_VAR_DIR:-$(CURDIR)/var}" $(PYTHON) deploy/former/export.py

former-import: $(READY)  ## take in what former-export gave, from stdin
	@$(PYTHON) deploy/former/import.py

clients: $(CLIENTS_READY)  ## generate a Python client from the OpenAPI document into var/clients; no warning passes
	@$(CLIENTS_PYTHON) deploy/clients/generate.py

test-clients: $(READY) $(CLIENTS_READY) $(TYPESCRIPT_READY)  ## walk through a real service with generated Python and TypeScript clients; ARGS go to pytest
	@R1_CLIENTS=$(TYPESCRIPT) $(PYTHON) -m pytest tests/clients $(ARGS)

bench-conversations: $(READY)  ## measure retrieval on the conversations in DATA, by stage, kind of question and memory
	@$(PYTHON) deploy/bench/conversations.py "$(DATA)" $(ARGS)

bench-admin: $(READY)  ## time staff's pages over a million rows of each table, and show what they ask
	@$(PYTHON) deploy/bench/admin_pages.py $(ARGS)

bench-crypto: $(READY)  ## time the sealing primitives
	@$(PYTHON) deploy/bench/crypto.py $(ARGS)

bench-forms: $(READY)  ## time the built forms of the embedding model, and weigh what they lose on test collections
	@$(PYTHON) deploy/bench/embedding_forms.py $(ARGS)

# Another checkout, whose service answers the same calls in turn.
AGAINST ?=
bench-one-caller: $(READY)  ## time one caller's queries and writes, here and in the checkout AGAINST, in turn
	@$(PYTHON) deploy/bench/one_caller.py $(if $(AGAINST),--against "$(AGAINST)") $(ARGS)

bench-open-loop: $(READY)  ## time queries and writes that arrive at a constant rate, and find the highest that holds
	@$(PYTHON) deploy/bench/open_loop.py $(ARGS)

bench-context: $(READY)  ## time a search with and without threads, here or in another checkout
	@$(PYTHON) deploy/bench/context_search.py $(ARGS)

bench-own-index: $(READY)  ## time searches with and without a user's own vector index, and weigh what it finds
	@$(PYTHON) deploy/bench/own_index.py $(ARGS)

bench-peers: $(READY) $(PEERS_READY)  ## time other memories beside this one: same texts, questions and machine, in turn
	@$(PEERS_PYTHON) deploy/bench/peers/compare.py $(ARGS)

gate: $(READY)  ## the evidence of a security and of a performance approval; exit 1 where a line of it fails
	@$(PYTHON) deploy/bench/gate.py $(ARGS)

drill-canary: $(READY)  ## canary runs behind a real nginx, with a fault injected in each: what is rolled back, in seconds
	@$(PYTHON) deploy/drills/canary.py $(ARGS)

drill-moves: $(READY)  ## move users under load, with the mover killed in the middle: no request fails, no answer changes
	@$(PYTHON) deploy/bench/moves.py $(ARGS)

bench-query: $(READY)  ## time queries end to end
	@$(PYTHON) deploy/bench/query.py $(ARGS)

bench-lexical: $(READY)  ## time the lexical leg and weigh its storage
	@$(PYTHON) deploy/bench/lexical.py $(ARGS)

bench-queue: $(READY)  ## time who waits for whom at the embedding model
	@$(PYTHON) deploy/bench/embedding_queue.py $(ARGS)

bench-rates: $(READY)  ## time one decision of the rate limiter
	@$(PYTHON) deploy/bench/rates.py $(ARGS)

bench-starvation: $(READY)  ## attack a service of its own and time what others feel
	@$(PYTHON) deploy/bench/starvation.py $(ARGS)

bench-stream: $(READY)  ## run 1,200 streams at a service of its own
	@$(PYTHON) deploy/bench/stream.py $(ARGS)

bench-summarize: $(READY)  ## time summaries of 200 chunks and weigh what they say
	@$(PYTHON) deploy/bench/summarize.py $(ARGS)

loadtest: $(READY)  ## fill 100,000 chunks (ARGS="--chunks 1000000") and load the service at a constant rate; plots
	@$(PYTHON) deploy/bench/loadtest.py $(ARGS)

drill-keys: $(READY)  ## rotate the keys of a service of its own under load, with kill -9 in the middle
	@$(PYTHON) deploy/drills/keys.py $(ARGS)

drill-key-server: $(READY) $(KEY_SERVER_READY)  ## move users' keys from a file to an OpenBao server and back under load, the server down for a minute
	@R1_BAO=.venv-key-server/bin/bao $(PYTHON) deploy/drills/key_server.py $(ARGS)

drill-another-model: $(READY)  ## move 20,000 chunks to another embedding model under load, with kill -9 in the middle; recall before and after
	@$(PYTHON) deploy/drills/another_model.py $(ARGS)

simulate-canary: $(READY)  ## judge 10,000 hours of noise and faults by the canary's decision: false rollbacks, time to see a fault
	@$(PYTHON) deploy/drills/canary_simulation.py $(ARGS)

drill-schema: $(READY)  ## take the last migration back and make it again at ROWS (1,000,000) rows; fails where one is lost
	@$(PYTHON) deploy/drills/schema_rollback.py $(if $(ROWS),--rows $(ROWS)) $(ARGS)

profile-query: $(READY)  ## sample where a served query's time goes, by stage
	@$(PYTHON) deploy/bench/profile_query.py $(ARGS)

# A virtual environment at $(1), where there is none yet.
define CREATE_VENV
if ! $(1)/bin/python -m pip --version >/dev/null 2>&1; then \
	for python in python3.11 python3 ""; do \
		"$${python:-false}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	done; \
	if [ -z "$$python" ]; then \
		echo "Python 3.11 or newer is needed, with its venv module; none was found as python3.11 or python3."; \
		exit 1; \
	fi; \
	echo "set-up: creating $(1) with $$("$$python" --version)"; \
	"$$python" -m venv $(1); \
fi
endef
INSTALL_LOCKED := deploy/setup_packages.py

# The stamp comes last, so that an interrupted set-up is done again. torch comes after the lock, which has all
# that every build of it needs: nothing without a hash is left to install but torch and its CUDA libraries,
# where pip takes that build (requirements/ml.txt). All to stderr; stdout is for results.
$(READY):
	@set -e; exec 1>&2; \
	rm -f .venv/.ready-*; \
	$(call CREATE_VENV,.venv); \
	echo "set-up: installing requirements/dev.lock (the first time takes some minutes)"; \
	$(PYTHON) $(INSTALL_LOCKED) requirements/dev.lock; \
	echo "set-up: installing torch"; \
	$(PYTHON) -m pip install --quiet --disable-pip-version-check "$$(grep -h '^torch==' requirements/ml.txt)"; \
	touch $@; \
	echo "set-up: done"

$(AUDIT_READY):
	@set -e; exec 1>&2; \
	rm -f .venv-audit/.ready-*; \
	$(call CREATE_VENV,.venv-audit); \
	echo "set-up: installing requirements/audit.lock"; \
	$(AUDIT_PYTHON) $(INSTALL_LOCKED) requirements/audit.lock; \
	touch $@

$(CLIENTS_READY):
	@set -e; exec 1>&2; \
	rm -f .venv-clients/.ready-*; \
	$(call CREATE_VENV,.venv-clients); \
	echo "set-up: installing requirements/clients.lock"; \
	$(CLIENTS_PYTHON) $(INSTALL_LOCKED) requirements/clients.lock; \
	touch $@

$(TYPESCRIPT_READY):
	@set -e; exec 1>&2; \
	command -v npm > /dev/null || { echo "set-up: the TypeScript client needs node 20 or newer and npm, which are not here"; exit 1; }; \
	rm -rf $(TYPESCRIPT); mkdir -p $(TYPESCRIPT); \
	cp tests/clients/typescript/package.json tests/clients/typescript/package-lock.json $(TYPESCRIPT)/; \
	echo "set-up: installing tests/clients/typescript/package-lock.json"; \
	npm ci --prefix $(TYPESCRIPT) --no-audit --no-fund --loglevel=error; \
	touch $@

$(BROWSER_READY):
	@set -e; exec 1>&2; \
	rm -f .venv-browser/.ready-*; \
	$(call CREATE_VENV,.venv-browser); \
	echo "set-up: installing requirements/browser.lock"; \
	$(BROWSER_PYTHON) $(INSTALL_LOCKED) requirements/browser.lock; \
	touch $@

$(KEY_SERVER_READY):
	@set -e; exec 1>&2; \
	rm -f .venv-key-server/.ready-*; \
	$(call CREATE_VENV,.venv-key-server); \
	echo "set-up: installing requirements/key-server.lock"; \
	$(KEY_SERVER_PYTHON) $(INSTALL_LOCKED) requirements/key-server.lock; \
	touch $@

$(PEERS_READY):
	@set -e; exec 1>&2; \
	rm -f .venv-peers/.ready-*; \
	$(call CREATE_VENV,.venv-peers); \
	echo "set-up: installing deploy/bench/peers/requirements.lock"; \
	$(PEERS_PYTHON) $(INSTALL_LOCKED) deploy/bench/peers/requirements.lock; \
	$(PEERS_PYTHON) -m pip install --quiet --disable-pip-version-check "$$(grep -h '^torch==' deploy/bench/peers/requirements.txt)"; \
	touch $@
