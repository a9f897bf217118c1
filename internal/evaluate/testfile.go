package evaluate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/resource"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
)

// Bounds of a file of tests.
const (
	MaxTestFile = 1 << 20 // bytes
	maxTests    = 2000
)

// TestSuffixes are what names of files of tests end with.
var TestSuffixes = []string{"_test.yaml", "_test.yml"}

// Test is one test of a file.
type Test struct {
	File        string
	Line        int
	Name        string
	Environment string // empty for that of the run

	given  given
	expect expect
}

// testFile is a file of tests as it is written.
type testFile struct {
	Environment string     `yaml:"environment"`
	Tests       []testCase `yaml:"tests"`
}

type testCase struct {
	Name   string `yaml:"name"`
	Given  given  `yaml:"given"`
	Expect expect `yaml:"expect"`
}

type given struct {
	Principal *somebody `yaml:"principal"`
	Request   asked     `yaml:"request"`
	Signals   signals   `yaml:"signals"`
}

// somebody is who asks, as authenticated.
type somebody struct {
	Kind            string         `yaml:"kind"`
	ID              string         `yaml:"id"`
	Issuer          string         `yaml:"issuer"`
	SPIFFEID        string         `yaml:"spiffeId"`
	Groups          []string       `yaml:"groups"`
	Scopes          []string       `yaml:"scopes"`
	Claims          map[string]any `yaml:"claims"`
	Provider        string         `yaml:"provider"`
	Key             string         `yaml:"key"`
	ACR             string         `yaml:"acr"`
	AMR             []string       `yaml:"amr"`
	AuthenticatedAt *time.Time     `yaml:"authenticatedAt"`
}

type asked struct {
	Method  string            `yaml:"method"`
	Host    string            `yaml:"host"`
	Path    string            `yaml:"path"`
	Headers map[string]string `yaml:"headers"`
}

type signals struct {
	IP   string     `yaml:"ip"`
	Time *time.Time `yaml:"time"`
	TLS  *handshake `yaml:"tls"`
	Geo  *place     `yaml:"geo"`

	Device  *machine `yaml:"device"`
	Denials *counts  `yaml:"denials"`

	ConfigurationAge *time.Duration `yaml:"configurationAge"`
	SecurityAge      *time.Duration `yaml:"securityAge"`
}

// machine is the device that is proven. What is left out is not known of it.
type machine struct {
	ID            string     `yaml:"id"`
	OS            string     `yaml:"os"`
	OSVersion     string     `yaml:"osVersion"`
	Owner         string     `yaml:"owner"`
	DiskEncrypted *bool      `yaml:"diskEncrypted"`
	ScreenLock    *bool      `yaml:"screenLock"`
	Compliant     *bool      `yaml:"compliant"`
	Managed       *bool      `yaml:"managed"`
	LastSeen      *time.Time `yaml:"lastSeen"`
	ExpiresAt     *time.Time `yaml:"expiresAt"`
}

func (m *machine) message() *decisionv1.Device {
	if m == nil {
		return nil
	}
	d := &decisionv1.Device{
		Id: m.ID, Os: m.OS, OsVersion: m.OSVersion, Owner: m.Owner,
		DiskEncrypted: m.DiskEncrypted, ScreenLock: m.ScreenLock, Compliant: m.Compliant, Managed: m.Managed,
	}
	if m.LastSeen != nil {
		d.LastSeen = timestamppb.New(*m.LastSeen)
	}
	if m.ExpiresAt != nil {
		d.ExpiresAt = timestamppb.New(*m.ExpiresAt)
	}
	return d
}

// counts is how often requests were denied.
type counts struct {
	Principal *int64 `yaml:"principal"`
	Address   *int64 `yaml:"address"`
}

