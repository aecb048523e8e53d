# The single task runner: one word per task, each safe to run twice. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

release := $(or $(CARGO_TARGET_DIR),target)/release
binary := $(release)/ebpf-hello
# Finds the compilers and pinned tools, also right after setup has installed them.
toolchain := source scripts/toolchain; select_rust || die "no Rust compiler is new enough: run make setup";

.PHONY: help setup build run test test-unit test-kernel test-api bench check fmt clean

help: ## List the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' Makefile

setup: ## Install what building and testing need and this machine lacks (root or sudo)
	@scripts/setup all

build: ## Build the static release binary, eBPF programs inside
	@scripts/setup build
	@$(toolchain) cargo build --release -p ebpf-hello

run: build ## Run it with live events, as root or through sudo; flags in ARGS="-o wide"
	@scripts/run $(binary) run $(ARGS)

test: ## Run every tier this machine can hold; REQUIRE=unit,kernel makes a missing one a failure
	@scripts/test

test-unit: ## Run the tests that need neither root nor a kernel feature
	@scripts/test unit

test-kernel: ## Run the tests that load the programs into this kernel (root)
	@scripts/test kernel

test-api: ## Run the tests against real servers and clients of other makers (NATS, grpcurl, Python)
	@scripts/test api

bench: build ## Measure what it costs (root, a machine at rest); ARGS="--quick --only NAME" for less
	@$(toolchain) cargo build --release -p ebpf-hello-generator -p ebpf-hello-bench
	@scripts/run $(release)/ebpf-hello-bench $(ARGS)

check: ## Check format, lints, dependencies and shell scripts
	@scripts/setup all
	@scripts/check

fmt: ## Format all Rust code
	@$(toolchain) cargo fmt --all && cargo fmt --manifest-path ebpf/programs/Cargo.toml

clean: ## Remove what was built; installed tools stay
	rm -rf target ebpf/programs/target
