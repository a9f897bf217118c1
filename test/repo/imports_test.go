package repo_test

import (
	"slices"
	"strings"
	"testing"
)

// A rule says what packages may not import. Patterns are written as for the go
// command: "net" is one package, "go.etcd.io/..." all below, "./" our module.
type rule struct {
	from   string   // the packages that it binds
	except []string // those among them that it does not
	never  []string // what they may not import,
	only   []string // or all that they may import besides the standard library
	linked bool     // holds for what is imported through others as well
	why    string   // what the programmer who breaks it reads
}

var rules = []rule{
	// Directions: cmd → planes → internal, controlplane → storage.
	{
		from: "./dataplane/...", linked: true,
		never: []string{"./storage/...", "./controlplane/...", "go.etcd.io/...", "github.com/jackc/...", "github.com/pressly/..."},
		why:   "proxies run in hostile clouds: what they do not link cannot be reached there",
	},
	{
		from: "./cmd/sallyport-proxy/...", linked: true,
		never: []string{"./storage/...", "./controlplane/...", "go.etcd.io/...", "github.com/jackc/...", "github.com/pressly/..."},
		why:   "proxies run in hostile clouds: what they do not link cannot be reached there",
	},
	{
		from: "./controlplane/...", linked: true,
		never: []string{"./dataplane/..."},
		why:   "the planes meet in internal and in the protocol, so that each is released alone",
	},
	{
		from: "./internal/...", linked: true,
		never: []string{"./cmd/...", "./controlplane/...", "./dataplane/...", "./storage/..."},
		why:   "the kernel is what both planes share: it knows neither",
	},
	{
		from: "./storage/...", linked: true,
		never: []string{"./cmd/...", "./controlplane/...", "./dataplane/..."},
		why:   "stores serve the control plane and do not call it",
	},
	{
		from: "./storage", linked: true,
		never: []string{"./storage/postgres/...", "./storage/etcd/...", "./storage/local/...", "github.com/jackc/...", "go.etcd.io/..."},
		why:   "a contract knows none of those who keep it",
	},
	{
		from: "./storage/postgres/...", linked: true,
		never: []string{"./storage/etcd/...", "go.etcd.io/..."},
		why:   "truth and distribution fail apart",
	},
	{
		from: "./storage/etcd/...", linked: true,
		never: []string{"./storage/postgres/...", "github.com/jackc/..."},
		why:   "truth and distribution fail apart",
	},

	// One door each.
	{
		from: "./...", except: []string{"./internal/identity/..."},
		never: []string{"github.com/spiffe/..."},
		why:   "who a peer is gets decided, and reviewed, in one place",
	},
	{
		from: "./...", except: []string{"./storage/etcd/...", "./storage/local/...", "./storage/storagetest/..."},
		never: []string{"go.etcd.io/..."},
		why:   "etcd's content is not trusted: only its adapter and what starts servers for demo and tests know it",
	},
	{
		from: "./...", except: []string{"./storage/postgres/...", "./storage/local/...", "./storage/storagetest/..."},
		never: []string{"github.com/jackc/...", "github.com/pressly/...", "database/sql"},
		why:   "transactions and their order are the adapter's business",
	},

	{
		from: "./...", except: []string{"./controlplane/hsm/..."},
		never: []string{"github.com/miekg/pkcs11/..."},
		why:   "a library of somebody else's is loaded into one process alone, and cgo is needed in one place",
	},
	{
		from: "./cmd/sallyport/...", linked: true,
		never: []string{"./controlplane/hsm/..."},
		why:   "whoever administers needs neither hardware nor cgo",
	},

	{
		from: "./...", except: []string{"./dataplane/geo/..."},
		never: []string{"github.com/oschwald/...", "github.com/maxmind/..."},
		why:   "what damaged database files can do is bounded in one place",
	},

	{
		from: "./...", except: []string{"./dataplane/collector/...", "./dataplane/trace/...", "./dataplane/record/otlp/..."},
		never: []string{"go.opentelemetry.io/..."},
		why:   "what leaves for collectors is bounded in one place",
	},
	{
		from: "./...", except: []string{"./dataplane/handover/..."},
		never: []string{"github.com/coreos/go-systemd/..."},
		why:   "what a service manager hands over is taken once, in one place",
	},

	{
		from: "./...", except: []string{"./internal/schema/..."},
		never: []string{"github.com/santhosh-tekuri/..."},
		why:   "how much work a schema and a body may make is bounded in one place",
	},

	// The pure kernel.
	{
		from: "./internal/policy/...",
		only: []string{"cel.dev/cel-go/...", "./internal/pattern", "./internal/ipset"},
		why:  "what decides is small enough to be fuzzed, replayed and reviewed alone",
	},
	{
		from: "./internal/pattern/...", only: []string{},
		why: "what decides is small enough to be fuzzed, replayed and reviewed alone",
	},
	{
		from: "./internal/ipset/...", only: []string{},
		why: "what decides is small enough to be fuzzed, replayed and reviewed alone",
	},
	{
		from: "./internal/revocation/...", linked: true,
		never: []string{"./internal/compile/...", "./internal/authn/...", "./internal/token/...", "./internal/route/..."},
		why:   "who is cut off depends neither on policy nor on how they proved themselves",
	},
	{
		from: "./internal/...", except: []string{"./internal/identity/...", "./internal/authn", "./internal/failpoint"},
		never: []string{"net", "os", "os/exec", "os/signal", "database/sql", "connectrpc.com/...", "google.golang.org/grpc/..."},
		why:   "the kernel neither reads nor writes: its answers follow from its arguments",
	},

	// What servers must not carry.
	{
		from: "./cmd/sallyport-proxy/...", linked: true,
		never: []string{"./internal/identity/issuer/...", "./dataplane/geo/geotest/...", "./dataplane/upstream/dns/dnstest/...", "testing"},
		why:   "a development issuer in production would be a forger's workshop; test code does not ship",
	},
	{
		from: "./cmd/sallyport-controlplane/...", linked: true,
		never: []string{"./internal/identity/issuer/...", "./storage/local/...", "go.etcd.io/etcd/server/...", "testing"},
		why:   "servers of the demo and a development issuer do not ship; nor does test code",
	},
	{
		from:  "./...",
		never: []string{"net/http/pprof", "expvar"},
		why:   "they publish themselves on http.DefaultServeMux as soon as they are imported",
	},
	{
		from:  "./...",
		never: []string{"io/ioutil", "math/rand", "github.com/golang/protobuf/...", "github.com/google/cel-go/...", "connectrpc.com/connect/v2/..."},
		why:   "superseded, or not the major version we are on",
	},
}

