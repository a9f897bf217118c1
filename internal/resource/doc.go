// Package resource knows the declared things of a fleet: their kinds and keys,
// the files they are written in, and the documents they are distributed as.
package resource
