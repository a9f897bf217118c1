package evaluate

import (
	"errors"
	"time"

	"github.com/sallyport/sallyport/internal/policy"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
)

// deviceOf returns the device of a message, nil for none. Without an end, its facts
// are known now.
func deviceOf(m *decisionv1.Device, now time.Time) (*policy.Device, error) {
	if m == nil {
		return nil, nil //nolint:nilnil // documented
	}
	if m.GetId() == "" {
		return nil, errors.New("signals.device.id: which device is it?")
	}
	d := &policy.Device{
		ID: m.GetId(), OS: m.GetOs(), OSVersion: m.GetOsVersion(), Owner: m.GetOwner(),
		DiskEncrypted: fact(m.DiskEncrypted), ScreenLock: fact(m.ScreenLock), Compliant: fact(m.Compliant), Managed: fact(m.Managed),
		LastSeen: moment(m.GetLastSeen()), Expires: moment(m.GetExpiresAt()),
	}
	if m.GetExpiresAt() == nil {
		d.Expires = now.Add(1)
	}
	return d, nil
}

func fact(told *bool) policy.Fact {
	switch {
	case told == nil:
		return policy.Unknown
	case *told:
		return policy.Yes
	}
	return policy.No
}
