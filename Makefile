# Two commands: `make run` and `make test`. `make help` lists the others.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install install-ci build run test test-full test-large test-groups soak bench sim plants fmt lint tidy docs fuzz instructions ci clean

CARGO ?= cargo
DIR ?= ./sixfold-dev
SEEDS ?= 200
# How long each fuzz target runs, and which.
SECONDS ?= 60
TARGETS ?= $(patsubst fuzz/fuzz_targets/%.rs,%,$(wildcard fuzz/fuzz_targets/*.rs))
# PostgreSQL's server and contrib modules.
PACKAGES := postgresql-15 postgresql-client-15
PG_BIN := $(or $(SIXFOLD_PG_BIN),/usr/lib/postgresql/15/bin)

help:
	@echo "make run            a whole cluster on this machine, in $(DIR) (DIR=... ARGS='--port 6000')"
	@echo "make test           every test, end-to-end suites included"
	@echo "make test-full      PostgreSQL's own suites, on stock and here with forced eviction, and kills in their middle"
	@echo "make test-large     databases of a gigabyte"
	@echo "make test-groups    the end-to-end tests and the large databases over many protection groups"
	@echo "make soak HOURS=N   pgbench, a ledger and a bank for N hours, with a fault every half minute"
	@echo "make bench          side by side with what PostgreSQL users run today (ARGS=...)"
	@echo "make sim SEEDS=N    N simulated worlds"
	@echo "make plants         bugs planted in a copy of the store, each of which simulated worlds must notice"
	@echo "make fuzz SECONDS=N N seconds of arbitrary bytes for each decoder and for redo (TARGETS='redo_page ...')"
	@echo "make instructions   instructions of fixed work against those on record"
	@echo "make ci             formatting, lints, tidy, documentation, every test, instructions, fuzz"

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

# PostgreSQL's own suites, fetched with the package manager: sources, and the server's headers to compile
# one library.
test-full: install build
	@command -v bzip2 >/dev/null || { echo "bzip2 is missing: apt-get install bzip2" >&2; exit 1; }
	$(CARGO) run --release --locked -p sixfold-tests --bin full -- $(ARGS)

# Databases and fields of a gigabyte.
test-large: install build
	$(CARGO) test --release --locked -p sixfold-tests --test large --test hard_values -- --ignored --test-threads=1 --nocapture

# The end-to-end suites and the large databases, every volume over many protection groups.
test-groups: export SIXFOLD_TEST_GROUP_SIZE = 8MB
test-groups: install build
	$(CARGO) build --locked -p sixfold-sixfold -p sixfold-shim
	$(CARGO) test --locked -p sixfold-tests -- --test-threads=1
	$(MAKE) test-large

# The report goes to REPORT.
HOURS ?= 2
REPORT ?= docs/soak.md
soak: install build
	$(CARGO) run --release --locked -p sixfold-tests --bin soak -- --hours $(HOURS) --report $(REPORT)

bench: install build
	$(CARGO) run --release --locked -p sixfold-bench -- $(ARGS)

sim:
	$(CARGO) run --release --locked -p sixfold-sim -- --seeds $(SEEDS) $(ARGS)

plants:
	$(CARGO) xtask plants

# What only `make ci` needs: a C++ compiler for the fuzzer's runtime, and valgrind to count instructions.
install-ci: install
	@missing=""; \
	command -v c++ >/dev/null || missing="g++"; \
	command -v valgrind >/dev/null || missing="$$missing valgrind"; \
	[ -n "$$missing" ] || exit 0; \
	if [ "$$(id -u)" != 0 ]; then echo "Missing: $$missing. Install them." >&2; exit 1; fi; \
	apt-get update -qq; \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing

# libFuzzer with coverage from the stable compiler: these are the flags that `cargo fuzz` sets, without its
# address sanitizer, which needs another compiler and has nothing to find in safe code. New inputs go to
# fuzz/target/corpus; what is kept in fuzz/corpus is only read.
FUZZ_FLAGS := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Cforce-frame-pointers
FUZZ_HOST := x86_64-unknown-linux-gnu

fuzz: install-ci
	cd fuzz && RUSTFLAGS="$(FUZZ_FLAGS)" $(CARGO) build --release --locked --bins --target $(FUZZ_HOST)
	@mkdir -p fuzz/artifacts $(foreach t,$(TARGETS),fuzz/target/corpus/$(t))
	@printf '%s\n' $(TARGETS) | xargs -P "$$(nproc)" -I{} bash -c ' \
	  if fuzz/target/$(FUZZ_HOST)/release/{} -max_total_time=$(SECONDS) -timeout=10 -rss_limit_mb=1024 \
	    -max_len=12000 -print_final_stats=1 -artifact_prefix=fuzz/artifacts/{}- \
	    fuzz/target/corpus/{} fuzz/corpus/{} > fuzz/artifacts/{}.log 2>&1; \
	  then echo "{}: $$(grep -o "number_of_executed_units: .*" fuzz/artifacts/{}.log)"; \
	  else tail -40 fuzz/artifacts/{}.log; echo "{}: failed; the input is in fuzz/artifacts"; exit 1; fi'

instructions: install-ci
	$(CARGO) xtask instructions

fmt:
	$(CARGO) fmt --all --check
	cd fuzz && $(CARGO) fmt --check

lint:
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

tidy:
	$(CARGO) xtask tidy

docs:
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --locked --workspace --no-deps --document-private-items -q

ci: install-ci fmt tidy lint docs test instructions fuzz

clean:
	$(CARGO) clean
