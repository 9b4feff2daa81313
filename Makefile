# Two commands: `make run` and `make test`. `make help` lists the others.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install build run test test-full bench sim fmt lint tidy docs ci clean

CARGO ?= cargo
DIR ?= ./sixfold-dev
SEEDS ?= 200
# PostgreSQL's server and contrib modules.
PACKAGES := postgresql-15 postgresql-client-15
PG_BIN := $(or $(SIXFOLD_PG_BIN),/usr/lib/postgresql/15/bin)

help:
	@echo "make run            a whole cluster on this machine, in $(DIR) (DIR=... ARGS='--port 6000')"
	@echo "make test           every test, end-to-end suites included"
	@echo "make test-full      PostgreSQL's own suites, on stock and here with forced eviction (ARGS='isolation')"
	@echo "make bench          side by side with what PostgreSQL users run today (ARGS=...)"
	@echo "make sim SEEDS=N    N simulated worlds"
	@echo "make ci             formatting, lints, tidy, documentation, then every test"

# PostgreSQL comes from the distribution, and so does the C compiler that Rust links with. As root both
# are installed; otherwise it is said what to install.
install:
	@missing=""; \
	[ -x "$(PG_BIN)/postgres" ] && [ -x "$(PG_BIN)/pgbench" ] || missing="$(PACKAGES)"; \
	command -v cc >/dev/null || missing="$$missing gcc libc6-dev"; \
	[ -n "$$missing" ] || exit 0; \
	if [ "$$(id -u)" != 0 ]; then \
	  echo "Missing: $$missing. Install them (sudo apt-get install $$missing), or set SIXFOLD_PG_BIN to the programs of a PostgreSQL 15." >&2; \
	  exit 1; \
	fi; \
	echo "installing $$missing"; \
	install -d /etc/postgresql-common/createcluster.d; \
	echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.d/sixfold.conf; \
	apt-get update -qq; \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing

build:
	$(CARGO) build --release --locked -p sixfold-sixfold -p sixfold-shim

run: install build
	./target/release/sixfold dev up --dir "$(DIR)" $(ARGS)

# The end-to-end suites run the binary and the preload library beside their own executables.
test: install
	$(CARGO) build --locked -p sixfold-sixfold -p sixfold-shim
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	  $(CARGO) nextest run --locked --workspace --exclude sixfold-tests $(ARGS) && \
	  $(CARGO) test --locked --workspace --exclude sixfold-tests --doc -q; \
	else \
	  $(CARGO) test --locked --workspace --exclude sixfold-tests $(ARGS); \
	fi
	$(CARGO) test --locked -p sixfold-tests -- --test-threads=1

# Fetches the suites with the package manager: sources, and the server's headers to compile one library.
test-full: install build
	@command -v bzip2 >/dev/null || { echo "bzip2 is missing: apt-get install bzip2" >&2; exit 1; }
	$(CARGO) run --release --locked -p sixfold-tests --bin full -- $(ARGS)

bench: install build
	$(CARGO) run --release --locked -p sixfold-bench -- $(ARGS)

sim:
	$(CARGO) run --release --locked -p sixfold-sim -- --seeds $(SEEDS) $(ARGS)

fmt:
	$(CARGO) fmt --all --check

lint:
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

tidy:
	$(CARGO) xtask tidy

docs:
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --locked --workspace --no-deps --document-private-items -q

ci: install fmt tidy lint docs test

clean:
	$(CARGO) clean
