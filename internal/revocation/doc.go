// Package revocation knows whose credentials are cut off, and which devices there
// are: it makes of the security lane's snapshot the set that each request and open
// stream is asked against, apart from package compile, because what is revoked must
// not wait for policy, nor change with it.
//
// What this build cannot understand is rejected by name, and then everybody is
// denied: nobody can tell whom it was meant to cut off. A device that it cannot
// understand is unknown.
package revocation
