# Every tool is pinned by a tool directive: the generators in go.mod, the others
# in modules below tools/, so that what they require stays out of our go.mod.
BUF      := go tool -modfile=tools/buf/go.mod buf
GOLANGCI := go tool -modfile=tools/lint/go.mod golangci-lint

# The schema as it was at the last release, which "breaking" compares with.
IMAGE := proto/image.binpb

# What can be said on the command line: make demo ARGS=--once
ARGS     ?=
BENCH    ?= .
FUZZTIME ?= 20s

# How much "soak" does, of what every test run does a little.
SOAK_KILLS    ?= 500
SOAK_HITS     ?= 30
SOAK_CHANGES  ?= 10000
SOAK_FUZZTIME ?= 5m
SOAK_RECORDS  ?= 2m

# check runs in the order it is written in: what fails fast comes first.
.NOTPARALLEL:

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | sort | \
		while IFS=: read -r name text; do printf '  %-16s%s\n' "$$name" "$${text##*## }"; done

.PHONY: build
build: ## build the programs into bin/
	go build -o bin/ ./cmd/...

# The Postgres programs, what the README's tour is typed with, where limits of the
# fleet are counted, and a token of PKCS#11 without hardware.
.PHONY: postgres curl redis-server softhsm2
postgres curl redis-server softhsm2:
	@tools/need $@

.PHONY: demo
demo: postgres build ## run the whole system on this machine: make demo ARGS=--once
	@bin/sallyport demo $(ARGS)

.PHONY: test
test: postgres curl redis-server softhsm2 ## run every test, against real Postgres and etcd
	go test -timeout 20m ./...

.PHONY: race
race: postgres curl redis-server softhsm2 ## run every test with the race detector (needs a C compiler)
	go test -race -timeout 30m ./...

.PHONY: bench
bench: postgres ## run the benchmarks, or those that match BENCH
	go test -run '^$$' -bench '$(BENCH)' -benchmem -timeout 20m ./...

.PHONY: bench-engines
bench-engines: ## compare decisions with CEL's library, OPA and cedar-go, on the same policies
	cd test/bench/engines && go test -run '^$$' -bench . -benchmem -timeout 20m .

# nginx, HAProxy and Caddy, as Debian has them.
.PHONY: nginx haproxy caddy
nginx haproxy caddy:
	@tools/need $@

.PHONY: bench-peers
bench-peers: postgres nginx haproxy caddy ## compare a proxy with nginx, HAProxy and Caddy, each on one core (two cores, 6 minutes)
	go test -count=1 -v -tags peers -run '^$$' -bench Peers -benchtime 1x -timeout 20m ./test/bench/peers

