// Package cors says to which pages of other origins browsers may give what a route
// answers (CORS, in the Fetch standard), so that all who tell say the same.
package cors

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/request"
)

// Config is what a route allows. The zero Config allows nobody anything.
type Config struct {
	// Origins are such as "https://app.example", "https://*.app.example" for exactly
	// one label, or "*" for every page.
	Origins []string
	Methods []string // that preflights may ask for; every one of the route when none
	Headers []string // that pages may send beside those that all may
	Exposed []string // that pages may read beside those that all may

	// Credentials has browsers send what they hold for the host. Not for every page.
	Credentials bool

	MaxAge time.Duration // for which browsers need not ask again
}

// Rule is a Config made ready. It is immutable; nil allows nobody anything.
type Rule struct {
	config  Config
	headers []string // in lower case
	allow   [4]string
}

// The lists of a rule in one line each, and its age.
const (
	methods = iota
	headers
	exposed
	age
)

// New returns the rule of a Config whose parts were checked.
func New(c Config) *Rule {
	r := &Rule{config: c}
	for _, name := range c.Headers {
		r.headers = append(r.headers, strings.ToLower(name))
	}
	r.allow[methods], r.allow[headers], r.allow[exposed] = strings.Join(c.Methods, ", "), strings.Join(c.Headers, ", "), strings.Join(c.Exposed, ", ")
	if c.MaxAge > 0 {
		r.allow[age] = strconv.Itoa(int(c.MaxAge / time.Second))
	}
	return r
}

// CheckOrigin says why nobody can have an origin. Without TLS only pages of the
// person's own machine have one that counts.
func CheckOrigin(origin string) error {
	if origin == "*" {
		return nil
	}
	scheme, rest, ok := strings.Cut(origin, "://")
	host, port := rest, ""
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, ']') {
		host, port = rest[:i], rest[i+1:]
	}
	name := host
	if parent, wildcard := strings.CutPrefix(host, "*."); wildcard {
		name = "x." + parent
	}
	switch {
	case !ok || scheme != "https" && scheme != "http" || !request.IsHost(name) || !isPort(scheme, rest != host, port):
		return fmt.Errorf(`%.300q is no origin such as "https://app.example", in lower case, without path and default port`, origin)
	case scheme == "http" && !isLoopback(host):
		return fmt.Errorf("%.300q: anybody on the way can be a page without TLS", origin)
	}
	return nil
}

// isPort looks at what browsers say: no default port.
func isPort(scheme string, given bool, port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	if !given {
		return true
	}
	return err == nil && n > 0 && strconv.FormatUint(n, 10) == port && !(scheme == "https" && n == 443) && !(scheme == "http" && n == 80)
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// Allows reports whether a page of an origin may read answers.
func (r *Rule) Allows(origin string) bool {
	if r == nil || origin == "" {
		return false
	}
	return slices.ContainsFunc(r.config.Origins, func(allowed string) bool { return fits(allowed, origin) })
}

func fits(allowed, origin string) bool {
	if allowed == "*" || allowed == origin {
		return true
	}
	scheme, parent, wildcard := strings.Cut(allowed, "://*.")
	if !wildcard {
		return false
	}
	rest, ok := strings.CutPrefix(origin, scheme+"://")
	label, of, _ := strings.Cut(rest, ".")
	return ok && of == parent && label != "" && !strings.ContainsAny(label, ":/[]@")
}

// Method returns the method that a preflight asks about; empty for what is none.
func Method(c *request.Canonical) string {
	if asked := c.Header["Access-Control-Request-Method"]; c.Method == http.MethodOptions && len(c.Header["Origin"]) == 1 && len(asked) == 1 {
		return asked[0]
	}
	return ""
}

// Preflight says why a preflight is refused; empty when it is not.
func (r *Rule) Preflight(c *request.Canonical) (refused string) {
	method := Method(c)
	switch {
	case !r.Allows(c.Header["Origin"][0]):
		return "the origin is not one that may ask"
	case len(r.config.Methods) > 0 && !slices.Contains(r.config.Methods, method):
		return "the method is not one that may be asked for"
	}
	for _, line := range c.Header["Access-Control-Request-Headers"] {
		for name := range strings.SplitSeq(line, ",") {
			name = strings.ToLower(textproto.TrimString(name))
			if name != "" && !slices.Contains(r.headers, name) {
				return fmt.Sprintf("the header %.40q is not one that may be sent", name)
			}
		}
	}
	return ""
}

// Answer puts into the header of an answer what browsers are told, in place of what
// anybody else has told them.
func (r *Rule) Answer(h http.Header, c *request.Canonical) {
	if r == nil {
		return
	}
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			delete(h, name)
		}
	}
	if !slices.Contains(r.config.Origins, "*") {
		h["Vary"] = append(slices.Clip(h["Vary"]), "Origin")
	}
	origins := c.Header["Origin"]
	if len(origins) != 1 || !r.Allows(origins[0]) {
		return
	}
	h["Access-Control-Allow-Origin"] = origins
	if slices.Contains(r.config.Origins, "*") {
		h["Access-Control-Allow-Origin"] = []string{"*"}
	}
	if r.config.Credentials {
		h["Access-Control-Allow-Credentials"] = []string{"true"}
	}
	if method := Method(c); method != "" {
		r.preflight(h, method)
		return
	}
	set(h, "Access-Control-Expose-Headers", r.allow[exposed])
}

func (r *Rule) preflight(h http.Header, method string) {
	set(h, "Access-Control-Allow-Methods", method)
	set(h, "Access-Control-Allow-Methods", r.allow[methods])
	set(h, "Access-Control-Allow-Headers", r.allow[headers])
	set(h, "Access-Control-Max-Age", r.allow[age])
}

func set(h http.Header, name, value string) {
	if value != "" {
		h[name] = []string{value}
	}
}
