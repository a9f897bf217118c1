# Every tool is pinned by a tool directive: the generators in go.mod, the rest
# in the modules below tools/, which keep what they need out of our go.mod.
BUF := go tool -modfile=tools/buf/go.mod buf

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z][a-z0-9-]*:.*##' $(MAKEFILE_LIST) | sort | sed -E 's/:[^#]*## */|/' | \
		while IFS='|' read -r name text; do printf '  %-16s %s\n' "$$name" "$$text"; done

.PHONY: generate
generate: ## write proto/gen anew from the .proto files
	$(BUF) generate
