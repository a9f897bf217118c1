package gateway

import (
	"cmp"
	"net/textproto"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sallyport/sallyport/dataplane/upstream"
	"github.com/sallyport/sallyport/dataplane/upstream/balance"
	"github.com/sallyport/sallyport/dataplane/upstream/dns"
	"github.com/sallyport/sallyport/dataplane/upstream/health"
	"github.com/sallyport/sallyport/internal/compile"
	"github.com/sallyport/sallyport/internal/policy"
	"github.com/sallyport/sallyport/internal/session"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

func upstreams(from []*compile.Upstream) []upstream.Spec {
	to := make([]upstream.Spec, len(from))
	for i, u := range from {
		to[i] = upstream.Spec{
			Namespace: u.Key.Namespace, Name: u.Key.Name, Digest: u.Digest, Endpoints: u.Spec.GetEndpoints(),
			Balancing: balancing(u.Spec.GetBalancing()), Ejection: ejection(u.Spec.GetEjection()), Retries: retries(u.Spec.GetRetries()),
			Circuit:    circuit(u.Spec.GetCircuitLimits()),
			Resolution: resolution(u.Spec.GetResolution()), Check: healthCheck(u.Spec.GetHealthCheck()),
			Zones: u.Spec.GetLocality().GetZones(), Near: int(u.Spec.GetLocality().GetThreshold()),
		}
		switch t := u.Spec.GetTransport().(type) {
		case *resourcev1.Upstream_Plaintext:
			to[i].Plaintext = true
		case *resourcev1.Upstream_Tls:
			to[i].TLS = &upstream.TLS{CAFile: t.Tls.GetCaFile(), ServerName: t.Tls.GetServerName()}
		case *resourcev1.Upstream_Spiffe:
			to[i].SPIFFE = &upstream.SPIFFE{Peers: peers(t.Spiffe.GetPeerIds())}
		}
	}
	return to
}

func balancing(from *resourcev1.Balancing) upstream.Balancing {
	to := upstream.Balancing{SlowStart: from.GetSlowStart().AsDuration(), Panic: int(from.GetPanicThreshold())}
	switch from.GetMethod() {
	case resourcev1.BalancingMethod_BALANCING_METHOD_LEAST_REQUEST:
		to.Method = balance.LeastRequest
	case resourcev1.BalancingMethod_BALANCING_METHOD_HASH:
		to.Method = balance.Hash
		to.Hash = upstream.HashKey{
			Header:        textproto.CanonicalMIMEHeaderKey(from.GetHash().GetHeader()),
			Cookie:        from.GetHash().GetCookie(),
			ClientAddress: from.GetHash().GetClientAddress(), Principal: from.GetHash().GetPrincipal(),
		}
	default:
		to.Method = balance.RoundRobin
	}
	return to
}

func ejection(from *resourcev1.Ejection) upstream.Ejection {
	return upstream.Ejection{
		Off: from.GetOff(), After: int(from.GetConsecutiveFailures()), Percent: int(from.GetMaxPercent()),
		Time: from.GetBaseTime().AsDuration(), Most: from.GetMaxTime().AsDuration(),
	}
}

func retries(from *resourcev1.Retries) upstream.Retries {
	to := upstream.Retries{
		Off: from.GetOff(), Attempts: int(from.GetAttempts()), PerTry: from.GetPerTryTimeout().AsDuration(),
		BudgetPercent: int(from.GetBudgetPercent()), BudgetPerSecond: int(from.GetBudgetPerSecond()),
	}
	for _, on := range from.GetOn() {
		switch on {
		case resourcev1.RetryOn_RETRY_ON_CONNECT_FAILURE:
			to.On |= upstream.OnConnect
		case resourcev1.RetryOn_RETRY_ON_RESET:
			to.On |= upstream.OnReset
		case resourcev1.RetryOn_RETRY_ON_GATEWAY_ERROR:
			to.On |= upstream.OnGatewayError
		case resourcev1.RetryOn_RETRY_ON_TIMEOUT:
			to.On |= upstream.OnTimeout
		case resourcev1.RetryOn_RETRY_ON_UNSPECIFIED:
		}
	}
	return to
}

func circuit(from *resourcev1.CircuitLimits) upstream.Circuit {
	return upstream.Circuit{
		Requests: int(from.GetMaxRequests()), Connections: int(from.GetMaxConnections()), Pending: int(from.GetMaxPending()),
	}
}

func resolution(from *resourcev1.Resolution) upstream.Resolution {
	to := upstream.Resolution{Every: from.GetInterval().AsDuration()}
	switch from.GetAddresses() {
	case resourcev1.AddressFamily_ADDRESS_FAMILY_IPV4:
		to.Family = dns.IPv4
	case resourcev1.AddressFamily_ADDRESS_FAMILY_IPV6:
		to.Family = dns.IPv6
	default:
		to.Family = dns.Both
	}
	return to
}

// healthCheck is nil for none. What is not given is as package resource documents it.
func healthCheck(from *resourcev1.HealthCheck) *health.Check {
	if from == nil {
		return nil
	}
	to := &health.Check{
		Interval: durationOr(from.GetInterval(), 10*time.Second), Timeout: durationOr(from.GetTimeout(), 2*time.Second),
		Healthy: int(cmp.Or(from.GetHealthyThreshold(), 2)), Fail: int(cmp.Or(from.GetUnhealthyThreshold(), 3)),
	}
	switch of := from.GetCheck().(type) {
	case *resourcev1.HealthCheck_Http:
		to.Kind, to.Path, to.Host = health.HTTP, of.Http.GetPath(), of.Http.GetHost()
		for _, r := range of.Http.GetStatuses() {
			to.Pass = append(to.Pass, health.Range{From: int(r.GetFrom()), To: int(r.GetTo())})
		}
	case *resourcev1.HealthCheck_Tcp:
		to.Kind = health.TCP
	case *resourcev1.HealthCheck_Grpc:
		to.Kind, to.Service = health.GRPC, of.Grpc.GetService()
	}
	return to
}

func durationOr(given *durationpb.Duration, otherwise time.Duration) time.Duration {
	if given == nil {
		return otherwise
	}
	return given.AsDuration()
}

// affinity is what an upstream has the same of it go to the same endpoint by; zero for
// nothing.
func (x *exchange) affinity(u *upstream.Upstream) balance.Key {
	of, v := u.Hash(), &x.verdict
	switch p := v.principal; {
	case of == nil:
	case of.Header != "":
		if values := v.request.Header[of.Header]; len(values) > 0 {
			return balance.KeyOf(values[0])
		}
	case of.Cookie != "":
		if value, _ := session.Find(v.request.Header["Cookie"], of.Cookie); value != "" {
			return balance.KeyOf(value)
		}
	case of.ClientAddress && x.address.IP.IsValid():
		address := x.address.IP.As16()
		return balance.KeyOf(address[:])
	case of.Principal && p != nil && p.Kind != policy.Anonymous:
		return balance.KeyOf(p.Issuer, p.ID)
	}
	return 0
}
