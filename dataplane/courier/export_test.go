package courier

import (
	"bytes"

	"github.com/sallyport/sallyport/dataplane/record"
)

// Encode returns the records of decisions, made one after the other.
func Encode(all ...*record.Decision) [][]byte {
	var d drafts
	made := make([][]byte, 0, len(all))
	for _, one := range all {
		b := d.encode(one, 1)
		made = append(made, bytes.Clone(*b))
		d.release(b)
	}
	return made
}

// EncodeEndings returns the records of how requests ended, made one after the other.
func EncodeEndings(all ...*record.Outcome) [][]byte {
	var d drafts
	made := make([][]byte, 0, len(all))
	for _, one := range all {
		b := d.ending(one)
		made = append(made, bytes.Clone(*b))
		d.release(b)
	}
	return made
}
