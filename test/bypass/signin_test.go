package bypass_test

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/session"
)

// visit is a trick whose honest sibling is no request that an API answers.
type visit struct {
	trick
	passes string // what the honest one comes to
}

func (w *world) visit(t *testing.T, visits []visit) {
	t.Helper()
	for _, c := range visits {
		if got := w.outcome(t, c.sends); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if got := w.outcome(t, c.honest); got != c.passes {
			t.Errorf("the honest sibling of %q: %s, want %s", c.name, got, c.passes)
		}
	}
	t.Logf("%d tricks, each beside its honest sibling", len(visits))
}

// altered is a callback with other parameters; an empty value removes one.
func altered(callback string, pairs ...string) string {
	u := must(url.Parse(callback))
	q := u.Query()
	for i := 0; i < len(pairs); i += 2 {
		if q.Set(pairs[i], pairs[i+1]); pairs[i+1] == "" {
			q.Del(pairs[i])
		}
	}
	u.RawQuery = q.Encode()
	return u.String()
}

func parameter(callback, name string) string { return must(url.Parse(callback)).Query().Get(name) }

const (
	unknown  = "400 sign_in_unknown"
	failed   = "403 sign_in_failed"
	returned = "303 to /app/7"
)

// comesBack is a trick with what somebody comes back from the provider with, whose
// honest sibling, after it, comes back as the provider has said: it is refused
// without anything being used up.
func (p *people) comesBack(t *testing.T, name, want string, how func(who *person, callback string) request) visit {
	t.Helper()
	who := p.browser(alice)
	callback := who.returns(t, "/app/7")
	return visit{trick{name, how(who, callback), want, who.opens(callback)}, returned}
}

// callbacks are tricks with the query that a browser comes back with.
func (p *people) callbacks(t *testing.T) (all []visit) {
	query := func(name, want string, pairs ...string) {
		all = append(all, p.comesBack(t, name, want, func(who *person, callback string) request {
			return who.opens(altered(callback, pairs...))
		}))
	}
	behind := func(name, want, more string) {
		all = append(all, p.comesBack(t, name, want, func(who *person, callback string) request { return who.opens(callback + more) }))
	}
	state := func(name string, change func(string) string) {
		all = append(all, p.comesBack(t, name, unknown, func(who *person, callback string) request {
			return who.opens(altered(callback, "state", change(parameter(callback, "state"))))
		}))
	}
	state("no state", func(string) string { return "" })
	state("another state", func(string) string { return strings.Repeat("A", 26) })
	state("a state that begins like ours", func(s string) string { return s[:8] + strings.Repeat("A", 18) })
	state("a state that is cut", func(s string) string { return s[:8] })
	state("a state that goes on", func(s string) string { return s + "A" })
	state("a state in lower case", strings.ToLower)
	state("a state with a zero", func(s string) string { return s + "\x00" })
	behind("two states", unknown, "&state="+strings.Repeat("A", 26))
	behind("a query that cannot be read", unknown, "&a;b")
	query("no code", failed, "code", "")
	query("a code that is made up", failed, "code", "x")
	behind("two codes", failed, "&code=x")
	query("an answer of another provider", failed, "iss", "https://mallory.example")
	behind("answers of two providers", failed, "&iss="+url.QueryEscape(p.openID.issuer)+"&iss=https://mallory.example")
	query("a refusal", "403 sign_in_refused", "error", "access_denied")
	all = append(all, p.comesBack(t, "another method", "405 method_not_allowed", func(who *person, callback string) request {
		r := who.opens(callback)
		r.method = "POST"
		return r
	}))
	return all
}

