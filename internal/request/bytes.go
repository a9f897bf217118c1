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

func isTokenByte(c byte) bool { return kinds[c] != 0 }

// kind is what a byte is in a name. The zero kind is none of a token.
type kind uint8

const (
	upper kind = 1 << iota
	lower
	figure // or a hyphen
	special
)

// kinds is tokenBytes as a table, which is looked at for each byte of each name, and
// costs a quarter of what shifting does.
var kinds = func() (of [256]kind) {
	const low, high = tokenBytes & (1<<64 - 1), tokenBytes >> 64
	for c := range byte(128) {
		switch {
		case c >= 'A' && c <= 'Z':
			of[c] = upper
		case c >= 'a' && c <= 'z':
			of[c] = lower
		case c >= '0' && c <= '9' || c == '-':
			of[c] = figure
		case uint64(1)<<c&low|uint64(1)<<(c-64)&high != 0:
			of[c] = special
		}
	}
	return of
}()

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

// HoldsControl reports whether s holds a control byte other than a tab. Values are most
// of a request's bytes, and are looked at wherever they are read or written: so it takes
// 32 of them at a time.
func HoldsControl(s string) bool {
	for ; len(s) >= 32; s = s[32:] {
		some := s[:32]
		if (suspect(some[:8])|suspect(some[8:16])|suspect(some[16:24])|suspect(some[24:32]))&tops != 0 && anyControl(some) {
			return true
		}
	}
	for ; len(s) >= 8; s = s[8:] {
		if suspect(s[:8])&tops != 0 && anyControl(s[:8]) {
			return true
		}
	}
	return anyControl(s)
}

// The lowest and the highest bit of each of eight bytes.
const ones, tops = 0x0101010101010101, 0x8080808080808080

// suspect has the top bits of those of eight bytes set that are control bytes: to take a
// space from one of these sets it, where it was clear, and so does to add one to DEL. What
// is carried from one byte to the next may set more, but clears none.
func suspect(s string) uint64 {
	x := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
	return ((x - ' '*ones) | (x + ones)) &^ x
}

func anyControl(s string) bool {
	for i := range len(s) {
		if isControl(s[i]) && s[i] != '\t' {
			return true
		}
	}
	return false
}
