# Short names for scripts/; each script says what it does with --help.

.PHONY: help setup engine images generate check test quickstart stop build clean

help:
	@sed -n 's/^\([a-z]*\):.*##/\1\t/p' Makefile

setup: ## make .venv with everything in it
	./scripts/setup

engine: ## find or start a container engine
	./scripts/engine

images: ## make the base images of tests and quickstart
	./scripts/images

generate: ## write generated/ from protos/
	./scripts/generate

check: ## lint, types, layers, protos
	./scripts/check

test: ## everything, against a real engine
	./scripts/test

quickstart: ## a server, a function, its output
	./scripts/quickstart

stop: ## stop the quickstart's server
	./scripts/quickstart --stop

build: setup ## wheels and sdists of the three distributions, in dist/
	for project in generated client .; do .venv/bin/python -m build --no-isolation --outdir dist $$project; done

clean: ## remove what tools leave behind; .venv and .skybridge stay
	rm -rf dist build .coverage* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
