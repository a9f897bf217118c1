package schema

import (
	"errors"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// problemOf says what the library, or a survey, finds wrong with a schema.
func problemOf(err error) Problem {
	var fault *faultError
	var invalid *jsonschema.SchemaValidationError
	var pattern *jsonschema.InvalidRegexError
	var elsewhere *jsonschema.LoadURLError
	switch {
	case errors.As(err, &fault):
		return Problem{Pointer: pointerOf(fault.location), Detail: fault.err.Error()}
	case errors.As(err, &invalid):
		return deepest(invalid)
	case errors.As(err, &pattern):
		return Problem{Pointer: pointerOf(pattern.URL), Detail: "is no pattern that is taken (RE2): " + inOneLine(pattern.Err.Error())}
	case errors.As(err, &elsewhere):
		return Problem{Detail: "refers to " + shown(elsewhere.URL) + ": all of a document has to be in it"}
	}
	return Problem{Detail: inOneLine(strings.ReplaceAll(err.Error(), documentURL, ""))}
}

// deepest is the problem of a schema with its metaschema that says the most: the one
// that is furthest inside.
func deepest(invalid *jsonschema.SchemaValidationError) Problem {
	p := Problem{Pointer: pointerOf(invalid.URL), Detail: "is no schema"}
	var at *jsonschema.ValidationError
	if !errors.As(invalid.Err, &at) {
		return p
	}
	found := at
	var walk func(*jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		if len(e.Causes) == 0 && (len(found.Causes) > 0 || len(e.InstanceLocation) > len(found.InstanceLocation)) {
			found = e
		}
		for _, cause := range e.Causes {
			walk(cause)
		}
	}
	walk(at)
	location := invalid.URL
	for i, token := range found.InstanceLocation {
		if i == 0 && !strings.Contains(location, "#") {
			location += "#"
		}
		location += "/" + escapeToken(token)
	}
	p.Pointer = pointerOf(location)
	p.Detail = inOneLine(found.ErrorKind.LocalizedString(message.NewPrinter(language.English)))
	return p
}

// inOneLine shortens words of others.
func inOneLine(text string) string {
	const most = 256
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}
