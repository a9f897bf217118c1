package route

import "strings"

// parameter returns the value of a parameter of a canonical query, still escaped,
// and how often there is one. A ";", at which some servers split queries and some
// do not, makes it more than once.
func parameter(query, name string) (raw string, count int) {
	if strings.IndexByte(query, ';') >= 0 {
		return "", 2
	}
	for more := query != ""; more; {
		var pair string
		pair, query, more = strings.Cut(query, "&")
		key, value, _ := strings.Cut(pair, "=")
		if rest, ok := cutPrefix(key, name); ok && rest == "" {
			raw = value
			count++
		}
	}
	return raw, count
}

// cutPrefix returns what of raw, which is escaped, follows prefix, which is not.
func cutPrefix(raw, prefix string) (rest string, ok bool) {
	for i := range len(prefix) {
		if raw == "" {
			return "", false
		}
		c, width := decode(raw)
		if c != prefix[i] {
			return "", false
		}
		raw = raw[width:]
	}
	return raw, true
}

// appendDecoded appends what raw stands for, unless that is longer than most.
func appendDecoded(to []byte, raw string, most int) (_ []byte, fits bool) {
	for end := len(to) + most; raw != ""; {
		if len(to) == end {
			return to, false
		}
		c, width := decode(raw)
		to = append(to, c)
		raw = raw[width:]
	}
	return to, true
}

// decode returns the first byte that raw, which is not empty, stands for, and how
// much of raw does.
func decode(raw string) (c byte, width int) {
	switch {
	case raw[0] == '+':
		return ' ', 1
	case raw[0] == '%' && len(raw) >= 3: // of a canonical query they always are
		return hexDigit(raw[1])<<4 | hexDigit(raw[2]), 3
	}
	return raw[0], 1
}

func hexDigit(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}
