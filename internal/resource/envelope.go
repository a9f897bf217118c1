package resource

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	resourcev1 "github.com/sallyport/sallyport/proto/gen/sallyport/resource/v1"
)

// ErrTooLarge says that a document is larger than its kind may be.
var ErrTooLarge = errors.New("too large")

// Envelope is what every build can read of a document, whatever its kind.
type Envelope struct {
	Key      Key
	Document *resourcev1.Document
}

// ParseEnvelope reads a document's envelope. It looks at neither the spec nor
// fields that it does not know: ParseDocument does. What is larger than its kind
// may be is an error.
func ParseEnvelope(document []byte) (Envelope, error) {
	if len(document) > MaxSet {
		return Envelope{}, tooLarge(document, MaxSet)
	}
	var d resourcev1.Document
	if err := proto.Unmarshal(document, &d); err != nil {
		return Envelope{}, fmt.Errorf("parse document: %w", err)
	}
	if d.GetKind() == "" || d.GetName() == "" {
		return Envelope{}, errors.New("parse document: kind or name is missing")
	}
	if limit := Kind(d.GetKind()).MaxDocument(); len(document) > limit {
		return Envelope{}, tooLarge(document, limit)
	}
	return Envelope{
		Key:      Key{Kind: Kind(d.GetKind()), Namespace: d.GetNamespace(), Name: d.GetName()},
		Document: &d,
	}, nil
}

func tooLarge(document []byte, limit int) error {
	return fmt.Errorf("parse document: %w: %d bytes: more than %d", ErrTooLarge, len(document), limit)
}
