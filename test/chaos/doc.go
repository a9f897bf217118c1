// Package chaos takes away, one after another and at random, everything that a
// fleet of real processes stands on, and holds what becomes of it against what
// writers were told and what proxies put in force.
package chaos
