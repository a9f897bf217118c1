// Package bench measures the real binaries. Besides what people read it prints
// one line per figure: figure NAME VALUE UNIT.
package bench
