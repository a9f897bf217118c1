package main

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
	decisionv1 "github.com/sallyport/sallyport/proto/gen/sallyport/decision/v1"
)

// deviceRows shows what is known of each device.
func deviceRows(stored []*adminv1.StoredResource) [][]string {
	var rows [][]string
	for _, s := range stored {
		fields := s.GetResource().GetSpec().GetFields()
		text := func(name string) string { return fields[name].GetStringValue() }
		rows = append(rows, []string{
			s.GetResource().GetMetadata().GetName(), text("owner"), strings.TrimSpace(text("os") + " " + text("osVersion")),
			compliance(fields["compliant"]), text("lastSeen"), text("expiresAt"), fmt.Sprint(s.GetRevision()),
		})
	}
	return rows
}

func compliance(v *structpb.Value) string {
	switch is, told := v.GetKind().(*structpb.Value_BoolValue); {
	case !told:
		return "unknown"
	case is.BoolValue:
		return "yes"
	}
	return "no"
}

// device tells what was known of a device at a time; nothing of none.
func device(d *decisionv1.Device, at time.Time) string {
	if d == nil {
		return ""
	}
	id := d.GetId()
	if d.GetPseudonymised() {
		id += " (a pseudonym)"
	}
	facts := []string{id, named("of ", d.GetOwner()), strings.TrimSpace(d.GetOs() + " " + d.GetOsVersion())}
	for _, f := range []struct {
		is      *bool
		yes, no string
	}{
		{d.Compliant, "compliant", "not compliant"}, {d.Managed, "managed", "not managed"},
		{d.DiskEncrypted, "disk encrypted", "disk not encrypted"}, {d.ScreenLock, "screen lock", "no screen lock"},
	} {
		switch {
		case f.is == nil:
		case *f.is:
			facts = append(facts, f.yes)
		default:
			facts = append(facts, f.no)
		}
	}
	if t := d.GetLastSeen(); t != nil {
		facts = append(facts, "last seen "+at.Sub(t.AsTime()).Round(time.Second).String()+" before")
	}
	if t := d.GetExpiresAt(); t != nil && !at.Before(t.AsTime()) {
		facts = append(facts, "all of which had expired")
	}
	return joined(", ", facts...)
}
