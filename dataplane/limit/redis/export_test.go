package redis

// What an answer is bounded by.
const (
	MaxText  = maxText
	MaxItems = maxItems
)

// Answer reads an answer.
var Answer = answer
