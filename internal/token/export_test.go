package token

// DecodeObject lets the fuzzer compare our reading of JSON with the standard
// library's.
var DecodeObject = decodeObject
