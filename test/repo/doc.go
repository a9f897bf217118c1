// Package repo keeps the rules of the repository as tests: which package may
// know which, what every package and make target says of itself, and what no
// file may hold.
package repo
