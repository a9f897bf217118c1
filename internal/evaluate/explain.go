package evaluate

import (
	"strings"

	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/request"
	"github.com/sallyport/sallyport/internal/schema"
	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
)

// Repeatable reports whether the reason of a decision follows from resources and
// request, so that it can be asked again. Else it says why not.
func Repeatable(d *decisionv1.Decision) (note string, ok bool) {
	switch d.GetReason() {
	case ReasonNoRoute, ReasonMethod, ReasonAmbiguous:
		return "", true
	case string(policy.ReasonAllowed), string(policy.ReasonDenied), string(policy.ReasonNoMatch), string(policy.ReasonEvaluationError):
		return "", d.GetRoute() != ""
	case request.ReasonPathAmbiguous: // of a path that another route might keep as it is
		if d.GetRequest().GetMethod() != "" {
			return "", true
		}
	case ReasonUnavailable:
		if d.GetRoute() != "" {
			return "", true
		}
	}
	switch {
	case d.GetAllow():
		return "the gateway answered itself, and no policy was asked", false
	case d.GetStatus() == statusUnauthorized, d.GetStatus() == statusFound:
		return "no policy was asked: it was not established who asks, and credentials are not recorded", false
	case d.GetRequest().GetMethod() == "":
		return "no policy was asked: the request was refused as it was read", false
	case d.GetPolicy() != "" && d.GetReason() != reasonLimited:
		return "the policy that is named let the request through, and it was refused after that", false
	}
	return "no policy was asked", false
}

// Explain returns what is to be said of a record, by the table of its revision. The
// table may be nil, and note then says why.
func Explain(t *compile.Table, d *decisionv1.Decision, note string) *adminv1.ExplainResponse {
	res := &adminv1.ExplainResponse{
		Decision: d, Agreement: adminv1.Agreement_AGREEMENT_NOT_ASKED, Note: note, Meaning: meaning(d),
	}
	if t == nil {
		return res
	}
	q, err := Recall(d)
	if err != nil {
		res.Note = "the record cannot be read by this build: " + err.Error()
		return res
	}
	res.Answer = Ask(t, &q)
	if len(res.Answer.GetInexact()) == 0 && d.GetRequest().GetPath() == "" {
		res.Answer.Inexact = []string{"the path is not recorded"}
	}
	res.Agreement = agreement(d, res.Answer)
	return res
}

func agreement(d *decisionv1.Decision, a *adminv1.Answer) adminv1.Agreement {
	switch {
	case d.GetAllow() == a.GetAllow() && d.GetReason() == a.GetReason() && d.GetPolicy() == a.GetPolicy() && d.GetRoute() == a.GetRoute():
		return adminv1.Agreement_AGREEMENT_SAME
	case len(a.GetInexact()) > 0:
		return adminv1.Agreement_AGREEMENT_UNKNOWN
	}
	return adminv1.Agreement_AGREEMENT_DIFFERENT
}

// reasonLimited is that of requests which a rate limit refuses.
const reasonLimited = "rate_limited"

const (
	statusFound         = 302
	statusBadRequest    = 400
	statusUnauthorized  = 401
	statusNotFound      = 404
	statusMethod        = 405
	statusMisdirected   = 421
	statusUnavailable   = 503
	questionOfGrammar   = "The request was refused before anything was asked of it, as it could be read in two ways or in none: a request that is well-formed would have gone on."
	questionOfIdentity  = "It was not established who asks, so that no policy was asked: a credential that the route takes, and that is good when it is shown, would have been."
	questionOfAge       = "The proxy could not tell whether what it knows is still so, and then it denies all requests: once it has heard from the control plane again, it decides."
	questionOfSchema    = "The request is not as the Schema of its route says, and detail has where it differs first: without a difference it would have gone on."
	questionOfKnowledge = "The proxy had nothing to decide by: once it has heard from the control plane, it decides."
)

// meanings are what reasons mean that are not a policy's, and what would have
// changed them. Others are told by their status.
var meanings = map[string]string{ //nolint:gosec // it holds words for people, and no credentials
	ReasonNoRoute:           "No Route has this host and path: one that has would have taken the request, and its policies would have been asked.",
	ReasonMethod:            "A Route has this host and path with other methods: one of those, or a Route with this method, would have gone on.",
	ReasonAmbiguous:         "Which Route takes the request depends on a header or parameter that it has more than once: with one value it would have gone on.",
	ReasonNoPreflight:       "A browser asked whether a page of another origin may send a request: cors of the Route names no such origin, method or header.",
	ReasonMisdirected:       "The request is for another host than its connection was made for: on a connection of its own it would have gone on.",
	ReasonUnavailable:       "A resource that controls this route was rejected by the proxy, and might have denied: once it is mended, policies are asked.",
	"no_snapshot":           questionOfKnowledge,
	"no_security_state":     questionOfKnowledge,
	"configuration_stale":   questionOfAge,
	"security_stale":        questionOfAge,
	"revoked":               "The credential was good, and is cut off by the Revocation that is named: no policy was asked. Without it, or with another credential, one would have been.",
	"credentials_missing":   "There was no credential of a kind that the route takes, so that no policy was asked: with one it would have been.",
	"record_unavailable":    "The decision could not be recorded, which this route demands: the proxy's records have to be written again.",
	"assertion_unavailable": "The upstream could not be told who asks, which this route demands: the proxy has no key that was published.",
	reasonLimited:           "What the RateLimit that is named lets through was used up: once enough of it has come back, the request goes on.",
	schema.ReasonOperation:  questionOfSchema,
	schema.ReasonParameters: questionOfSchema,
	schema.ReasonMediaType:  questionOfSchema,
	schema.ReasonEncoding:   questionOfSchema,
	schema.ReasonBody:       questionOfSchema,
	"cross_site":            "A session was shown by another site than its own: a request from the host's own pages would have gone on.",
}

// meaning says what the reason of a denial means that no policy has pronounced.
func meaning(d *decisionv1.Decision) string {
	if d.GetAllow() || strings.HasSuffix(d.GetReason(), "_policy") || d.GetReason() == string(policy.ReasonEvaluationError) {
		return ""
	}
	if known := meanings[d.GetReason()]; known != "" {
		return known
	}
	switch d.GetStatus() {
	case statusUnauthorized, statusFound:
		return questionOfIdentity
	case statusUnavailable:
		return "The proxy could not decide: something that it needs was not to be had."
	case statusNotFound, statusMethod, statusMisdirected:
		return ""
	}
	if d.GetStatus() >= statusBadRequest && d.GetRoute() == "" {
		return questionOfGrammar
	}
	return ""
}
