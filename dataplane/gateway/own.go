package gateway

import (
	"html/template"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/dataplane/record"
	"github.com/sallyport/sallyport/dataplane/signin"
)

// own is what the gateway says itself, beside or instead of a problem.
type own struct {
	signin.Answer
	page bool // for a person to read
	form bool // with a form to sign out
}

// tell adds what belongs into the header of an answer. A nil own says nothing.
func (o *own) tell(h http.Header) {
	if o == nil {
		return
	}
	if o.Location != "" {
		h["Location"] = []string{o.Location}
	}
	if len(o.Cookies) > 0 {
		h["Set-Cookie"] = o.Cookies
	}
}

// answer says what the gateway allows and does itself, and records it.
func (x *exchange) answer() {
	v := &x.verdict
	h := x.w.Header()
	x.tag(h)
	h["Cache-Control"] = []string{"no-store"}
	v.own.tell(h)
	if v.own.page && v.own.Location == "" {
		x.page(said(v.reason))
	} else {
		h["Content-Length"] = []string{"0"}
		x.w.WriteHeader(v.status)
	}
	now := x.gateway.now()
	x.outcome = record.Outcome{Time: now, ID: x.id, Told: x.told, Target: v.went(), Status: v.status, Took: now.Sub(x.began)}
	x.gateway.record.Finish(&x.outcome)
}

func said(reason string) string {
	if reason == ReasonSigningOut {
		return "Do you want to sign out?"
	}
	return "You are signed out."
}

// pages is what people read. It loads nothing and runs nothing.
var pages = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{.Text}}</title>
<h1>{{.Text}}</h1>
{{if .Form}}<form method="post" action="` + logoutPath + `"><button>Sign out</button></form>
{{else}}<p><a href="/">Go on</a></p>
{{end}}{{if .Reason}}<p>Reason: <code>{{.Reason}}</code>. Decision: <code>{{.ID}}</code>.</p>
{{end}}</html>
`))

func (x *exchange) page(text string) {
	v := &x.verdict
	view := struct {
		Text, Reason, ID string
		Form             bool
	}{Text: text, Form: v.own.form}
	if !v.allow {
		view.Reason, view.ID = v.reason, x.id
	}
	var b strings.Builder
	if err := pages.Execute(&b, view); err != nil {
		panic("gateway: a page has a field that is not there")
	}
	h := x.w.Header()
	h["Content-Type"] = []string{"text/html; charset=utf-8"}
	h["Content-Security-Policy"] = []string{"default-src 'none'; frame-ancestors 'none'; base-uri 'none'"}
	h["X-Content-Type-Options"] = []string{"nosniff"}
	h["Referrer-Policy"] = []string{"same-origin"} // else the form has no Origin
	h["Content-Length"] = []string{strconv.Itoa(b.Len())}
	x.w.WriteHeader(v.status)
	x.said, _ = io.WriteString(x.w, b.String()) // a client that does not hear it has its answer
}

const (
	maxForm  = 32 << 10 // a logout token with its name, and room
	formTime = 5 * time.Second
)

// form reads a body of fields.
func (x *exchange) form() (url.Values, error) {
	media, _, _ := strings.Cut(x.r.Header.Get("Content-Type"), ";")
	if strings.TrimSpace(media) != "application/x-www-form-urlencoded" || x.r.ContentLength > maxForm {
		return nil, errForm
	}
	if err := http.NewResponseController(x.w).SetReadDeadline(time.Now().Add(formTime)); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(x.r.Body, maxForm+1))
	if err != nil || len(b) > maxForm {
		return nil, errForm
	}
	return url.ParseQuery(string(b))
}
