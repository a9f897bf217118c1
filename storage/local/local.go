// Package local runs a private Postgres and a private etcd on this machine,
// for the demo and for tests.
//
// Neither listens on the network: clients of the same user reach them over
// Unix sockets in a directory that nobody else may enter. Both end with the
// process that started them. They are tuned to start fast and to be thrown
// away: what they acknowledged outlives kill -9 of any process, but not a loss
// of power.
package local

import (
	"errors"
	"time"
)

// startBound is how long a server may take until it answers, whatever the
// caller's context allows. A cold, busy machine needs a few seconds.
const startBound = 60 * time.Second

var errStarted = errors.New("it runs already")
