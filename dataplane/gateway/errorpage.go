package gateway

import (
	"net/http"
	"slices"
)

// ReasonReplaced is of an answer whose status a route does not hand on as it is.
const ReasonReplaced = "upstream_error"

// replaced says which answer comes in place of the upstream's, if the route wants
// one: a problem with the same status.
func (x *exchange) replaced(answer *http.Response) error {
	pages := x.verdict.way.route.ErrorPages
	status := answer.StatusCode
	if pages == nil || status < http.StatusBadRequest {
		return nil
	}
	wanted := pages.GetStatuses()
	if len(wanted) == 0 && status >= http.StatusInternalServerError || slices.Contains(wanted, uint32(status)) { //nolint:gosec // of HTTP
		return failure{reason: ReasonReplaced, status: status}
	}
	return nil
}

// isOfSoftware tells the fields that say which software an upstream is.
func isOfSoftware(name string) bool {
	switch name {
	case "Server", "X-Powered-By", "X-Aspnet-Version", "X-Aspnetmvc-Version", "X-Runtime", "X-Generator", "X-Drupal-Cache",
		"X-Server-Name", "X-Backend-Server":
		return true
	}
	return false
}
