package otlp

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	logsv1 "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/dataplane/collector"
)

// logs returns lines as logs. On the wire LogsData is what ExportLogsServiceRequest
// is, whose package would link all of gRPC.
func (s *Sink) logs(lines [][]byte) ([]byte, error) {
	scope := &logsv1.ScopeLogs{
		Scope:      &commonv1.InstrumentationScope{Name: "sallyport/records"},
		LogRecords: make([]*logsv1.LogRecord, 0, len(lines)),
	}
	for _, line := range lines {
		scope.LogRecords = append(scope.LogRecords, entry(line))
	}
	return proto.Marshal(&logsv1.LogsData{ResourceLogs: []*logsv1.ResourceLogs{{
		Resource:  s.resource,
		ScopeLogs: []*logsv1.ScopeLogs{scope},
	}}})
}

// entry is the line of a record as a log: its fields are attributes of the same names.
func entry(line []byte) *logsv1.LogRecord {
	var fields map[string]any
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	if err := d.Decode(&fields); err != nil {
		return &logsv1.LogRecord{Body: collector.Said(string(line))} // no line of a record
	}
	kind, _ := fields["type"].(string)
	at, _ := fields["time"].(string)
	delete(fields, "type")
	delete(fields, "time")
	trace := traceOf(fields)
	e := &logsv1.LogRecord{
		TraceId: trace, EventName: "sallyport." + kind, TimeUnixNano: nanoseconds(at), Body: collector.Said(inWords(kind, fields)), Attributes: pairs(fields),
		SeverityNumber: logsv1.SeverityNumber_SEVERITY_NUMBER_INFO, SeverityText: "INFO",
	}
	if allow, _ := fields["allow"].(bool); kind == "decision" && !allow || kind == "outcome" && fields["reason"] != nil {
		e.SeverityNumber, e.SeverityText = logsv1.SeverityNumber_SEVERITY_NUMBER_WARN, "WARN"
	}
	return e
}

// traceOf takes the ID of the trace out of fields, nil for none.
func traceOf(fields map[string]any) []byte {
	text, _ := fields["trace_id"].(string)
	id, err := hex.DecodeString(text)
	if err != nil || len(id) != 16 {
		return nil
	}
	delete(fields, "trace_id")
	return id
}

func nanoseconds(at string) uint64 {
	t, err := time.Parse(time.RFC3339Nano, at)
	if err != nil || t.UnixNano() < 0 {
		return 0
	}
	return uint64(t.UnixNano())
}

// inWords is a record in a few words, for people.
func inWords(kind string, fields map[string]any) string {
	verdict := "ended"
	if kind == "decision" {
		verdict = "denied"
		if allow, _ := fields["allow"].(bool); allow {
			verdict = "allowed"
		}
	}
	words := []string{verdict}
	for _, name := range []string{"status", "reason", "method", "host"} {
		switch v := fields[name].(type) {
		case string:
			words = append(words, v)
		case json.Number:
			words = append(words, v.String())
		}
	}
	path, _ := fields["path"].(string)
	return strings.Join(words, " ") + path
}

// pairs are the fields of an object, in the order of their names.
func pairs(fields map[string]any) []*commonv1.KeyValue {
	all := make([]*commonv1.KeyValue, 0, len(fields))
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		all = append(all, &commonv1.KeyValue{Key: strings.ToValidUTF8(name, "\ufffd"), Value: value(fields[name])})
	}
	return all
}

// value is what JSON says.
func value(v any) *commonv1.AnyValue {
	switch v := v.(type) {
	case string:
		return collector.Said(v)
	case bool:
		return &commonv1.AnyValue{Value: &commonv1.AnyValue_BoolValue{BoolValue: v}}
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return &commonv1.AnyValue{Value: &commonv1.AnyValue_IntValue{IntValue: n}}
		}
		return collector.Said(v.String())
	case []any:
		list := &commonv1.ArrayValue{}
		for _, one := range v {
			list.Values = append(list.Values, value(one))
		}
		return &commonv1.AnyValue{Value: &commonv1.AnyValue_ArrayValue{ArrayValue: list}}
	case map[string]any:
		return &commonv1.AnyValue{Value: &commonv1.AnyValue_KvlistValue{KvlistValue: &commonv1.KeyValueList{Values: pairs(v)}}}
	}
	return &commonv1.AnyValue{} // null
}
