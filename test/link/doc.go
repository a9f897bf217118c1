// Package link tests that proxies and a control plane keep what they promise
// each other: parts of both planes, with nothing between them but a network.
package link
