//go:build cgo

package main_test

import "testing"

func TestHardwareScripts(t *testing.T) { scripts(t, "testdata/hardware") }
