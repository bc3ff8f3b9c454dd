# Everyday work: make quick. Before a push: make test.
# Tools are pinned in .ci/tools.mod, apart from what the program itself uses.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

GO := go
TOOL := $(GO) tool -modfile=.ci/tools.mod
VERSION = $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# On one processor: timers of a synctest bubble that fire on two at once share
# the race detector's context in Go 1.26, and crash it (SIGSEGV in its C code).
# It goes by what happens before what, not by who was quicker, and loses little.
RACE := -race -cpu 1

# Packages whose tests start processes, Java or a thousand simulations.
SLOW := /e2e(/|$$)|/(broker|bridge)/apachetest$$|/session/explore$$|/loadtest/(site|report/browser)$$
# Those of them that run with -race: one process, and many goroutines.
IN_PROCESS := /e2e/sim$$
QUICK_PACKAGES = $$($(GO) list ./... | grep -vE '$(SLOW)')
SIM_PACKAGES = $$($(GO) list ./... | grep -E '$(IN_PROCESS)' || true)
PROCESS_PACKAGES = $$($(GO) list ./... | grep -E '$(SLOW)' | grep -vE '$(IN_PROCESS)')

.PHONY: help
help: ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## the static binary: bin/moorage
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/moorage ./cmd/moorage

.PHONY: quick
quick: ## what needs no Java, within two minutes
	$(GO) vet ./...
	$(GO) test -timeout 5m $(QUICK_PACKAGES)

.PHONY: test
test: check mutants test-race test-sim test-process ## everything; needs Java 17, Maven, iproute2 and root; installs Apache Kafka and Hudson into the user's cache

.PHONY: test-race
test-race: ## the quick packages under the race detector
	$(GO) test $(RACE) -timeout 15m $(QUICK_PACKAGES)

.PHONY: test-sim
test-sim: ## a thousand simulated runs, and some more under the race detector
	packages="$(SIM_PACKAGES)"; [ -z "$$packages" ] || { $(GO) test -timeout 20m $$packages && $(GO) test $(RACE) -timeout 20m $$packages -sim.n=50; }

.PHONY: test-process
test-process: ## the explorer, real processes and a real Apache Kafka, one package at a time
	$(GO) test -p 1 -timeout 30m $(PROCESS_PACKAGES)
	cd loadtest/nats && $(GO) vet ./... && $(GO) test ./...

.PHONY: mutants
mutants: ## switch the seeded bugs on, one at a time: each must be found, some by the demo's verdict too
	$(GO) test -tags seeded -p 1 -timeout 20m -run 'Mutants|BrokenVerdict' -v ./e2e/mutants/... ./demo ./cmd/moorage

.PHONY: explore
explore: ## the explorer with larger bounds; takes its time
	$(GO) test -timeout 4h -v ./session/explore/ -args -explore.bounds=large

.PHONY: baselines
baselines: ## the helper of loadtest's baseline nats: bin/moorage-nats
	cd loadtest/nats && CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o ../../bin/moorage-nats .

# What make bench measures: ROWS of loadtest/bench (empty: all), and by moorage
# loadtest COMPARED with relay, STORMS beside bare grpc, and ALONE once.
ROWS :=
COMPARED := p1-commands p3-up-16 p3-up-1000 p4-latency p4-half p5-native p5-tls p8-tunnel-1 p8-tunnel-16
STORMS := p6-storm p6-cold
ALONE := p5-legacy p7-kill p7-drain p9-spread p9-affinity idle-10k
PAIRS := 5

.PHONY: bench
bench: build ## measure, on a Kafka it starts, and write the tables of docs/performance.md; takes hours (PAIRS=1: less)
	mkdir -p build
	$(GO) test -run '^$$' -bench . -benchmem $(QUICK_PACKAGES) | tee build/micro.txt
	$(GO) run ./loadtest/bench -moorage bin/moorage -rows "$(ROWS)" -pairs $(PAIRS) -out build/bench.json
	rm -rf $(COMPARED:%=build/%) $(STORMS:%=build/%) $(ALONE:%=build/%)
	for scenario in $(COMPARED); do \
		bin/moorage loadtest run "$$scenario" --baseline relay --pairs $(PAIRS) --out build/"$$scenario" || [ -e build/"$$scenario"/results.json ]; \
	done
	for scenario in $(STORMS); do \
		bin/moorage loadtest run "$$scenario" --baseline grpc --pairs $(PAIRS) --out build/"$$scenario" || [ -e build/"$$scenario"/results.json ]; \
	done
	for scenario in $(ALONE); do \
		bin/moorage loadtest run "$$scenario" --out build/"$$scenario" || [ -e build/"$$scenario"/results.json ]; \
	done
	$(MAKE) --no-print-directory bench-doc

.PHONY: bench-doc
bench-doc: ## write the tables of docs/performance.md again, from what make bench left
	$(GO) run ./loadtest/bench -report build/bench.json -micro build/micro.txt \
		-scenarios "$$(echo $(COMPARED:%=build/%) $(STORMS:%=build/%) $(ALONE:%=build/%) | tr ' ' ,)" -doc docs/performance.md

.PHONY: benchstat
benchstat: ## compare two files of go test -bench: make benchstat OLD=a.txt NEW=b.txt
	$(TOOL) benchstat $(OLD) $(NEW)

.PHONY: fuzz
fuzz: ## every fuzz test for FUZZTIME (10s)
	@for package in $$($(GO) list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...); do \
		for name in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "$$package $$name"; \
			$(GO) test -run '^$$' -fuzz "^$$name$$" -fuzztime $${FUZZTIME:-10s} $$package; \
		done; \
	done

.PHONY: check
check: check-format check-vet check-lint check-proto check-shell check-deployments ## all that reads the code without running it

.PHONY: check-format
check-format:
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt -w $$unformatted" >&2; exit 1; }
	$(GO) fix -diff ./...

.PHONY: check-vet
check-vet:
	$(GO) vet ./...
	$(GO) vet -tags seeded ./...

.PHONY: check-lint
check-lint:
	$(TOOL) staticcheck ./...
	$(GO) test -count 1 . # the arrows between packages

.PHONY: check-proto
check-proto:
	$(TOOL) buf lint
	$(TOOL) buf breaking --against proto/frozen.binpb
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(TOOL) buf generate -o "$$fresh"; \
	for file in $$(cd "$$fresh" && find . -name '*.go'); do \
		diff -u "$$file" "$$fresh/$$file" || { echo "generated code is stale: make proto" >&2; exit 1; }; \
	done

.PHONY: check-shell
check-shell:
	@if command -v shellcheck >/dev/null; then shellcheck .ci/run; else bash -n .ci/run; fi

.PHONY: check-deployments
check-deployments:
	cd deployments/verify && $(GO) test -count 1 ./...

.PHONY: proto
proto: ## generate the Go code of the messages
	$(TOOL) buf generate

.PHONY: proto-freeze
proto-freeze: ## make today's messages what later ones must stay compatible with; for a release
	$(TOOL) buf build -o proto/frozen.binpb
