// Package e2e tests the real binaries: a whole fleet of child processes, killed,
// tampered with and asked for proof.
package e2e
