# The commands of everyday work; `make help` lists them. All of them need rustup's toolchain, a C and C++ compiler and make; `make tools` says what tests need besides.

CARGO ?= cargo
# What `make replay` plays, and how: make replay FILE=my.jsonl ARGS="--kill --concurrency 64". `make overload` takes ARGS too
FILE ?= benches/conversations.jsonl
ARGS ?=
# Where `make tools` puts what is not installed
export PATH := $(CURDIR)/target/tools/usr/bin:$(PATH)

.PHONY: help run tools test bench fmt lint doc reference replay overload
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-9s %s\n", $$1, $$2 }'

run: ## start the gateway with ./config.yaml
	$(CARGO) run --release --locked

tools: ## the programs that tests run besides our own (Prometheus, Redis, Python packages); fetches what is not installed, without root
	.ci/tools

test: tools ## all tests, and a replay over two gateways; no network and no service, and no installation beside what `tools` sees to
	$(CARGO) test --workspace --locked
	$(CARGO) build --locked --package fengda --package fengda-benches --bin fengda --bin replay
	target/debug/replay benches/conversations.jsonl --redis --gateways 2

bench: ## the micro benchmarks
	$(CARGO) bench --package fengda-benches --locked

fmt: ## format all code
	$(CARGO) fmt --all

lint: ## what CI refuses: formatting, warnings
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

doc: ## the API documentation; broken links are errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

reference: ## renew docs/config.md and docs/config.schema.json, which the code makes
	$(CARGO) run --locked --package fengda -- schema > docs/config.schema.json
	$(CARGO) run --locked --package fengda -- schema --markdown > docs/config.md

replay: ## play conversations against a gateway of its own and check every answer
	$(CARGO) build --release --locked --package fengda --package fengda-benches --bin fengda --bin replay
	target/release/replay $(FILE) $(ARGS)

overload: ## what a tenant notices of a neighbour that asks for ten times its share
	$(CARGO) build --release --locked --package fengda --package fengda-benches --bin fengda --bin overload
	target/release/overload $(ARGS)