// pendings are tricks with the cookie of a sign-in that is under way.
func (p *people) pendings(t *testing.T) (all []visit) {
	cookie := func(name, want string, pairs func(name, value string) []string) {
		all = append(all, p.comesBack(t, name, want, func(who *person, callback string) request {
			return who.with(pairs(who.pending(t))...).opens(callback)
		}))
	}
	value := func(name string, change func(string) string) {
		cookie(name, unknown, func(name, v string) []string { return []string{name, change(v)} })
	}
	named := func(name string, change func(string) string) {
		cookie(name, unknown, func(name, v string) []string { return []string{change(name), v} })
	}
	named("its name without the prefix", func(s string) string { return strings.TrimPrefix(s, "__Host-") })
	named("its name with the prefix that other hosts can set", func(s string) string { return strings.Replace(s, "__Host-", "__Secure-", 1) })
	named("its name in other case", strings.ToLower)
	named("its name of another state", func(string) string { return pendingPrefix + "AAAAAAAA" })
	named("the name of a session", func(string) string { return sessionCookie })
	value("empty", func(string) string { return "" })
	value("cut", func(s string) string { return s[:len(s)-1] })
	value("with a letter changed", func(s string) string { return s[:60] + map[bool]string{true: "B", false: "A"}[s[60] == 'A'] + s[61:] })
	value("in quotes", func(s string) string { return `"` + s + `"` })
	cookie("twice, another first", unknown, func(name, v string) []string { return []string{name, "planted; " + name + "=" + v} })
	cookie("twice, another last", unknown, func(name, v string) []string { return []string{name, v + "; " + name + "=planted"} })

	signed, begun, local, far := p.browser(alice), p.browser(mallory), p.browser(alice), p.browser(alice)
	session := signed.signsIn(t, "/app/7")
	local.host, far.proxy = "localhost", p.Members[1]
	value("a session", func(string) string { return session })
	begun.begins(t, "/app/7")
	_, planted := begun.pending(t)
	value("one that another has begun", func(string) string { return planted })
	for name, who := range map[string]*person{"begun at another host": local, "begun at another environment": far} {
		callback := who.returns(t, "/app/7")
		here := who.opens(callback)
		here.host, here.proxy = "127.0.0.1", p.Members[0]
		all = append(all, visit{trick{name, here, unknown, who.opens(callback)}, returned})
	}
	return all
}

// resealed are tricks with what is sealed in such a cookie, for which somebody
// needs the keys: that each of it is needed is to be seen nowhere else. It is sealed
// unchanged for the honest siblings, which need a code of their own.
func (p *people) resealed(t *testing.T) (all []visit) {
	type fields = map[string]any
	seal := func(change fields) request {
		who := p.browser(alice)
		callback, ring := who.returns(t, "/app/7"), p.ring(t, who.proxy)
		name, value := who.pending(t)
		says := fields{}
		if err := json.Unmarshal(must(ring.Open(session.Pending, who.host, value)), &says); err != nil {
			t.Fatal(err)
		}
		for field := range change {
			if _, ok := says[field]; !ok {
				t.Fatalf("%q is not among %q", field, slices.Sorted(maps.Keys(says)))
			}
		}
		maps.Copy(says, change)
		sealed := must(ring.Seal(session.Pending, who.host, must(json.Marshal(says)), time.Now()))
		return who.with(name, sealed).opens(callback)
	}
	says := func(name, want string, change, honest fields) {
		all = append(all, visit{trick{name, seal(change), want, seal(honest)}, returned})
	}
	began := func(ago time.Duration) fields { return fields{"b": time.Now().Add(-ago)} }
	says("too long ago", unknown, began(session.PendingTime+time.Second), began(session.PendingTime-time.Minute))
	says("in the future", unknown, began(-time.Hour), began(0))
	says("another state", unknown, fields{"s": strings.Repeat("A", 26)}, nil)
	says("no verifier", failed, fields{"v": ""}, nil)
	says("another verifier", failed, fields{"v": strings.Repeat("A", 43)}, nil)
	says("no nonce", failed, fields{"n": ""}, nil)
	says("another nonce", failed, fields{"n": strings.Repeat("A", 26)}, nil)
	says("another redirect URI", failed, fields{"r": "https://mallory.example" + callbackPath}, nil)
	says("another provider", unknown, fields{"p": "bypass/staff"}, nil)
	says("a page where nobody signs in", unknown, fields{"t": "/token/7"}, nil)
	says("a page of another provider", unknown, fields{"t": "/staff/7"}, nil)
	says("a page elsewhere", unknown, fields{"t": "//mallory.example/"}, nil)
	return all
}

