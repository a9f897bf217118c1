// Package snapshot is the contract between the planes: what an environment
// gets, how it is digested, signed, sent in parts and verified. What every
// proxy gets at once, the security lane, is treated like one more environment.
//
// A *Snapshot can only be made from a head whose signature was verified (or
// just made) and a set whose root and count agree with it: whoever holds one
// need not check anything again.
package snapshot
