// Package fleet measures a control plane that serves thousands of proxies on one
// machine: the released program with a real database and etcd, and proxies that
// are all of what a real one has of the control plane, and nothing of its traffic.
// It prints one line per figure: figure NAME VALUE UNIT.
package fleet
