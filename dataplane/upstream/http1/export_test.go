package http1

// GiveBack gives back a connection that was taken and not used.
func (c *Conn) GiveBack() { c.pool.put(c) }
