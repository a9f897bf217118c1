// Package conformance has what others wrote to find out whether a server keeps to
// a protocol ask through a proxy: the suites of Connect, gRPC and HTTP/2.
package conformance
