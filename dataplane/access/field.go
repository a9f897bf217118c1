package access

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/dataplane/record"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/request"
)

const (
	// maxFields bounds the fields of a line, maxText the bytes of one, and maxQueries the
	// names of parameters.
	maxFields  = 64
	maxText    = 2048
	maxQueries = 64
)

// What the names of fields of headers begin with.
const (
	ofRequest  = "request_header."
	ofResponse = "response_header."
)

// Entry is a request that has ended.
type Entry struct {
	Decision *record.Decision
	// Outcome is the zero one for what was not let through.
	Outcome *record.Outcome
	// Took is how long it took from its head to the end of the answer, and Answered how
	// long until the head of the upstream's answer; zero without one.
	Took, Answered time.Duration
	// Said is how many bytes the proxy itself sent as the body of an answer.
	Said int64
	// Request and Response are the fields that came from the client and went to it.
	Request, Response http.Header
}

// status is that of the answer.
func (e *Entry) status() int {
	if e.Outcome.Status != 0 {
		return e.Outcome.Status
	}
	return e.Decision.Status
}

// reason is why the request did not end well, or else why it was let through.
func (e *Entry) reason() string {
	if e.Outcome.Reason != "" {
		return e.Outcome.Reason
	}
	return e.Decision.Reason
}

// principal is never nil.
func (e *Entry) principal() *policy.Principal {
	if p := e.Decision.Principal; p != nil {
		return p
	}
	return &policy.Principal{}
}

// DefaultFields returns the fields of a line where none are named.
func DefaultFields() []string {
	return []string{
		"time", "client_ip", "principal", "method", "host", "path", "protocol", "tls", "status", "decision", "reason", "sent", "received",
		"took_us", "upstream_us", "route", "endpoint", "decision_id", "trace_id", "user_agent",
	}
}

// CheckFields says which of names are no fields, or would show credentials.
func CheckFields(names []string) error {
	var errs []error
	if len(names) > maxFields {
		errs = append(errs, fmt.Errorf("%d fields: more than %d", len(names), maxFields))
	}
	for i, name := range names {
		_, err := fieldOf(name)
		errs = append(errs, err)
		if slices.Contains(names[:i], name) {
			errs = append(errs, fmt.Errorf("%q is given twice", name))
		}
	}
	return errors.Join(errs...)
}

// field is a key, and what appends its value: nothing for one that is left out.
type field struct {
	key   string
	value func(b []byte, e *Entry) []byte
}

func fieldOf(name string) (field, error) {
	if value, ok := fields[name]; ok {
		return field{name, value}, nil
	}
	for prefix, of := range map[string]func(*Entry) http.Header{
		ofRequest:  func(e *Entry) http.Header { return e.Request },
		ofResponse: func(e *Entry) http.Header { return e.Response },
	} {
		header, ok := strings.CutPrefix(name, prefix)
		switch {
		case !ok:
			continue
		case !request.IsToken(header) || header != strings.ToLower(header):
			return field{}, fmt.Errorf("%q does not end in the name of a header field in lower case", name)
		case record.IsSecret(header):
			return field{}, fmt.Errorf("%q may hold credentials", name)
		}
		return field{name, text(headerOf(of, header))}, nil
	}
	return field{}, fmt.Errorf("%q is none of %s, %sNAME and %sNAME", name, strings.Join(slices.Sorted(maps.Keys(fields)), ", "), ofRequest, ofResponse)
}

// headerOf returns a field of a header. Links are told without their queries, in which
// there may be credentials.
func headerOf(of func(*Entry) http.Header, name string) func(*Entry) string {
	canonical := textproto.CanonicalMIMEHeaderKey(name)
	link := slices.Contains([]string{"location", "content-location", "referer", "link"}, name)
	return func(e *Entry) string {
		value := strings.Join(of(e)[canonical], ", ")
		if link {
			return withoutQuery(value)
		}
		return value
	}
}