// comes is somebody who comes back from the provider as they should.
func (p *people) comes(t *testing.T, user string) request {
	t.Helper()
	who := p.browser(user)
	return who.opens(who.returns(t, "/app/7"))
}

// logins are tricks that mix the sign-ins of two people, in two browsers.
func (p *people) logins(t *testing.T) (all []visit) {
	mixed := func(name, want string, sends request) {
		all = append(all, visit{trick{name, sends, want, p.comes(t, alice)}, returned})
	}
	victim, attacker := p.browser(alice), p.browser(mallory)
	theirs, his := victim.returns(t, "/app/7"), attacker.returns(t, "/app/7")
	mixed("his answer, in a browser that has begun nothing", unknown, p.browser(alice).opens(his))
	mixed("his answer, in a browser that has begun itself", unknown, victim.opens(his))
	mixed("his code with their state", failed, victim.opens(altered(theirs, "code", parameter(his, "code"))))
	mixed("their answer, in his browser", unknown, attacker.opens(theirs))

	victim, attacker = p.browser(alice), p.browser(mallory)
	theirs, his = victim.returns(t, "/app/7"), attacker.returns(t, "/app/7")
	mixed("their code with his state", failed, attacker.opens(altered(his, "code", parameter(theirs, "code"))))

	// Their sign-in began in his browser: he has sent them the address.
	lured := p.browser(mallory)
	back := p.openID.signIn(t, lured.begins(t, "/app/7"), alice).RequestURI()
	mixed("his state, with which they have signed in", unknown, p.browser(alice).opens(back))

	// What the provider is asked for was changed on its way.
	asked := func(name, want string, parameters ...string) {
		who := p.browser(alice)
		address := altered(who.begins(t, "/app/7"), parameters...)
		mixed(name, want, who.opens(p.openID.signIn(t, address, alice).RequestURI()))
	}
	asked("asked without a nonce", failed, "nonce", "")
	asked("asked with another nonce", failed, "nonce", "x")
	asked("asked without a state", unknown, "state", "")
	asked("asked with another challenge", failed, "code_challenge", strings.Repeat("A", 43))

	// A code that needs no verifier still answers another nonce.
	victim, attacker = p.browser(alice), p.browser(mallory)
	theirs = victim.returns(t, "/app/7")
	weak := altered(attacker.begins(t, "/app/7"), "code_challenge", "", "code_challenge_method", "")
	code := p.openID.signIn(t, weak, mallory).Query().Get("code")
	mixed("his code, for which he has not asked with PKCE", failed, victim.opens(altered(theirs, "code", code)))
	return all
}

// replays are tricks with an answer of the provider that was here before.
func (p *people) replays(t *testing.T) (all []visit) {
	who := p.browser(alice)
	callback := who.returns(t, "/app/7")
	kept := who.with(who.pending(t))
	if got := who.goes(t, callback).outcome(t); got != returned {
		t.Errorf("the first time: %s", got)
	}
	for _, c := range []struct {
		name, want string
		from       *person
	}{
		{"by the browser itself", unknown, who},
		{"by another browser", unknown, p.browser(mallory)},
		{"with the cookie that was removed", failed, kept},
		{"with that cookie, and the session", failed, kept.and(sessionCookie, who.cookies[sessionCookie])},
	} {
		all = append(all, visit{trick{c.name, c.from.opens(callback), c.want, p.comes(t, alice)}, returned})
	}
	return all
}

// planted are tricks with a session that was in the browser before somebody signs
// in: whoever has planted it has what they had before.
func (p *people) planted(t *testing.T) []trick {
	attacker, ended := p.browser(mallory), p.browser(mallory)
	attacker.signsIn(t, "/app/7")
	ended.signsIn(t, "/app/7")
	leave := ended.asks(logoutPath, "Sec-Fetch-Site: same-origin")
	leave.method = "POST"
	if got := p.outcome(t, leave); !strings.HasPrefix(got, "303 to ") {
		t.Fatalf("signing out: %s", got)
	}
	after := func(name, value, want string) trick {
		begins := p.browser(alice)
		callback := begins.returns(t, "/app/7") // with a session that is good nobody is sent there
		victim := begins.and(sessionCookie, value)
		if got := victim.goes(t, callback).outcome(t); got != returned {
			t.Errorf("%s: the victim comes back: %s", name, got)
		}
		ring := p.ring(t, victim.proxy)
		if before, err := session.Open(ring, victim.host, value); err == nil {
			if now := must(session.Open(ring, victim.host, victim.cookies[sessionCookie])); now.ID == before.ID {
				t.Errorf("%s: the victim's session is the one that was planted", name)
			}
		}
		return trick{name, victim.with(sessionCookie, value).asks("/app/7"), want, victim.asks("/app/7")}
	}
	return []trick{
		after("a name of his choice", "planted", "401 session_invalid"),
		after("nothing", "", "401 session_invalid"),
		after("his own session", attacker.cookies[sessionCookie], "403 no_matching_policy"),
		after("a session of his that has ended", ended.cookies[sessionCookie], "401 session_ended"),
	}
}

