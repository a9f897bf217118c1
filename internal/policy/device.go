package policy

import "time"

// Device is the device that a request was proven to come from, and what is known
// of it until Expires. The zero value is one of which nothing is known.
type Device struct {
	ID string

	// Unknown where empty.
	OS, OSVersion, Owner string

	DiskEncrypted, ScreenLock, Compliant, Managed Fact

	LastSeen time.Time // zero: unknown
	Expires  time.Time
}

// Fact is whether something is so.
type Fact uint8

// The facts. Any other value is Unknown as well.
const (
	Unknown Fact = iota
	No
	Yes
)

// told returns what f says, and whether it says anything.
func (f Fact) told() (yes, known bool) { return f == Yes, f == Yes || f == No }

// device returns the device of which facts are known now, nil for none: what was
// known of it may have expired.
func (f *facts) device() *Device {
	if f.Device == nil || !f.Now.Before(f.Device.Expires) {
		return nil
	}
	return f.Device
}

// deviceFields are those of signals.device.
func deviceFields() fields {
	text := func(read func(*Device) string) field {
		return knownText(func(f *facts) (string, bool) {
			d := f.device()
			if d == nil {
				return "", false
			}
			v := read(d)
			return v, v != ""
		})
	}
	fact := func(read func(*Device) Fact) field {
		return flag(func(f *facts) (bool, bool) {
			d := f.device()
			if d == nil {
				return false, false
			}
			return read(d).told()
		})
	}
	return fields{
		"id":             text(func(d *Device) string { return d.ID }),
		"os":             text(func(d *Device) string { return d.OS }),
		"os_version":     text(func(d *Device) string { return d.OSVersion }),
		"owner":          text(func(d *Device) string { return d.Owner }),
		"disk_encrypted": fact(func(d *Device) Fact { return d.DiskEncrypted }),
		"screen_lock":    fact(func(d *Device) Fact { return d.ScreenLock }),
		"compliant":      fact(func(d *Device) Fact { return d.Compliant }),
		"managed":        fact(func(d *Device) Fact { return d.Managed }),
		"last_seen": moment(func(f *facts) time.Time {
			d := f.device()
			if d == nil {
				return time.Time{}
			}
			return d.LastSeen
		}),
	}
}

// devicePart is signals.device, which there is where its ID is known.
func devicePart(device *object) field {
	f := part(device)
	f.known = device.typed["id"].known
	return f
}