// fields are those that have a name of their own. Where decision records have the same,
// they have the same name.
var fields = map[string]func([]byte, *Entry) []byte{
	"time": func(b []byte, e *Entry) []byte {
		return append(e.Decision.Time.UTC().AppendFormat(append(b, '"'), "2006-01-02T15:04:05.000000Z07:00"), '"')
	},
	"decision_id": text(func(e *Entry) string { return e.Decision.ID }),
	"trace_id": func(b []byte, e *Entry) []byte {
		if id := e.Decision.Trace; id != ([16]byte{}) {
			return append(hex.AppendEncode(append(b, '"'), id[:]), '"')
		}
		return b
	},
	"decision": text(func(e *Entry) string {
		if e.Decision.Allow {
			return "allow"
		}
		return "deny"
	}),
	"reason":           text((*Entry).reason),
	"status":           number(func(e *Entry) int64 { return int64(e.status()) }),
	"environment":      text(func(e *Entry) string { return e.Decision.Environment }),
	"revision":         number(func(e *Entry) int64 { return e.Decision.Revision }),
	"listener":         text(func(e *Entry) string { return e.Decision.Listener }),
	"client_ip":        address(func(e *Entry) netip.Addr { return e.Decision.ClientIP }),
	"peer_ip":          address(func(e *Entry) netip.Addr { return e.Decision.PeerIP }),
	"tls":              text(func(e *Entry) string { return e.Decision.TLSVersion }),
	"sni":              text(func(e *Entry) string { return e.Decision.ServerName }),
	"protocol":         text(func(e *Entry) string { return e.Decision.Protocol }),
	"method":           text(func(e *Entry) string { return e.Decision.Method }),
	"host":             text(func(e *Entry) string { return e.Decision.Host }),
	"path":             text(func(e *Entry) string { return e.Decision.Path }),
	"query_names":      text(func(e *Entry) string { return queryNames(e.Decision.RawQuery) }),
	"route":            text(func(e *Entry) string { return e.Decision.Route }),
	"policy":           text(func(e *Entry) string { return e.Decision.Policy }),
	"principal":        text(func(e *Entry) string { return e.principal().ID }),
	"principal_kind":   text(func(e *Entry) string { return e.principal().Kind.String() }),
	"principal_issuer": text(func(e *Entry) string { return e.principal().Issuer }),
	"device": text(func(e *Entry) string {
		if e.Decision.Device == nil {
			return ""
		}
		return e.Decision.Device.ID
	}),
	"target":      text(func(e *Entry) string { return e.Outcome.Target }),
	"upstream":    text(func(e *Entry) string { return e.Outcome.Upstream }),
	"endpoint":    text(func(e *Entry) string { return e.Outcome.Endpoint }),
	"sent":        number(func(e *Entry) int64 { return e.Outcome.Sent + e.Said }),
	"received":    number(func(e *Entry) int64 { return e.Outcome.Received }),
	"took_us":     number(func(e *Entry) int64 { return e.Took.Microseconds() }),
	"decision_us": number(func(e *Entry) int64 { return e.Decision.Took.Microseconds() }),
	"upstream_us": number(func(e *Entry) int64 { return e.Answered.Microseconds() }),
	"user_agent":  text(func(e *Entry) string { return e.Request.Get("User-Agent") }),
	"referer":     text(func(e *Entry) string { return withoutQuery(e.Request.Get("Referer")) }),
}

// text leaves out what is empty.
func text(of func(*Entry) string) func([]byte, *Entry) []byte {
	return func(b []byte, e *Entry) []byte {
		v := of(e)
		if v == "" {
			return b
		}
		return record.AppendString(b, v[:min(len(v), maxText)])
	}
}

func number(of func(*Entry) int64) func([]byte, *Entry) []byte {
	return func(b []byte, e *Entry) []byte { return strconv.AppendInt(b, of(e), 10) }
}

func address(of func(*Entry) netip.Addr) func([]byte, *Entry) []byte {
	return func(b []byte, e *Entry) []byte {
		a := of(e)
		if !a.IsValid() {
			return b
		}
		return append(a.WithZone("").AppendTo(append(b, '"')), '"') // a zone may be any text
	}
}

// queryNames are the names of the parameters of a query, without their values, which
// may be secret.
func queryNames(query string) string {
	var b strings.Builder
	for n := 0; query != "" && n < maxQueries; n++ {
		var one string
		one, query, _ = strings.Cut(query, "&")
		name, _, _ := strings.Cut(one, "=")
		if plain, err := url.QueryUnescape(name); err == nil {
			name = plain
		}
		if name == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('&')
		}
		b.WriteString(name)
	}
	return b.String()
}

func withoutQuery(link string) string {
	if i := strings.IndexAny(link, "?#"); i >= 0 {
		return link[:i]
	}
	return link
}

// appendLine writes e as an object. Keys need no escaping: settings name them.
func appendLine(b []byte, of []field, e *Entry) []byte {
	b = append(b, `{"type":"access"`...) // unlike records, which may share the file
	for _, f := range of {
		before := len(b)
		b = append(append(append(b, `,"`...), f.key...), `":`...)
		empty := len(b)
		if b = f.value(b, e); len(b) == empty {
			b = b[:before]
		}
	}
	return append(b, "}\n"...)
}