.PHONY: profile
profile: postgres ## write anew what builds of the proxy are optimised for (two cores, 2 minutes)
	mkdir -p bin/profiles
	go test -count=1 -tags peers -run '^$$' -bench Profile -benchtime 1x ./test/bench/peers -profiles $(CURDIR)/bin/profiles
	go tool pprof -proto bin/profiles/*.pprof > cmd/sallyport-proxy/default.pgo

.PHONY: bench-fleet
bench-fleet: postgres ## have 1,000 and then 5,000 simulated proxies follow a control plane and lose it, and one get 100,000 routes (8 minutes)
	go test -count=1 -v -timeout 30m ./test/bench/fleet -proxies 1000,5000 -changes 30 -routes 100000 -judge

# What a network of our own is made with.
.PHONY: ip nft
ip nft:
	@tools/need $@

.PHONY: chaos
chaos: postgres ip nft ## take away whatever a fleet stands on, kill 200 times at random, cut its network (root; 20 minutes)
	go test -count=1 -v -tags chaos -timeout 1h ./test/chaos -kills 200 -lasting 10m -judge

.PHONY: fuzz
fuzz: ## fuzz every fuzz test for FUZZTIME (20s)
	@tools/fuzz $(FUZZTIME)

.PHONY: soak
soak: postgres ## hundreds of kills, SOAK_CHANGES (10000) in memory and under load, fuzzing for SOAK_FUZZTIME (5m) each
	go test -count=1 -v -run '^TestMemoryDoesNotGrow$$' -timeout 1h ./test/e2e -changes $(SOAK_CHANGES)
	go test -count=1 -v -run '^TestChangesUnderLoad$$' -timeout 1h ./dataplane/gateway -changes $(SOAK_CHANGES) -change-rate 2000
	go test -count=1 -v -run '^TestAcknowledgedAppliesSurviveKills$$' -timeout 3h ./test/e2e -kills $(SOAK_KILLS) -hits $(SOAK_HITS)
	go test -count=1 -v -run '^Test(Records|Requests)AtFiveThousandASecond$$' -timeout 1h ./test/link -records $(SOAK_RECORDS)
	go test -count=1 -v -run '^TestTheDatabaseHoldsWhatWasSaid$$' -timeout 1h ./controlplane/api -rapid.checks 1000 -steps 60
	@tools/fuzz $(SOAK_FUZZTIME)

# SPIRE keeps its entries in sqlite, which is C.
bin/spire/spire-server: tools/spire/go.mod tools/spire/go.sum
	cd tools/spire && CGO_ENABLED=1 go build -ldflags='-s -w' -o ../../bin/spire/ tool

.PHONY: e2e-spire
e2e-spire: postgres bin/spire/spire-server ## run fleets on a real SPIRE, one of them on two that federate, which is built first (needs a C compiler)
	go test -count=1 -v -tags spire -run 'OnSPIRE$$' -timeout 10m ./test/e2e

.PHONY: e2e-upgrade
e2e-upgrade: postgres ## make a fleet of the build of the commit PREVIOUS one of this build, replica by replica and proxy by proxy
	@tools/previous $(PREVIOUS) bin/previous
	go test -count=1 -v -tags upgrade -run '^TestRollingUpgrade$$' -timeout 10m ./test/e2e -previous $(CURDIR)/bin/previous

bin/conformance/connectconformance: tools/conformance/go.mod tools/conformance/go.sum
	cd tools/conformance && go build -o ../../bin/conformance/ tool

.PHONY: conformance
conformance: postgres bin/conformance/connectconformance ## have the suites of Connect, gRPC and HTTP/2 ask through proxies, and 1 GiB go to slow readers
	go test -count=1 -v -tags conformance -timeout 20m ./test/conformance
	go test -count=1 -v -run '^TestSlowReaders$$' -timeout 10m ./test/e2e -mib 1024

.PHONY: generate
generate: ## write proto/gen anew from the .proto files
	$(BUF) generate

.PHONY: image
image: ## take the schema as what the next release is compared with
	$(BUF) build proto --exclude-source-info -o $(IMAGE)

.PHONY: check-generate
check-generate: generate ## fail if the committed proto/gen is not what generate writes
	@changed=$$(git status --porcelain -- proto/gen) && test -z "$$changed" || \
		{ printf 'proto/gen is not what the .proto files say; commit:\n%s\n' "$$changed"; exit 1; }

.PHONY: breaking
breaking: ## compare the .proto files with those of the last release
	$(BUF) breaking proto --against $(IMAGE)

.PHONY: lint
lint: ## judge the form of .proto files, Go code and go.mod
	$(BUF) lint
	$(BUF) format --diff --exit-code
	go vet ./...
	go vet -tags failpoint ./internal/failpoint
	go vet -tags spire ./test/e2e
	go vet -tags upgrade ./test/e2e
	go vet -tags peers ./test/bench/peers
	go vet -tags chaos ./test/chaos
	go vet -tags conformance ./test/conformance
	$(GOLANGCI) run ./...
	go mod tidy -diff
	cd test/bench/engines && go mod tidy -diff
	cd tools/buf && go mod tidy -diff
	cd tools/conformance && go mod tidy -diff
	cd tools/lint && go mod tidy -diff
	cd tools/openid && go mod tidy -diff
	cd tools/spire && go mod tidy -diff

.PHONY: vuln
vuln: ## look for known vulnerabilities; VULNDB=FILE.tar.gz: a copy for when offline
	@tools/vuln

.PHONY: check
check: check-generate breaking lint vuln test race ## generated code, form, vulnerabilities, tests, demo: what CI runs
	$(MAKE) demo ARGS=--once
