// Package compile makes of a snapshot the table that decides on requests: the
// same code in proxies, and in the control plane before it commits a change.
//
// What this build cannot understand is rejected by name, and what it controls
// denies. A policy denies on the routes that it selects, an environment on all;
// a route denies where it would have matched; upstreams, identity providers and
// listeners are missed by the routes that name them, or by nobody. All else is
// enforced.
package compile
