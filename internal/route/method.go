package route

import "net/http"

// slot is the place of a method among the claims on a path.
type slot uint8

// The slots, in alphabetical order but for the first. They are the methods that
// package request lets through.
const (
	everyMethod slot = iota
	slotDelete
	slotGet
	slotHead
	slotOptions
	slotPatch
	slotPost
	slotPut
	slotCount
)

// slotOf returns everyMethod for a method that is not served.
func slotOf(method string) slot {
	switch method {
	case http.MethodDelete:
		return slotDelete
	case http.MethodGet:
		return slotGet
	case http.MethodHead:
		return slotHead
	case http.MethodOptions:
		return slotOptions
	case http.MethodPatch:
		return slotPatch
	case http.MethodPost:
		return slotPost
	case http.MethodPut:
		return slotPut
	}
	return everyMethod
}

func (s slot) String() string {
	return [slotCount]string{
		"every method", http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodOptions,
		http.MethodPatch, http.MethodPost, http.MethodPut,
	}[s]
}

// methods is a set of slots, a bit for each.
type methods uint8

func (m methods) list() []string {
	var names []string
	for s := everyMethod + 1; s < slotCount; s++ {
		if m&(1<<s) != 0 {
			names = append(names, s.String())
		}
	}
	return names
}
