// Package admission refuses, before anything is committed, what the fleet
// could not enforce: it compiles with the proxies' own code and follows every
// reference.
package admission
