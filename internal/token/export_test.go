package token

import "strings"

// DecodeObject lets the fuzzer compare our reading of JSON with the standard
// library's.
var DecodeObject = decodeObject

// CheckSignature verifies a compact serialization of anything, as the examples
// of RFCs are, with the key of that kid: what Verify does, but for the rules of
// form that only access tokens have to keep.
func CheckSignature(compact, kid string, keys *KeySet, allowed ...Algorithm) error {
	end := strings.LastIndexByte(compact, '.')
	header, _, _ := strings.Cut(compact, ".")
	h, okHeader := decodeJSON(header)
	signature, okSignature := decodeSegment(compact[end+1:])
	if !okHeader || !okSignature {
		return refuse(Malformed)
	}
	alg, _ := h["alg"].(string)
	p := &Parsed{KeyID: kid, algorithm: Algorithm(alg), signed: compact[:end], signature: signature}
	return p.checkSignature(allowed, keys)
}

// ThumbprintOf lets the vectors of RFC 7638 be checked.
var ThumbprintOf = thumbprint
