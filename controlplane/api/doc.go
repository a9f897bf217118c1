// Package api serves the operators' API: it authenticates and authorizes each
// call, checks it, and answers with errors that say all that is wrong.
package api
