# Everything goes through .venv in this folder; packaging/setup_env.py makes it and knows when it is stale.
BIN := .venv/bin
T ?= tests
ARGS ?=
# test processes: the tests mostly wait, for processes, sockets and time limits
JOBS ?= 3
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help run serve test soak check format bench package starter schema lock clean distclean setup-run setup-dev

help:
	@echo "make run      set everything up and open the window (ARGS=\"--model FILE\" passes options)"
	@echo "make serve    the same without a window"
	@echo "make test     all checks and tests (T=tests/api: only these tests, no checks)"
	@echo "make soak     the long tests in full"
	@echo "make check    ruff, mypy --strict, import rules"
	@echo "make format   let ruff put the sources in order"
	@echo "make bench    what the app costs beside bare llama.cpp (ARGS=\"--synthetic 15M\"; see BENCHMARKS.md)"
	@echo "make package  a folder that runs without Python, in dist/"
	@echo "make starter  train the starter model anew"
	@echo "make schema   write the contract's documents anew (api/schema.json, api/asyncapi.json)"
	@echo "make lock     resolve the pinned requirements anew (needs pip-tools)"
	@echo "make clean    remove .venv, build, dist and caches; the built llama.cpp is kept"
	@echo "make distclean  clean, and the kept llama.cpp too"

setup-run:
	@python=$$(packaging/find_python.sh) && $$python packaging/setup_env.py run

setup-dev:
	@python=$$(packaging/find_python.sh) && $$python packaging/setup_env.py dev
	@$(BIN)/python packaging/offscreen.py

run: setup-run
	@exec $(BIN)/python packaging/launch.py $(ARGS)

serve: setup-run
	@exec $(BIN)/tokenglass serve $(ARGS)

ifeq ($(T),tests)
test: check
endif
test: setup-dev
	QT_QPA_PLATFORM=offscreen $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile $(T)

soak: setup-dev
	QT_QPA_PLATFORM=offscreen TOKENGLASS_SOAK=1 $(BIN)/python -m pytest -q -o timeout=3600 -o faulthandler_timeout=3500 $(T)

check: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup-run
	@$(BIN)/tokenglass bench $(ARGS)

package: setup-dev
	@$(BIN)/python packaging/freeze.py

starter:
	python3 assets/starter/recipe.py $(ARGS)

schema: setup-dev
	@$(BIN)/python -m api.schema

lock:
	python3 packaging/lock.py $(ARGS)

clean:
	@for folder in .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache \
		tokenglass.egg-info; do \
		if [ -e "$$folder" ]; then rm -rf "$$folder" && echo "removed $$folder"; fi; done
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	@cache="$${TOKENGLASS_BUILD_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/tokenglass-build}"; \
		if [ -e "$$cache" ]; then rm -rf "$$cache" && echo "removed $$cache"; fi
