// Package apikey knows the text of API keys: how they are made, told from
// typing errors, and digested.
package apikey

import (
	"crypto/rand"
	"crypto/sha256"
	"hash/crc32"
)

// A key is sp_ID_SECRET: "sp_" for scanners that look for secrets which leaked,
// an ID to recognise it by, and a secret of 256 bits that ends with a check sum
// of all before it. All but the underscores is of letters and digits, so that a
// double click selects it.
const (
	prefix     = "sp_"
	idSize     = 12
	secretSize = 43 // times log2(62) bits are 256
	sumSize    = 6  // 62^6 is more than 2^32

	idEnd = len(prefix) + idSize
	sumAt = idEnd + len("_") + secretSize

	// Size is that of every key, in bytes.
	Size = sumAt + sumSize
)

const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// Key is a key that was just made. Its Text is a secret.
type Key struct{ ID, Text string }

// New makes a key.
func New() Key {
	id := random(idSize)
	text := prefix + id + "_" + random(secretSize)
	sum := checkSum(text)
	return Key{ID: id, Text: text + string(sum[:])}
}

// random returns n letters and digits, each as likely as any other.
func random(n int) string {
	const fair = 256 / len(alphabet) * len(alphabet)
	text := make([]byte, 0, n)
	for buffer := make([]byte, n); len(text) < n; {
		rand.Read(buffer) // never fails
		for _, b := range buffer {
			if int(b) < fair && len(text) < n {
				text = append(text, alphabet[int(b)%len(alphabet)])
			}
		}
	}
	return string(text)
}

// Parse returns the ID of a key if text is one by its form, check sum included.
// Whether anybody knows it is another question.
func Parse(text string) (id string, ok bool) {
	if len(text) != Size || text[:len(prefix)] != prefix || text[idEnd] != '_' {
		return "", false
	}
	id = text[len(prefix):idEnd]
	if sum := checkSum(text[:sumAt]); !IsID(id) || !isPlain(text[idEnd+1:]) || string(sum[:]) != text[sumAt:] {
		return "", false
	}
	return id, true
}

// IsID reports whether s can be the ID of a key.
func IsID(s string) bool { return len(s) == idSize && isPlain(s) }

func isPlain(s string) bool {
	for i := range len(s) {
		c := s[i]
		if letter := 'a' <= c|0x20 && c|0x20 <= 'z'; !letter && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// checkSum is CRC-32. It finds typing errors, and costs far less than to ask
// whether a key is known; it protects nothing, as anybody can compute it.
func checkSum(text string) [sumSize]byte {
	sum := ^uint32(0)
	for i := range len(text) { // crc32.Update has its argument escape
		sum = crc32.IEEETable[byte(sum)^text[i]] ^ sum>>8 //nolint:gosec // the lowest byte
	}
	sum = ^sum
	var digits [sumSize]byte
	for i := range digits {
		digits[sumSize-1-i] = alphabet[sum%uint32(len(alphabet))]
		sum /= uint32(len(alphabet))
	}
	return digits
}

// Digest is what is stored of a key in its stead. A key has 256 random bits, so
// that there is nothing to guess, and a fast digest gives away as little as a
// slow one.
func Digest(text string) [sha256.Size]byte {
	var room [Size]byte
	return sha256.Sum256(append(room[:0], text...))
}