// place is where the client is.
type place struct {
	Country      string `yaml:"country"`
	Continent    string `yaml:"continent"`
	City         string `yaml:"city"`
	ASN          int64  `yaml:"asn"`
	Organization string `yaml:"asOrganization"`

	// How the address hides who uses it; what is left out is no such thing, where
	// one of them is given.
	Anonymous *bool `yaml:"anonymous"`
	VPN       *bool `yaml:"vpn"`
	Hosting   *bool `yaml:"hosting"`
	Tor       *bool `yaml:"tor"`
	Proxy     *bool `yaml:"proxy"`

	Built *time.Time `yaml:"built"` // the oldest of the databases
}

func (p *place) message() *decisionv1.Geo {
	if p == nil {
		return nil
	}
	g := &decisionv1.Geo{
		Country: p.Country, Continent: p.Continent, City: p.City, Asn: p.ASN, AsOrganization: p.Organization,
	}
	ways := [...]*bool{p.VPN, p.Hosting, p.Tor, p.Proxy, p.Anonymous}
	is := func(b *bool) bool { return b != nil && *b }
	if slices.ContainsFunc(ways[:], func(b *bool) bool { return b != nil }) {
		g.Anonymity = &decisionv1.Anonymity{
			Anonymous: slices.ContainsFunc(ways[:], is), Vpn: is(p.VPN), Hosting: is(p.Hosting), Tor: is(p.Tor), Proxy: is(p.Proxy),
		}
	}
	if p.Built != nil {
		g.Databases = []*decisionv1.GeoDatabase{{Built: timestamppb.New(*p.Built)}}
	}
	return g
}

type handshake struct {
	Version string `yaml:"version"`
	SNI     string `yaml:"sni"`
	ALPN    string `yaml:"alpn"`
}

// expect is the answer. Policy and Reason, where they are given, are looked at too.
type expect struct {
	Decision string `yaml:"decision"`
	Policy   string `yaml:"policy"`
	Reason   string `yaml:"reason"`
}

// ParseTests reads a file of tests. Problems are at their lines of the file.
func ParseTests(name string, text []byte) (tests []Test, problems resource.Problems) {
	refuse := func(line int, message string) {
		problems.Add(resource.Problem{Resource: name, Line: max(line, 1), Column: 1, Reason: resource.ReasonInvalidValue, Message: message})
	}
	if len(text) > MaxTestFile {
		refuse(1, "is larger than 1 MiB")
		return nil, problems
	}
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		refuse(complaint(err.Error()))
		return nil, problems
	}
	if line := aliased(&root); line > 0 {
		refuse(line, "anchors and aliases are not taken: say it where it is meant")
		return nil, problems
	}
	var f testFile
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	var wrong *yaml.TypeError
	switch err := d.Decode(&f); {
	case errors.As(err, &wrong):
		for _, one := range wrong.Errors {
			refuse(complaint(one))
		}
	case err != nil && !errors.Is(err, io.EOF):
		refuse(complaint(err.Error()))
	case d.Decode(&yaml.Node{}) == nil:
		refuse(1, "holds a second document")
	case len(f.Tests) == 0 || len(f.Tests) > maxTests:
		refuse(1, fmt.Sprintf("tests: there are %d; a file has from 1 to %d", len(f.Tests), maxTests))
	}
	if problems.Total > 0 {
		return nil, problems
	}
	lines := linesOf(&root)
	for i, c := range f.Tests {
		t := Test{File: name, Line: lines[i], Name: c.Name, Environment: f.Environment, given: c.Given, expect: c.Expect}
		for _, message := range t.faults() {
			refuse(t.Line, message)
		}
		tests = append(tests, t)
	}
	return tests, problems
}

// aliased returns the line of an anchor or alias, 0 if there is none.
func aliased(n *yaml.Node) int {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		return n.Line
	}
	for _, inner := range n.Content {
		if line := aliased(inner); line > 0 {
			return line
		}
	}
	return 0
}

