// Command render is the process of a sandbox in tests. It is built without the race detector, whose own memory no limit
// leaves room for.
package main

import (
	"fmt"
	"os"

	"slipway/internal/manifest/sandbox"
)

func main() {
	if err := sandbox.Serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
