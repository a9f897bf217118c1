// Package limit keeps what clients have used of rate limits, in memory that clients
// cannot make grow beyond a bound.
package limit
