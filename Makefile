# A thin front for CMake (see CMakePresets.json). `make help` lists what there is.
PRESET  ?= release
BUILD   := build/$(PRESET)
MODEL   ?= models/demo
PREFIX  ?= /usr/local
JOBS    ?= $(shell nproc)
SOURCES  = $(shell git ls-files '*.c' '*.h' '*.cu')

.PHONY: help deps deps-test build demo test test-asan test-tsan fuzz bench format tidy install clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | column -t -s '|'
	@echo '  PRESET=release|debug|asan|tsan|fuzz  MODEL=DIR  PROMPT="..."  PREFIX=DIR'

deps: ## install the Debian packages that building needs and that are missing (as root)
	@deploy/install-packages build

deps-test: ## the same for building and testing
	@deploy/install-packages build test

build: deps ## configure and build into build/PRESET
	@cmake --preset $(PRESET) -DFS_TESTS=OFF >/dev/null
	@cmake --build $(BUILD) -j $(JOBS)

# PROMPT goes through the environment, as it was given: neither make nor the shell reads what is in it.
demo: export FORESIGHT_DEMO_PROMPT = $(value PROMPT)
demo: build ## start a cluster on the demo model and stream text: make demo PROMPT="..."
	@$(BUILD)/bin/foresight demo --model $(MODEL) $(if $(value PROMPT),--prompt="$$FORESIGHT_DEMO_PROMPT")

test: deps-test ## build and run every test
	@tests/run release

test-asan: deps-test ## the unit and integration tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@tests/run asan

test-tsan: deps-test ## the tests of what is threaded under ThreadSanitizer
	@tests/run tsan

fuzz: deps-test ## each libFuzzer target for FUZZ_SECONDS (30)
	@tests/fuzz/run $(or $(FUZZ_SECONDS),30)

bench: build ## tokens per second of a cluster on this machine
	@$(BUILD)/bin/foresight bench serve --model $(MODEL) --streams 1,8,32

format: deps-test ## clang-format every source in place
	@clang-format -i $(SOURCES)

tidy: deps-test ## clang-tidy over every source
	@cmake --preset $(PRESET) >/dev/null
	@cmake --build $(BUILD) -j $(JOBS) --target proto
	@git ls-files '*.c' | grep -v -E '^tests/|_(avx2|avx512|vbmi)\.c$$' | xargs -P $(JOBS) -n 4 clang-tidy --quiet -p $(BUILD)

install: build ## programs, headers' documentation and the demo model under PREFIX
	@cmake --install $(BUILD) --prefix $(PREFIX)

clean: ## remove build/
	@rm -rf build
