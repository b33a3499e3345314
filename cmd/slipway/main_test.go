package main

import (
	"os"
	"testing"
)

// TestMain lets the test binary be the program when a command starts it again to render; see renderSandbox.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == newRenderProcessCommand().Use {
		os.Exit(Main())
	}
	os.Exit(m.Run())
}
