package policy

import (
	"net/netip"
	"time"

	"github.com/sallyport/sallyport/internal/pattern"
)

// RouteID is the key of a route. The zero value is no route.
type RouteID struct{ Namespace, Name string }

// String returns "namespace/name".
func (r RouteID) String() string { return r.Namespace + "/" + r.Name }

// Input is everything a decision may depend on. Method, Host, Path, Query and
// Header are those of the canonical request, which is the one forwarded: a
// spelling that only the upstream would understand must have been refused
// before. Decide reads an Input and keeps nothing of it; it notes in it where the
// client is, and how often it was denied, when a condition asks, so that one with Geo
// or Denials is for one goroutine.
type Input struct {
	Principal   *Principal // nil is anonymous
	Method      string
	Host        string
	Path        string
	Query       string              // raw
	Header      map[string][]string // by canonical name, as net/http has it
	Route       RouteID
	Templates   []pattern.Path // of the route, the most specific first
	RouteLabels map[string]string
	ClientIP    netip.Addr // the zero Addr is unknown
	Geo         Locator    // asked once, if a condition asks; nil knows nothing
	Now         time.Time
	TLSVersion  string // "1.2" or "1.3"; empty without TLS
	ServerName  string
	ALPN        string
	Device      *Device // nil: the request proves none
	Denials     Tally   // asked once, if a condition asks; nil knows nothing
	Ages        Ages

	place  *Place  // what Geo said of ClientIP; nil until it was asked
	denied Denials // what Denials said
}
