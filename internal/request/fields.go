package request

import "strings"

// fate is what happens to a header field.
type fate uint8

const (
	forwarded  fate = iota
	single          // forwarded, and refused when it occurs twice
	connection      // of this connection only: read, then removed
	removed         // only a gateway may say it
)

// fateOf knows the fields that are not simply forwarded. This file is the one
// list of them. Those of a gateway are the ways in which common proxies,
// sign-in services and frameworks are told who the client is, where it comes
// from, or that another method, host or path is meant. Other spellings of a
// name never get here: checkName tells them.
func fateOf(name string) fate {
	switch name {
	case "Host":
		return removed // it is Canonical.Host
	case "Authorization", "Content-Length", "Content-Location", "Content-Range", "Content-Type",
		"Cookie", "Date", "Dpop", "From", "If-Modified-Since", "If-Range", "If-Unmodified-Since",
		"Idempotency-Key", "Max-Forwards", "Origin", "Range", "Referer", "Traceparent",
		"User-Agent", "X-Api-Key", "X-Request-Id":
		return single
	case "Connection", "Expect", "Http2-Settings", "Keep-Alive", "Proxy-Authenticate",
		"Proxy-Authorization", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return connection
	}
	if isOfGateway(name) {
		return removed
	}
	return forwarded
}

// IsForwarded reports whether a canonical request may have a field of this name,
// which is a canonical key, for its upstream to read.
func IsForwarded(name string) bool {
	if plain, ok := checkName(name); !plain || !ok {
		return false
	}
	f := fateOf(name)
	return f == forwarded || f == single
}

// IsFieldName reports whether name is a canonical key of letters, digits and hyphens.
func IsFieldName(name string) bool {
	plain, ok := checkName(name)
	return plain && ok
}

// IsFieldValue reports whether a field can have a value.
func IsFieldValue(s string) bool { return isValue(s) }

// isOfGateway tells the fields that only a gateway may say: where a request
// comes from, what is meant by it, and who sent it.
func isOfGateway(name string) bool {
	switch name {
	case "Forwarded", "Proxy", "Remote-Addr", "True-Client-Ip",
		"Cf-Connecting-Ip", "Cf-Connecting-Ipv6", "Cf-Pseudo-Ipv4", "Client-Ip", "Fastly-Client-Ip",
		"X-Azure-Clientip", "X-Azure-Socketip", "X-Client-Ip", "X-Cluster-Client-Ip", "X-Forwarded",
		"X-Originating-Ip", "X-Real-Ip":
		return true
	case "X-Host", "X-Http-Host-Override", "X-Http-Method", "X-Http-Method-Override", "X-Method-Override", "X-Url":
		return true
	case "Auth-Type", "Auth-User", "Authenticated-User", "Client-Cert", "Client-Cert-Chain",
		"X-Arr-Clientcert", "X-Auth-Email", "X-Auth-Groups", "X-Auth-Roles", "X-Auth-Subject",
		"X-Auth-User", "X-Auth-Userid", "X-Auth-Username", "X-Client-Cert", "X-Client-Cn",
		"X-Client-Dn", "X-Client-Subject", "X-Client-Verified", "X-Client-Verify", "X-Email",
		"X-Groups", "X-Id-Token", "X-Principal", "X-Roles", "X-Spiffe-Id", "X-Sso-User", "X-Subject",
		"X-User", "X-User-Email", "X-User-Groups", "X-User-Id", "X-User-Name", "X-User-Roles",
		"X-Userid", "X-Userinfo", "X-Username":
		return true
	}
	return isOfFamily(name)
}

// isOfFamily decides by the start of a name. Sallyport's own fields are among
// them, so that an upstream can trust every one that it sees. The first letter
// decides what is compared, since most names are of no family.
func isOfFamily(name string) bool {
	if rest, ok := strings.CutPrefix(name, "X-"); ok {
		return rest != "" && isOfFamilyX(rest)
	}
	switch name[0] {
	case 'C':
		return startsWith(name, "Cf-Access-")
	case 'I':
		return startsWith(name, "Impersonate-", "Iv-")
	case 'M':
		return startsWith(name, "Mellon-")
	case 'O':
		return startsWith(name, "Oam-", "Oidc-")
	case 'R':
		return startsWith(name, "Remote-")
	case 'S':
		return startsWith(name, "Sallyport-", "Shib-", "Sm-", "Ssl-Client-")
	case 'T':
		return startsWith(name, "Tailscale-", "Teleport-")
	}
	return false
}

// isOfFamilyX is about names that begin with "X-", which rest lacks.
func isOfFamilyX(rest string) bool {
	switch rest[0] {
	case 'A':
		return startsWith(rest, "Amzn-Mtls-", "Amzn-Oidc-", "Apigateway-", "Appengine-", "Auth-Request-", "Authenticated-", "Authentik-")
	case 'C':
		return startsWith(rest, "Consumer-", "Credential-")
	case 'E':
		return startsWith(rest, "Endpoint-Api-", "Envoy-")
	case 'F':
		return startsWith(rest, "Forwarded-")
	case 'G':
		return startsWith(rest, "Goog-Authenticated-", "Goog-Iap-")
	case 'J':
		return startsWith(rest, "Jwt-")
	case 'M':
		return startsWith(rest, "Ms-Client-Principal", "Ms-Token-")
	case 'O':
		return startsWith(rest, "Original-")
	case 'P':
		return startsWith(rest, "Pomerium-")
	case 'R':
		return startsWith(rest, "Remote-", "Rewrite-")
	case 'S':
		return startsWith(rest, "Sallyport-", "Ssl-Client-")
	case 'T':
		return startsWith(rest, "Tailscale-", "Teleport-")
	case 'V':
		return startsWith(rest, "Vouch-")
	case 'W':
		return startsWith(rest, "Webauth-")
	}
	return false
}

func startsWith(name string, families ...string) bool {
	for _, family := range families {
		if strings.HasPrefix(name, family) {
			return true
		}
	}
	return false
}
