package authn

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/token"
)

// Introspection is how an issuer is asked for its tokens (RFC 7662). All fields
// but Timeout and Cache are required.
type Introspection struct {
	Endpoint string
	ClientID string
	// ClientSecretFile is read for each question: it may be renewed.
	ClientSecretFile string
	Timeout          time.Duration // for one answer; 2 s when zero
	// Cache is for how long "active" counts, the token's expiry at most; 60 s when
	// zero, not at all when negative.
	Cache time.Duration
}

const (
	// maxQuestions bounds what is asked of one issuer at a time, and maxFlights
	// that and what waits to be asked.
	maxQuestions, maxFlights = 32, 256
	// refusalLasts is for how long an issuer is not asked again for a token that
	// it has refused.
	refusalLasts = 5 * time.Second
	// maxSecret bounds a client secret. With the form of secrets it keeps an
	// endpoint from being sent much else that a proxy can read.
	maxSecret = 256
)

// The results of a question, as its metric names them, beside those of a fetch.
const (
	askedActive   = "active"
	askedInactive = "inactive"
	askedBusy     = "busy"   // too many questions at a time
	askedSecret   = "secret" // the file of the client secret cannot be read
)

var errBusy = &fetchError{askedBusy, errors.New("too many questions at a time")}

// introspector asks one issuer. A token is asked for once at a time, whoever
// brings it; answers that are good are for the caller to remember.
type introspector struct {
	name    string
	spec    Introspection
	rules   token.Rules
	client  *http.Client
	log     *slog.Logger
	metrics *metrics

	slots chan struct{} // one for each question under way

	reviews chan *review

	mu      sync.Mutex
	flights map[digest]*flight
	waiting int
	refused refusals
	failing bool // the last question was not answered
}

type digest [sha256.Size]byte

// flight is a question under way. Its outcome may be read when done is closed.
type flight struct {
	done chan struct{}
	body []byte
	err  error
}

func (p *Pool) newIntrospector(v *provider) (*introspector, error) {
	spec := *v.spec.Introspection
	if spec.ClientID == "" || spec.ClientSecretFile == "" {
		return nil, errors.New("introspection needs a client ID and the file of its secret")
	}
	if err := checkURL(spec.Endpoint, v.spec.AllowPrivateAddresses); err != nil {
		return nil, fmt.Errorf("endpoint of introspection: %w", err)
	}
	spec.Timeout, spec.Cache = or(spec.Timeout, 2*time.Second), or(spec.Cache, time.Minute)
	// What brings tokens and a secret does not follow anybody elsewhere.
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &introspector{
		name: v.name, spec: spec, rules: v.rules, log: p.log, metrics: p.metrics,
		client: &http.Client{Transport: p.fetcher.transport(v.spec.AllowPrivateAddresses), CheckRedirect: stay},
		slots:  make(chan struct{}, maxQuestions), reviews: make(chan *review, maxReviews), flights: make(map[digest]*flight), refused: newRefusals(),
	}, nil
}

// claims returns what the issuer says of a token that only it understands, and
// until when that counts.
func (i *introspector) claims(ctx context.Context, raw string, now time.Time) (*token.Claims, time.Time, Reason) {
	var c *token.Claims
	reason := i.judge(ctx, raw, now, func(body []byte) (err error) {
		c, err = token.ReadIntrospection(body, i.rules, now)
		return err
	})
	if reason != "" {
		return nil, time.Time{}, reason
	}
	return c, earlier(now.Add(i.spec.Cache), c.Expires), ""
}

// active returns until when a token counts whose claims are known. A nil
// introspector cannot say.
func (i *introspector) active(ctx context.Context, raw string, now time.Time) (time.Time, Reason) {
	if i == nil {
		return time.Time{}, IntrospectionUnavailable
	}
	reason := i.judge(ctx, raw, now, token.ReadActive)
	return now.Add(i.spec.Cache), reason
}

