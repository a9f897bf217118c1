package postgres

import "time"

// SetSilence sets how long notifications may be silent until the connection is
// tried.
func (s *Store) SetSilence(d time.Duration) { s.silence = d }

// SetQueue sets how long a call waits for a connection.
func (s *Store) SetQueue(d time.Duration) { s.queue = d }
