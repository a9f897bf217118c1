package otlp

// Entry is entry.
var Entry = entry
