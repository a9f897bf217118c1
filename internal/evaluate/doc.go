// Package evaluate says what is decided on requests that are described or were
// recorded, and why, so that the control plane and the command line answer as
// proxies do.
package evaluate
