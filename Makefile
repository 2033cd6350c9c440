# make demo         a throw-away PostgreSQL, the sidecar before it, everything shown; stays until Ctrl-C (ONCE=1: ends by itself)
# make test         everything that CI runs, with the time of each part
# make bench        beside PgBouncer and a direct connection (QUICK=1: in two minutes; ROUNDS=, SECONDS=, CELLS=<regex>), then the core alone
# make bench-core   the core alone: rows, frames, texts
# make deps         installs what these need and this machine has not (apt, as root or by sudo)
# make deny         licences, sources and advisories of the dependencies (installs cargo-deny)

.PHONY: demo test bench bench-core deps deps-demo deps-test deps-bench deny image
.DEFAULT_GOAL := test

# ── what this machine has not ────────────────────────────────────────────────────────────────────────────

has = $(shell command -v $(1) 2>/dev/null)
unless = $(if $(strip $(1)),,$(2))

PACKAGES_BUILD = $(call unless,$(call has,cc),gcc libc6-dev)
PACKAGES_DEMO = $(PACKAGES_BUILD) \
	$(call unless,$(wildcard /usr/lib/postgresql/*/bin/initdb)$(call has,initdb),postgresql) \
	$(call unless,$(call has,psql),postgresql-client) \
	$(call unless,$(call has,openssl),openssl)
PACKAGES_TEST = $(PACKAGES_DEMO) \
	$(call unless,$(call has,node),nodejs) \
	$(call unless,$(call has,npm),npm) \
	$(call unless,$(shell python3 -c 'import ensurepip' 2>/dev/null && echo there),python3 python3-venv)
# Drivers that come with a distribution, and their tools. Where one is not to be had, its test says that it is skipped.
gocode = $(wildcard /usr/share/gocode/src/github.com/$(1))
PACKAGES_DRIVERS = $(call unless,$(call has,javac),default-jdk-headless) \
	$(call unless,$(wildcard /usr/share/java/postgresql.jar),libpostgresql-jdbc-java) \
	$(call unless,$(call has,go),golang-go) \
	$(call unless,$(call gocode,lib/pq),golang-github-lib-pq-dev) \
	$(call unless,$(call gocode,jackc/pgx/v4),golang-github-jackc-pgx-v4-dev)
PACKAGES_BENCH = $(PACKAGES_DEMO) \
	$(call unless,$(call has,node),nodejs) \
	$(call unless,$(call has,npm),npm) \
	$(call unless,$(call has,pgbouncer)$(wildcard /usr/sbin/pgbouncer),pgbouncer) \
	$(call unless,$(call has,valgrind),valgrind) \
	$(call unless,$(call has,perf),linux-perf)

# Backstage wants a newer Node.js than some distributions have: then npm brings one, for this directory alone.
NODE_LEAST = 20
NODE_OWN = target/node
export PATH := $(CURDIR)/$(NODE_OWN)/node_modules/.bin:$(PATH)

SUDO = $(if $(filter 0,$(shell id -u)),,sudo)

# apt is asked only where something is missing.
APT_INSTALL = $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends
define install
$(if $(strip $(1)),$(SUDO) apt-get update -q && $(APT_INSTALL) $(strip $(1)))
endef
define install_what_there_is
$(if $(strip $(1)),$(SUDO) apt-get update -q; for package in $(strip $(1)); do $(APT_INSTALL) $$package || echo "apt has no $$package"; done)
endef

deps: deps-test deps-bench
deps-demo:
	@$(call install,$(PACKAGES_DEMO))
deps-test:
	@$(call install,$(PACKAGES_TEST))
	@$(call install_what_there_is,$(PACKAGES_DRIVERS))
	@[ "$$(node -p 'parseInt(process.versions.node)')" -ge $(NODE_LEAST) ] || npm install --silent --no-audit --no-fund --prefix $(NODE_OWN) node@22
deps-bench:
	@$(call install,$(PACKAGES_BENCH))

# ── demo ─────────────────────────────────────────────────────────────────────────────────────────────────

demo: deps-demo
	cargo build --locked --quiet
	@exec target/debug/stagedoor demo $(if $(ONCE),--once)

# ── test ─────────────────────────────────────────────────────────────────────────────────────────────────

# Every test binary of tests/, in the order of the alphabet: a new one needs no line here.
TESTS = $(sort $(basename $(notdir $(wildcard tests/*.rs))) $(notdir $(patsubst %/main.rs,%,$(wildcard tests/*/main.rs))))

# Runs one part and prints how long it took.
define part
@begin=$$(date +%s); printf '\n── %s\n' '$(1)'; $(2) || { printf '── %s FAILED\n' '$(1)'; exit 1; }; \
	printf '── %s: %s s\n' '$(1)' "$$(( $$(date +%s) - begin ))"
endef

define test_part
$(call part,tests/$(1),cargo test --locked --quiet --test $(1))

endef

test: deps-test
	$(call part,format,cargo fmt --check)
	$(call part,clippy,cargo clippy --locked --quiet --all-targets -- -D warnings)
	$(call part,build,cargo build --locked --quiet)
	$(call part,unit tests,cargo test --locked --quiet --lib --bins)
	$(foreach test,$(TESTS),$(call test_part,$(test)))
	$(call part,doc,RUSTDOCFLAGS='-D warnings' cargo doc --locked --quiet --no-deps --document-private-items)
	$(call part,deny,$(if $(call has,cargo-deny),cargo deny --log-level error check licenses bans sources,echo 'cargo-deny is not installed: make deny'))

deny:
	@command -v cargo-deny >/dev/null || cargo install --locked --quiet cargo-deny
	cargo deny check

# ── bench, image ─────────────────────────────────────────────────────────────────────────────────────────

DRIVERS = tests/drivers/node_modules/.package-lock.json

bench: deps-bench $(DRIVERS)
	cargo build --release --locked
	node bench/run.mjs
	$(if $(QUICK)$(CELLS),,$(MAKE) --no-print-directory bench-core)

bench-core:
	@mkdir -p target/bench
	cargo bench --locked --bench core | tee target/bench/core.txt

$(DRIVERS): tests/drivers/package-lock.json
	npm ci --ignore-scripts --no-audit --no-fund --prefix tests/drivers

image:
	docker build -t stagedoor .
