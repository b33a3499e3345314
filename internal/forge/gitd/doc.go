// Package gitd is Slipway's own git endpoint: bare repositories in a folder, served over git's smart HTTP protocol by the
// machine's git, and a [forge.Forge] for the repos that live there.
//
// It is for teams without a forge, and for trying Slipway out: create a repo, push to it, and the answer of the push
// says where its run is. There is no web page for browsing code and there are no pull requests; that is what a forge is for.
//
// Start with [Open] and [Server.ServeHTTP]; a push is followed in receive.go.
package gitd
