// Package badinput has the tests that use the real slipway program wrongly, as people do, and check what they then see:
// one sentence, in the place where they look, an exit code for scripts, and nothing left behind. It has no code of its
// own; start reading at badinput_test.go. What the sentences mean to people is in docs/troubleshooting.md.
package badinput