// broken returns those imports of p that the rule forbids.
func (r rule) broken(p listed) []string {
	if !matches(r.from, p.ImportPath) || anyMatches(r.except, p.ImportPath) {
		return nil
	}
	imports := p.Imports
	if r.linked {
		imports = p.Deps
	}
	var found []string
	for _, i := range imports {
		foreign := r.only != nil && strings.Contains(i, ".") && !matches(r.from, i) && !anyMatches(r.only, i)
		if foreign || anyMatches(r.never, i) {
			found = append(found, i)
		}
	}
	return found
}

func TestImports(t *testing.T) {
	own := ours(t)
	for _, r := range rules {
		for _, p := range own {
			if bad := r.broken(p); len(bad) > 0 {
				t.Errorf("%s may not depend on %q (and %d more): %s", p.ImportPath, bad[0], len(bad)-1, r.why)
			}
		}
	}
}

// Each rule must find what it forbids, and only that.
func TestImportRulesBite(t *testing.T) {
	for _, r := range rules {
		for _, bad := range append(slices.Clone(r.never), r.foreign()...) {
			from, bad := example(r.from), example(bad)
			p := listed{ImportPath: from, Imports: []string{"fmt", bad}, Deps: []string{"fmt", bad}}
			if got := r.broken(p); len(got) != 1 {
				t.Errorf("%s may not depend on %s, reported were %q", from, bad, got)
			}
			for _, e := range r.except {
				p.ImportPath = example(e)
				if got := r.broken(p); len(got) != 0 {
					t.Errorf("%s is excepted, reported were %q", e, got)
				}
			}
		}
	}
}

// foreign returns an import that a rule which lists all that is allowed forbids.
func (r rule) foreign() []string {
	if r.only == nil {
		return nil
	}
	return []string{"example.com/elsewhere"}
}

// example returns an import path that matches the pattern.
func example(pattern string) string {
	return strings.Replace(expand(pattern), "...", "example", 1)
}

// matches reports whether an import path matches a pattern as in rule.
func matches(pattern, path string) bool {
	pattern = expand(pattern)
	base, below := strings.CutSuffix(pattern, "/...")
	return path == base || below && strings.HasPrefix(path, base+"/")
}

func anyMatches(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, path) })
}

// expand writes a pattern that begins with "./" as an import path.
func expand(pattern string) string {
	if rest, ok := strings.CutPrefix(pattern, "./"); ok {
		return module + "/" + rest
	}
	return pattern
}
