# `make run` sets up, builds, fetches a small model and answers a question. `make test` runs every test.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.PHONY: help run test build dist install clean
PREFIX ?= /usr/local

help:
	@echo "make run    set up, build, and answer a question with a small model"
	echo "make test   run every test"
	echo "make build  build into dist/"
	echo "make dist   a tarball and a Debian package in dist/packages/"
	echo "make install PREFIX=/usr/local DESTDIR="

run:
	@scripts/setup.sh run
	scripts/fetch-model.sh
	$(MAKE) --no-print-directory build
	scripts/run.sh

build:
	@. scripts/env.sh
	clear_dangling_links
	cargo xtask stage

dist: build
	@. scripts/env.sh
	cargo xtask package

# Asks for the administrator where the prefix is not yours.
install: build
	@. scripts/env.sh
	cargo xtask install "$(PREFIX)" dist/install
	scripts/install.sh dist/install "$(PREFIX)" "$(DESTDIR)"

test:
	@scripts/setup.sh test
	scripts/test.sh

clean:
	@rm -rf dist
