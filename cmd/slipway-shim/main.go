// Command slipway-shim is the first process of each step's container. It is not meant to be called by people: a runner
// brings it into the container and speaks to it through the files that package shim describes.
package main

import (
	"fmt"
	"os"

	"slipway/internal/shim"
)

func main() {
	if len(os.Args) != 3 || os.Args[1] != "shim" {
		fmt.Fprintln(os.Stderr, "usage: slipway-shim shim FOLDER")
		os.Exit(2)
	}
	os.Exit(shim.Main(os.Args[2]))
}
