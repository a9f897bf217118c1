package collector

import (
	"strings"

	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	resourcev1 "go.opentelemetry.io/proto/otlp/resource/v1"
)

// Resource is this process to a collector.
func Resource(instance, version string) *resourcev1.Resource {
	return &resourcev1.Resource{Attributes: []*commonv1.KeyValue{
		Text("service.name", "sallyport-proxy"), Text("service.instance.id", instance), Text("service.version", version),
	}}
}

// Text is an attribute. What is no UTF-8 in its value becomes U+FFFD.
func Text(key, value string) *commonv1.KeyValue {
	return &commonv1.KeyValue{Key: key, Value: Said(value)}
}

// Number is an attribute.
func Number(key string, value int64) *commonv1.KeyValue {
	return &commonv1.KeyValue{Key: key, Value: &commonv1.AnyValue{Value: &commonv1.AnyValue_IntValue{IntValue: value}}}
}

// Said is a text as OpenTelemetry has it. What is no UTF-8 in it becomes U+FFFD.
func Said(s string) *commonv1.AnyValue {
	return &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: strings.ToValidUTF8(s, "\ufffd")}}
}
