package courier

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/internal/policy"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
)

// device is a message about a device that is made again and again.
type device struct {
	message       decisionv1.Device
	seen, expires timestamppb.Timestamp
	yes, no       bool
}

// write returns what is known of a device; nil for none.
func (m *device) write(d *policy.Device) *decisionv1.Device {
	if d == nil {
		return nil
	}
	to := &m.message
	to.Id, to.Os, to.OsVersion, to.Owner = clip(d.ID, maxName), clip(d.OS, maxName), clip(d.OSVersion, maxName), clip(d.Owner, maxValue)
	to.DiskEncrypted, to.ScreenLock = m.fact(d.DiskEncrypted), m.fact(d.ScreenLock)
	to.Compliant, to.Managed = m.fact(d.Compliant), m.fact(d.Managed)
	to.LastSeen, to.ExpiresAt = at(&m.seen, d.LastSeen), at(&m.expires, d.Expires)
	return to
}

func (m *device) fact(f policy.Fact) *bool {
	m.yes, m.no = true, false
	switch f {
	case policy.Yes:
		return &m.yes
	case policy.No:
		return &m.no
	case policy.Unknown:
	}
	return nil
}

// at is moment for a message that is made again.
func at(to *timestamppb.Timestamp, t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	to.Seconds, to.Nanos = t.Unix(), int32(t.Nanosecond()) //nolint:gosec // below a second
	return to
}
