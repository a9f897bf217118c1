package api

// Bound is what every request passes first.
var Bound = bound
