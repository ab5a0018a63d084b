# `make run` sets up, builds, fetches a small model and answers a question. `make test` runs every test.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.PHONY: help run test build clean

help:
	@echo "make run    set up, build, and answer a question with a small model"
	echo "make test   run every test"
	echo "make build  build into dist/"

run:
	@scripts/setup.sh run
	scripts/fetch-model.sh
	$(MAKE) --no-print-directory build
	scripts/run.sh

build:
	@. scripts/env.sh
	clear_dangling_links
	cargo xtask stage

test:
	@scripts/setup.sh test
	scripts/test.sh

clean:
	@rm -rf dist
