package gateway

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"

	"github.com/sallyport/sallyport/dataplane/signin"
	"github.com/sallyport/sallyport/dataplane/upstream"
	"github.com/sallyport/sallyport/internal/authn"
)

// problem is the body of a refusal (RFC 9457). It tells the client what to ask
// about; the grounds are in the decision record.
type problem struct {
	Type       string `json:"type"`
	Title      string `json:"title"`
	Status     int    `json:"status"`
	Detail     string `json:"detail"`
	Reason     string `json:"reason"`
	DecisionID string `json:"decision_id"`
	Revision   int64  `json:"revision,omitempty"`

	Errors []difference `json:"errors,omitempty"` // from the schema of the route
}

// maxPause is after how many seconds, at most, clients may come again that were too
// many: not all at once.
const maxPause = 3

// refuse answers a request that is not let through, or that got no answer.
func (x *exchange) refuse() {
	v := &x.verdict
	if v.reason == ReasonOverloaded {
		x.gateway.overload.Hold()
	}
	h := x.w.Header()
	x.tag(h)
	h["Cache-Control"] = []string{"no-store"}
	if v.challenge != "" {
		h["Www-Authenticate"] = []string{v.challenge}
	}
	if v.reason == string(upstream.Overloaded) {
		h["Retry-After"] = []string{"1"} // by then much of what there is to do has ended
	}
	if v.reason == ReasonOverloaded {
		h["Retry-After"] = []string{strconv.Itoa(1 + rand.IntN(maxPause))} //nolint:gosec // it spreads load, and protects nothing
	}
	v.own.tell(h)
	if len(v.methods) > 0 {
		h["Allow"] = []string{strings.Join(v.methods, ", ")}
	}
	if x.r.ProtoMajor == 2 && isGRPC(x.r.Header) {
		x.refuseGRPC()
		return
	}
	if v.own != nil && v.own.page {
		x.page(inWords(v))
		return
	}
	p := problem{
		Type: "urn:sallyport:problem:" + v.reason, Title: http.StatusText(v.status), Status: v.status,
		Detail: inWords(v), Reason: v.reason, DecisionID: x.id, Errors: differences(x.differs),
	}
	if x.state.table != nil {
		p.Revision = int64(x.state.table.Head().Revision)
	}
	body, err := json.Marshal(p)
	if err != nil {
		panic("gateway: a problem has a field that JSON does not know")
	}
	h["Content-Type"] = []string{"application/problem+json"}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	x.w.WriteHeader(v.status)
	x.said, _ = x.w.Write(body) // a client that does not hear it has its answer
}

// refuseGRPC answers in trailers alone, as gRPC over HTTP/2 asks for.
func (x *exchange) refuseGRPC() {
	v := &x.verdict
	h := x.w.Header()
	h["Content-Type"] = []string{"application/grpc"}
	h["Grpc-Status"] = []string{strconv.Itoa(grpcStatus(v.status))}
	h["Grpc-Message"] = []string{v.reason + ": " + inWords(v) + " (decision " + x.id + ")"}
	x.w.WriteHeader(http.StatusOK)
}

// breakOffGRPC ends an answer that has begun with trailers that say why.
func (x *exchange) breakOffGRPC(f failure) {
	h := x.w.Header()
	for name := range h {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			delete(h, name)
		}
	}
	h[http.TrailerPrefix+"Grpc-Status"] = []string{strconv.Itoa(grpcStatus(f.status))}
	h[http.TrailerPrefix+"Grpc-Message"] = []string{f.reason + ": The call was cut off (decision " + x.id + ")"}
}

func isGRPC(h http.Header) bool {
	for _, value := range h["Content-Type"] {
		if rest, ok := strings.CutPrefix(value, "application/grpc"); ok && (rest == "" || rest[0] == '+' || rest[0] == ';') {
			return true
		}
	}
	return false
}

// grpcStatus translates as gRPC's own mapping of HTTP status codes does, but
// for what a deadline is.
func grpcStatus(status int) int {
	const deadlineExceeded, permissionDenied, resourceExhausted = 4, 7, 8
	const unimplemented, internal, unavailable, unauthenticated = 12, 13, 14, 16
	switch status {
	case http.StatusUnauthorized:
		return unauthenticated
	case http.StatusForbidden:
		return permissionDenied
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return unimplemented
	case http.StatusTooManyRequests:
		return resourceExhausted
	case http.StatusGatewayTimeout:
		return deadlineExceeded
	case http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusMisdirectedRequest:
		return unavailable
	}
	return internal
}

// inWords explains a reason to a client: what is malformed in detail, as the
// client knows it anyway, and nothing of who else may do what.
func inWords(v *verdict) string {
	if v.reason == ReasonReplaced {
		return "The service behind this address has failed."
	}
	switch v.status {
	case http.StatusFound:
		return "Sign in first."
	case http.StatusUnauthorized:
		if v.reason == string(authn.StepUpRequired) {
			return "Another or a more recent sign-in is required."
		}
		return "The request carries no credential that is valid here."
	case http.StatusForbidden:
		return "The request is not allowed."
	case http.StatusNotFound:
		return "There is nothing at this address."
	case http.StatusMethodNotAllowed:
		return "The method is not allowed at this address."
	case http.StatusTooManyRequests:
		return "There were too many requests. Try again later."
	case http.StatusMisdirectedRequest:
		return "The connection was made for another host."
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return "The service behind this address did not answer."
	case http.StatusServiceUnavailable:
		return unavailableInWords(v.reason)
	}
	if v.detail == "" {
		return "The request cannot be understood."
	}
	return "The request cannot be understood: " + v.detail + "."
}

func unavailableInWords(reason string) string {
	switch signin.Reason(reason) {
	case signin.ProviderUnavailable, signin.KeysUnavailable, signin.Busy:
		return "Nobody can sign in for now."
	case signin.LogoutUnconfirmed:
		return "You are signed out here. It could not be confirmed that you are everywhere: try again."
	}
	switch upstream.Reason(reason) {
	case upstream.IdentityExpired, upstream.IdentityMissing:
		return "The gateway cannot prove who it is to the service behind this address."
	case upstream.Overloaded:
		return "The service behind this address has too much to do. Try again later."
	case ReasonOverloaded:
		return "The gateway has more to do than it can. Try again later."
	case ReasonListenerEnded:
		return "The gateway had to end before the request did."
	}
	return "The gateway cannot decide on requests for now."
}
