package postgres_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/sallyport/sallyport/storage"
)

// Replicas ask each other, and hear of questions and answers; nobody else is woken.
func TestInquiries(t *testing.T) {
	t.Parallel()
	f := open(t)
	other := fleet{connect(t, f.dsn), f.dsn}
	changed := listen(t, f.Store)
	asked := f.Asked(t.Context())
	id, err := other.Ask(t.Context(), storage.Inquiry{Replica: "one", Proxy: "spiffe://prod.example/p#i"})
	if err != nil {
		t.Fatal(err)
	}
	receive(t, asked)
	if got, err := f.Unanswered(t.Context(), []string{"two", "three"}, 10); err != nil || len(got) != 0 {
		t.Errorf("another replica is asked %v, %v", got, err)
	}
	got, err := f.Unanswered(t.Context(), []string{"two", "one"}, 10)
	if want := (storage.Inquiry{ID: id, Replica: "one", Proxy: "spiffe://prod.example/p#i"}); err != nil || len(got) != 1 || got[0] != want {
		t.Fatalf("asked is %v, %v", got, err)
	}
	if _, err := other.Answered(t.Context(), id); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("before there is an answer: %v", err)
	}
	if err := f.Answer(t.Context(), id, storage.InquiryAnswer{Result: []byte("yes")}); err != nil {
		t.Fatal(err)
	}
	receive(t, asked)
	a, err := other.Answered(t.Context(), id)
	if err != nil || !bytes.Equal(a.Result, []byte("yes")) || a.Code != 0 {
		t.Errorf("answered is %v, %v", a, err)
	}
	if err := f.Answer(t.Context(), id, storage.InquiryAnswer{Code: 9, Reason: "no\x00"}); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("a second answer: %v", err)
	}
	if got, err := f.Unanswered(t.Context(), []string{"one"}, 10); err != nil || len(got) != 0 {
		t.Errorf("left is %v, %v", got, err)
	}
	select {
	case <-changed:
		t.Error("it passes for a change")
	default:
	}
}

// Nobody waits for ever: old questions are not answered, and go.
func TestInquiriesEnd(t *testing.T) {
	t.Parallel()
	f := open(t)
	id, err := f.Ask(t.Context(), storage.Inquiry{Replica: "one", Proxy: "a"})
	if err != nil {
		t.Fatal(err)
	}
	alter(t, f.dsn, `update inquiry set asked_at = asked_at - interval '61 seconds'`)
	if got, err := f.Unanswered(t.Context(), []string{"one"}, 10); err != nil || len(got) != 0 {
		t.Errorf("asked is %v, %v", got, err)
	}
	if _, err := f.Ask(t.Context(), storage.Inquiry{Replica: "one", Proxy: "b"}); err != nil {
		t.Fatal(err)
	}
	if err := f.Answer(t.Context(), id, storage.InquiryAnswer{}); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("the old one is there: %v", err)
	}
	if err := f.Answer(t.Context(), id+1, storage.InquiryAnswer{Result: make([]byte, storage.MaxInquiryResult+1)}); err == nil {
		t.Error("an answer beyond all bounds is kept")
	}
}
