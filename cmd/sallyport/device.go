package main

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	adminv1 "github.com/sallyport/sallyport/proto/gen/sallyport/admin/v1"
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