// linesOf returns where the tests of a well-formed file begin.
func linesOf(root *yaml.Node) (lines []int) {
	top := root.Content[0].Content
	for i := 0; i+1 < len(top); i += 2 {
		if top[i].Value == "tests" {
			for _, one := range top[i+1].Content {
				lines = append(lines, one.Line)
			}
		}
	}
	return lines
}

var (
	atLine  = regexp.MustCompile(`^(?:yaml: )?(?:unmarshal errors:\s*)?line (\d+): `)
	noField = regexp.MustCompile(`field (\S+) not found in type \S+`)
	noType  = regexp.MustCompile(`cannot unmarshal !!(\w+) (.*)into \S+`)
)

// complaint is the parser's text in our words, and where it is about.
func complaint(text string) (line int, message string) {
	if at := atLine.FindStringSubmatch(text); at != nil {
		line, _ = strconv.Atoi(at[1])
		text = text[len(at[0]):]
	}
	text = noField.ReplaceAllString(text, `there is no field "$1"`)
	return line, strings.TrimPrefix(noType.ReplaceAllString(text, "a $1 cannot stand here: $2"), "yaml: ")
}

func (t *Test) faults() (all []string) {
	if t.Name == "" {
		all = append(all, "a test has a name")
	}
	if t.expect.Decision != "allow" && t.expect.Decision != "deny" {
		all = append(all, fmt.Sprintf("expect.decision is allow or deny, not %q", t.expect.Decision))
	}
	if t.given.Request.Host == "" {
		all = append(all, "given.request.host: which host is asked?")
	}
	m, err := t.given.question()
	if err == nil {
		_, err = Describe(m, time.Time{})
	}
	if err != nil {
		all = append(all, "given."+err.Error())
	}
	return all
}

// question is what is given, as one would ask the control plane.
func (g *given) question() (*adminv1.Question, error) {
	q := &adminv1.Question{Method: g.Request.Method, Host: g.Request.Host, Path: g.Request.Path, Signals: &decisionv1.Signals{}}
	for name, value := range g.Request.Headers {
		q.Headers = append(q.Headers, &decisionv1.Header{Name: name, Value: value})
	}
	if g.Signals.IP != "" {
		q.Signals.Ip = &decisionv1.Address{Address: g.Signals.IP}
	}
	if g.Signals.Time != nil {
		q.Time = timestamppb.New(*g.Signals.Time)
	}
	if h := g.Signals.TLS; h != nil {
		q.Signals.Tls = &decisionv1.TLS{Version: h.Version, Sni: h.SNI, Alpn: h.ALPN}
	}
	q.Signals.Geo = g.Signals.Geo.message()
	q.Signals.Device = g.Signals.Device.message()
	if d := g.Signals.Denials; d != nil {
		q.Signals.Denials = &decisionv1.Denials{Principal: d.Principal, Address: d.Address}
	}
	if age := g.Signals.ConfigurationAge; age != nil {
		q.Signals.ConfigurationAge = durationpb.New(*age)
	}
	if age := g.Signals.SecurityAge; age != nil {
		q.Signals.SecurityAge = durationpb.New(*age)
	}
	var err error
	q.Principal, err = g.Principal.message()
	return q, err
}

func (w *somebody) message() (*decisionv1.Principal, error) {
	if w == nil {
		return nil, nil //nolint:nilnil // nobody
	}
	p := &decisionv1.Principal{
		Kind: w.Kind, Id: w.ID, Issuer: w.Issuer, SpiffeId: w.SPIFFEID, Groups: w.Groups, Scopes: w.Scopes, Provider: w.Provider,
		Key: w.Key, Acr: w.ACR, Amr: w.AMR,
	}
	if w.AuthenticatedAt != nil {
		p.AuthenticatedAt = timestamppb.New(*w.AuthenticatedAt)
	}
	if len(w.Claims) > 0 {
		claims, err := json.Marshal(w.Claims)
		if err != nil {
			return nil, errors.New("principal.claims: is nothing that JSON could say")
		}
		p.Claims = string(claims)
	}
	return p, nil
}