// elsewhere are tricks to have somebody sent away from the host.
func (p *people) elsewhere(t *testing.T) (all []visit) {
	who := p.browser(alice)
	honest := who.opens("/app/7?next=https://mallory.example/")
	for path, want := range map[string]string{
		"//mallory.example/":                                 "path_empty_segment",
		"///mallory.example/":                                "path_empty_segment",
		"/app//mallory.example/":                             "path_empty_segment",
		`/\mallory.example/`:                                 "path_invalid_byte",
		"/%5cmallory.example/":                               "path_ambiguous_escape",
		"/%2fmallory.example/":                               "path_ambiguous_escape",
		"/%09/mallory.example/":                              "path_control_byte",
		"/app/%0d%0aLocation:%20https://mallory.example/":    "path_control_byte",
		"/app/../mallory.example/":                           "path_dot_segment",
		"https://mallory.example/app/7":                      "target_absolute_form",
		"mallory.example:443":                                "target_authority_form",
		"/app/7#//mallory.example/":                          "target_fragment",
		"/app/7?next=\r\nLocation: https://mallory.example/": "request_line",
	} {
		all = append(all, visit{trick{path, who.opens(path), "400 " + want, honest}, "302 sign_in_required"})
	}
	all = append(all, visit{trick{"two hosts", who.opens("/app/7", "Host: mallory.example"), "400 host_ambiguous", honest}, "302 sign_in_required"})
	return all
}

// The way there and back is the host's own, whatever a request says of it.
func (p *people) waysBack(t *testing.T) {
	tried := 0
	for _, header := range []string{
		"X-Forwarded-Host: mallory.example", "Forwarded: host=mallory.example", "X-Original-Host: mallory.example",
		"X-Forwarded-Proto: http", "X-Forwarded-Port: 1", "Origin: https://mallory.example", "Referer: https://mallory.example/",
	} {
		tried++
		who := p.browser(alice)
		a := who.goes(t, "/app/7", header)
		if got, want := parameter(a.header.Get("Location"), "redirect_uri"), p.url(who.asks("")).String()+callbackPath; got != want {
			t.Errorf("%s: sent back to %q", header, got)
		}
	}
	for _, path := range []string{"/app/7?next=https://mallory.example/", "/app/7?//mallory.example/", "/app/@mallory.example", "/app/7?next=%0d%0aLocation:x"} {
		tried++
		p.browser(alice).signsIn(t, path)
	}
	for _, more := range []string{"&next=//mallory.example/", "&target=//mallory.example/", "&redirect_uri=https://mallory.example/", "&t=//mallory.example/"} {
		tried++
		r := p.comes(t, alice)
		r.path += more
		if got := p.outcome(t, r); got != returned {
			t.Errorf("%s: %s", more, got)
		}
	}
	t.Logf("%d ways back that stay at the host", tried)
}

// cutOff are tricks of somebody who is revoked: they do not get another session.
func (p *people) cutOff(t *testing.T) []visit {
	his := p.comes(t, mallory)
	p.revoke(t, "subject: {issuer: \""+p.openID.issuer+"\", id: id2}")
	return []visit{
		{trick{"comes back", his, "401 revoked", p.comes(t, alice)}, returned},
		{trick{"signs in again", p.comes(t, mallory), "401 revoked", p.comes(t, alice)}, returned},
	}
}
