package resource

import (
	"errors"
	"net/textproto"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sallyport/sallyport/internal/request"
	"github.com/sallyport/sallyport/internal/session"
	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

func (d *decoder) upstream(s *resourcev1.Upstream) {
	check := checkEndpoint
	if s.GetPlaintext() != nil {
		check = checkLoopbackEndpoint
	}
	d.each("endpoints", s.GetEndpoints(), check)
	if tls := s.GetTls(); tls.GetCaFile() != "" {
		d.checked(atSpec().to("tls").to("caFile"), tls.GetCaFile(), checkFile)
	}
	if tls := s.GetTls(); tls.GetServerName() != "" {
		d.checked(atSpec().to("tls").to("serverName"), tls.GetServerName(), checkHost)
	}
	for i, id := range s.GetSpiffe().GetPeerIds() {
		d.checked(atSpec().to("spiffe").to("peerIds").element(i), id, checkSPIFFE)
	}
	d.balancing(s.GetBalancing())
	d.ejection(s.GetEjection())
	d.retries(s.GetRetries())
	if c := s.GetCircuitLimits(); c.GetMaxPending() > 0 && c.GetMaxConnections() == 0 {
		d.follow(atSpec().to("circuitLimits").to("maxPending").String(), ReasonConflictingFields, "goes with maxConnections only: nobody else waits")
	}
	d.resolution(s)
	d.healthCheck(s)
	d.locality(s)
}

// balancing refuses a method that lacks what it goes by, and what it does not go by.
func (d *decoder) balancing(b *resourcev1.Balancing) {
	at := atSpec().to("balancing")
	hashes := b.GetMethod() == resourcev1.BalancingMethod_BALANCING_METHOD_HASH
	switch {
	case hashes && b.GetHash() == nil:
		d.follow(at.to("hash").String(), ReasonRequired, "HASH goes by something of requests")
	case !hashes && b.GetHash() != nil:
		d.follow(at.to("hash").String(), ReasonConflictingFields, "goes with the method HASH only")
	}
	if name := textproto.CanonicalMIMEHeaderKey(b.GetHash().GetHeader()); name != "" {
		c := request.Condition{Kind: request.Present, Name: name}
		d.checked(at.to("hash").to("header"), name, func(string) error { return c.Check() })
	}
	if name := b.GetHash().GetCookie(); name != "" {
		d.checked(at.to("hash").to("cookie"), name, checkCookieName)
	}
}

func (d *decoder) ejection(e *resourcev1.Ejection) {
	const first = 30 * time.Second
	at := atSpec().to("ejection")
	d.alone(at, e, e.GetOff())
	if e.GetMaxTime() == nil {
		return
	}
	base := first
	if e.GetBaseTime() != nil {
		base = e.GetBaseTime().AsDuration()
	}
	if e.GetMaxTime().AsDuration() < base {
		d.follow(at.to("maxTime").String(), ReasonInvalidValue, "is less than baseTime, which is "+base.String())
	}
}

func (d *decoder) retries(r *resourcev1.Retries) {
	d.alone(atSpec().to("retries"), r, r.GetOff())
}

// alone refuses what is given besides off, and would be without effect.
func (d *decoder) alone(at *place, of proto.Message, off bool) {
	if !off {
		return
	}
	count := 0
	of.ProtoReflect().Range(func(protoreflect.FieldDescriptor, protoreflect.Value) bool {
		count++
		return true
	})
	if count > 1 {
		d.follow(at.to("off").String(), ReasonConflictingFields, "leaves nothing for the others to say")
	}
}

// checkCookieName accepts names of cookies that upstreams get to see.
func checkCookieName(name string) error {
	if !request.IsToken(name) {
		return errors.New("is no name of a cookie")
	}
	if session.IsOurs(name) {
		return errors.New("is a cookie of the gateway's own")
	}
	return nil
}
