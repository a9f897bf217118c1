package request

// Sets of ASCII bytes, one bit for each.
const (
	letters = (1<<26-1)<<'A' | (1<<26-1)<<'a'
	digits  = (1<<10 - 1) << '0'

	// plainBytes are those of RFC 3986, section 3.3 (pchar), without "+".
	plainBytes = letters | digits |
		1<<'-' | 1<<'.' | 1<<'_' | 1<<'~' |
		1<<'!' | 1<<'$' | 1<<'&' | 1<<'\'' | 1<<'(' | 1<<')' | 1<<'*' | 1<<',' | 1<<';' | 1<<'=' |
		1<<':' | 1<<'@'

	// tokenBytes are those of RFC 9110, section 5.6.2 (tchar).
	tokenBytes = letters | digits |
		1<<'!' | 1<<'#' | 1<<'$' | 1<<'%' | 1<<'&' | 1<<'\'' | 1<<'*' | 1<<'+' |
		1<<'-' | 1<<'.' | 1<<'^' | 1<<'_' | 1<<'`' | 1<<'|' | 1<<'~'

	nameBytes = letters | digits | 1<<'-' | 1<<'.' | 1<<'_'
)

// standsForItself tells the bytes that a segment of a canonical path holds
// unescaped.
func standsForItself(c byte) bool {
	const low, high = plainBytes & (1<<64 - 1), plainBytes >> 64
	return uint64(1)<<c&low|uint64(1)<<(c-64)&high != 0
}

func isTokenByte(c byte) bool {
	const low, high = tokenBytes & (1<<64 - 1), tokenBytes >> 64
	return uint64(1)<<c&low|uint64(1)<<(c-64)&high != 0
}

// isNameByte tells the bytes of host names. The underscore is no part of a host
// name in DNS, but of many a service's.
func isNameByte(c byte) bool {
	const low, high = nameBytes & (1<<64 - 1), nameBytes >> 64
	return uint64(1)<<c&low|uint64(1)<<(c-64)&high != 0
}

// IsToken reports whether s is a token (RFC 9110, section 5.6.2), as methods and the
// names of fields are.
func IsToken(s string) bool {
	for i := range len(s) {
		if !isTokenByte(s[i]) {
			return false
		}
	}
	return s != ""
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

func isControl(c byte) bool { return c < 0x20 || c == 0x7f }
