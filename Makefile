# The single task runner: one word per task, each safe to run twice. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

release := $(or $(CARGO_TARGET_DIR),target)/release
binary := $(release)/ebpf-hello
# Finds the compilers and pinned tools, also right after setup has installed them.
toolchain := source scripts/toolchain; select_rust || die "no Rust compiler is new enough: run make setup";

.PHONY: help setup build run test test-unit test-kernel test-api e2e bench soak check fmt image kube-assets clean

help: ## List the tasks
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' Makefile

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

e2e: ## Run the tests on a cluster of kind, from nothing to nothing (root); E2E_KEEP=1 keeps it, E2E_CONTEXT=NAME uses yours
	@scripts/setup all
	@scripts/e2e

bench: build ## Measure what it costs (root, a machine at rest); ARGS="--quick --only NAME" for less
	@$(toolchain) cargo build --release -p ebpf-hello-generator -p ebpf-hello-bench
	@scripts/run $(release)/ebpf-hello-bench $(ARGS)

soak: ## Run what takes long: PARTS="crash" for some of it
	@scripts/soak $(PARTS)

check: ## Check format, lints, dependencies and shell scripts
	@scripts/setup all
	@scripts/check

fmt: ## Format all Rust code
	@$(toolchain) cargo fmt --all && cargo fmt --manifest-path ebpf/programs/Cargo.toml

image: ## Write the image as an OCI archive without a daemon; ARCH=amd64,arm64 for both in one index
	@scripts/image

kube-assets: ## Find, download or build the servers and tools that tests start
	@scripts/assets

clean: ## Remove what was built; installed tools stay
	rm -rf target ebpf/programs/target
