// Package e2e has the tests that start the real slipway program and use it as its users do: by git, by the command line,
// by the API, and with real forges beside it. It has no code of its own; start reading at e2e_test.go.
package e2e
