# make check is the one test command: CI runs it, and so should you before you
# send a change. Tools and servers of its own are kept in .tools.

GOLANGCI_LINT_VERSION := v2.15.0

LINT     := .tools/golangci-lint-$(GOLANGCI_LINT_VERSION)/golangci-lint
SERVERS  := go run ./servertest/servers
GO_FILES := git ls-files --cached --others --exclude-standard '*.go'
FUZZTIME ?= 30s

# Everything is built the way the binary is, and so only once; the race detector
# alone needs C.
export CGO_ENABLED := 0

.PHONY: check fmt vet lint build test race mutants soak fuzz bench

# The servers are started once, for race and mutants together.
check: fmt vet lint build
	$(SERVERS) $(MAKE) --no-print-directory race mutants

fmt:
	@test -z "$$($(GO_FILES) | xargs gofmt -l | tee /dev/stderr)"

vet:
	go vet ./...

lint: $(LINT)
	$(LINT) run

$(LINT):
	GOBIN=$(abspath $(@D)) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)

# One static binary.
build:
	go build -o penstock ./cmd/penstock

# What needs Go alone and a minute.
test:
	go test -short ./...

# Every test, on real servers, under the race detector, and again without it
# those that have to be smaller there.
race:
	$(SERVERS) env CGO_ENABLED=1 go run ./servertest/noskip -race -timeout 25m ./...
	$(SERVERS) go run ./servertest/noskip -run '^TestHostileSchemas|^TestIdleConnections' ./registry ./cmd/penstock

# Every seeded defect must make its test fail.
mutants:
	$(SERVERS) go run ./servertest/mutants

# A million rows from Kafka and from JetStream into PostgreSQL, by consumers that are
# killed 200 times; and 50 rounds of 20 clients, killed 200 times as well; hours.
soak:
	$(SERVERS) env PENSTOCK_SOAK_ROWS=1000000 PENSTOCK_SOAK_KILLS=200 \
		PENSTOCK_SOAK_ROUNDS=50 PENSTOCK_SOAK_CLIENTS=20 PENSTOCK_SOAK_FEDERATED_KILLS=200 \
		go test ./cmd/penstock -run TestSoak -count=1 -v -timeout 6h

# Each fuzz target for FUZZTIME. Commit what it finds in testdata/fuzz.
fuzz:
	@$(GO_FILES) | xargs grep -l '^func Fuzz' | while read -r file; do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$file); do \
			echo "== $$target in $$file"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) ./$$(dirname $$file) || exit 1; \
		done; \
	done

# The packages' own benchmarks, then Penstock against the raw clients.
bench:
	go test -run '^$$' -bench . -benchmem ./...
	$(SERVERS) sh -ec 'for broker in kafka://$$PENSTOCK_TEST_KAFKA $$PENSTOCK_TEST_NATS; do \
		for work in produce consume; do go run ./cmd/penstock bench $$work --broker $$broker; done; done'
