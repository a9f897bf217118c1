// Package http1 is the client's side of HTTP/1.1: a request is written, and its
// answer read, on the goroutine of whoever asks, and an answer that two parsers
// could read differently is refused.
package http1

import (
	"errors"
	"net/textproto"
	"time"
)

// Limits bound what the connections to an endpoint cost, and how long they are
// trusted. All fields are required.
type Limits struct {
	Head int           // bytes of the head of an answer, with all that come before it
	Idle int           // connections that are kept unused
	Rest time.Duration // how long a connection is kept unused
	Age  time.Duration // how long a connection takes new requests

	Write    time.Duration // how long the endpoint may take none of what it is sent, roughly
	Silence  time.Duration // how long it may say nothing within the body of an answer, roughly
	Continue time.Duration // how long a request that asks first waits to hear that it may go on
}

func (l Limits) check() error {
	if l.Head <= 0 || l.Idle <= 0 || l.Rest <= 0 || l.Age <= 0 || l.Write <= 0 || l.Silence <= 0 || l.Continue <= 0 {
		return errors.New("limits of connections must be positive")
	}
	return nil
}

// MaxInterim is how many answers there may be before the answer.
const MaxInterim = 16

// Bounds that nobody has to set.
const (
	maxFields    = 256 // of a head or trailer
	maxTrailer   = 8 << 10
	maxChunkLine = 256
	usualRoom    = 4 << 10
)

// Interim is told of an answer before the answer: its status and its fields, which it
// may keep. Its error ends the exchange.
type Interim func(status int, fields textproto.MIMEHeader) error

// Malformed is an answer that is not HTTP/1.1, or could be read in more than one
// way. Its text says what is wrong with it.
type Malformed string

func (m Malformed) Error() string { return "malformed answer: " + string(m) }

// Unanswered is a connection that ended before the first byte of an answer.
type Unanswered struct {
	// Sent says that some of the request may have reached the endpoint, or that
	// some of its body was read and is lost.
	Sent bool
	Err  error
}

func (u *Unanswered) Error() string { return "no answer: " + u.Err.Error() }

func (u *Unanswered) Unwrap() error { return u.Err }

// Buffered is what the body of a request may be besides an io.ReadCloser.
type Buffered interface {
	// Whole reports whether the rest of the body can be read without waiting. It is
	// asked before the first read.
	Whole() bool
}

var (
	errClosed      = errors.New("answer is closed")
	errUnsupported = errors.New("request cannot be sent over HTTP/1.1")
	errUnwanted    = errors.New("the body of the request was not asked for")
	errLength      = errors.New("the body of the request is not as long as it says")
)
