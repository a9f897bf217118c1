// Package distribution tests that docs/distribution.md is enough to write another
// proxy: a small one, written from its rules alone, reads the example in it.
package distribution
