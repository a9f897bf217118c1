// Package peers compares proxies with other gateways on one machine: each in
// turn pinned to one core, with load and upstream on another.
package peers
