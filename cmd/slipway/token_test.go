package main

import (
	"strings"
	"testing"

	"slipway/internal/fault"
)

// TestTokenExpiresIn refuses a token that would be no good, before anything is sent.
func TestTokenExpiresIn(t *testing.T) {
	for _, life := range []string{"0", "-1h", "-1ns"} {
		_, _, err := execute(t, newTokenCommand(&connection{}), "", "create", "ci", "--scope", "pull", "--expires-in="+life)
		if err == nil || fault.Of(err).Code != fault.Invalid || !strings.Contains(err.Error(), "is not in the future") {
			t.Errorf("--expires-in %s: %v", life, err)
		}
	}
}