// judge asks for the token, unless it was refused a moment ago, and has the
// answer read.
func (i *introspector) judge(ctx context.Context, raw string, now time.Time, read func([]byte) error) Reason {
	key := digest(sha256.Sum256([]byte(raw)))
	i.mu.Lock()
	known := i.refused.get(key, now)
	i.mu.Unlock()
	if known != "" {
		return known
	}
	body, err := i.ask(ctx, key, raw)
	if err == nil {
		err = read(body)
	}
	if err == nil {
		return ""
	}
	if _, refused := errors.AsType[*token.Error](err); !refused {
		return IntrospectionUnavailable
	}
	if i.spec.Cache > 0 {
		i.mu.Lock()
		i.refused.put(key, tokenReason(err), now.Add(refusalLasts))
		i.mu.Unlock()
	}
	return tokenReason(err)
}

// ask returns the answer to a question that has one: a body that ReadActive
// accepts, or the *token.Error that it makes of it.
func (i *introspector) ask(ctx context.Context, key digest, raw string) ([]byte, error) {
	f, first := i.board(key)
	switch {
	case f == nil:
		i.metrics.introspected(i.name, askedBusy)
		return nil, errBusy
	case first:
		// Others may wait for the answer when this client has gone.
		f.body, f.err = i.question(context.WithoutCancel(ctx), raw)
		i.land(key, f)
		return f.body, f.err
	}
	defer i.leave()
	select {
	case <-f.done:
		return f.body, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// board returns the flight of a token and whether the caller has to fly it; nil
// when there is no room.
func (i *introspector) board(key digest) (f *flight, first bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if f := i.flights[key]; f != nil {
		if i.waiting >= maxWaiters {
			return nil, false
		}
		i.waiting++
		return f, false
	}
	if len(i.flights) >= maxFlights {
		return nil, false
	}
	f = &flight{done: make(chan struct{})}
	i.flights[key] = f
	return f, true
}

func (i *introspector) leave() {
	i.mu.Lock()
	i.waiting--
	i.mu.Unlock()
}

// land publishes the outcome of a flight, and says in the log when answers begin
// or cease to come.
func (i *introspector) land(key digest, f *flight) {
	result := askedActive
	_, refused := errors.AsType[*token.Error](f.err)
	switch {
	case refused:
		result = askedInactive
	case f.err != nil:
		result = resultOf(f.err)
	}
	i.metrics.introspected(i.name, result)
	failing := f.err != nil && !refused
	i.mu.Lock()
	delete(i.flights, key)
	changed := failing != i.failing
	i.failing = failing
	i.mu.Unlock()
	close(f.done)
	switch {
	case changed && failing:
		i.log.Warn("tokens cannot be introspected", "provider", i.name, "result", result, "err", f.err)
	case changed:
		i.log.Info("tokens can be introspected again", "provider", i.name)
	}
}

func (i *introspector) question(ctx context.Context, raw string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, i.spec.Timeout)
	defer cancel()
	select {
	case i.slots <- struct{}{}:
		defer func() { <-i.slots }()
	case <-ctx.Done():
		return nil, errBusy
	}
	req, err := i.request(ctx, raw)
	if err != nil {
		return nil, err
	}
	got, err := exchange(i.client, req, token.MaxIntrospectionSize)
	if err != nil {
		return nil, err
	}
	return got.body, token.ReadActive(got.body)
}

func (i *introspector) request(ctx context.Context, raw string) (*http.Request, error) {
	secret, err := readSecret(i.spec.ClientSecretFile)
	if err != nil {
		return nil, &fetchError{askedSecret, err}
	}
	form := url.Values{"token": {raw}, "token_type_hint": {"access_token"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, i.spec.Endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, unreachable(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	// RFC 6749 §2.3.1 encodes both as in a form before RFC 7617 encodes them.
	req.SetBasicAuth(url.QueryEscape(i.spec.ClientID), url.QueryEscape(secret))
	return req, nil
}

// readSecret returns what a file holds, less a line break at its end: a secret of
// the form that RFC 6749 appendix A.2 has, and nothing else that an endpoint
// would be told.
func readSecret(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+3))
	if err != nil {
		return "", err
	}
	secret := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	strange := func(r rune) bool { return r < ' ' || r > '~' }
	if secret == "" || len(secret) > maxSecret || strings.ContainsFunc(secret, strange) {
		return "", fmt.Errorf("file holds no client secret: a line of at most %d printable ASCII characters", maxSecret)
	}
	return secret, nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
