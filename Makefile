# `make run` and `make test` work from a clean clone on Debian and Ubuntu, as root or with sudo.

SHELL := /bin/bash
CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
# rustup's own place, for a shell that was started before it was installed
export PATH := $(PATH):$(HOME)/.cargo/bin

.DEFAULT_GOAL := help
.PHONY: help setup-run setup-test web binary run test check bench clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

setup-run:
	@scripts/setup run

setup-test:
	@scripts/setup test

# not `npm ci`: npm 11 leaves other platforms' optional packages out of a lock file without download addresses, and then
# refuses the file for lacking them
web: setup-run
	@cmp -s web/package-lock.json web/node_modules/.installed || \
	  { npm --prefix web install --no-save --no-fund --no-audit && cp web/package-lock.json web/node_modules/.installed; }
	npm --prefix web run build

binary: web
	cargo build --release --package antipode

# `make run ARGS="--regions fra,nrt --loss 1%"`
run: binary ## build all and run a mesh of three regions on this machine (ARGS="…" for `antipode up`)
	exec "$(CARGO_TARGET_DIR)/release/antipode" up $(ARGS)

test: setup-test web ## install what the tests need and run all of them
	scripts/test

check: setup-run ## format, clippy, tidy, dependencies
	cargo xtask check

bench: setup-run ## one benchmark (NAME=forward)
	cargo xtask bench $(or $(NAME),forward)

clean: ## remove what was built
	rm -rf web/dist "$(CARGO_TARGET_DIR)"
