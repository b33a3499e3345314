// Package forge says what Slipway needs of the place where a repo lives: the facts of the repo, a call when something
// happens, a file at a commit, and somewhere to report to.
//
// [Forge] is the contract; package gitea keeps it for Gitea and Forgejo, package gitd for Slipway's own git endpoint.
// An adapter turns what its forge says into a [slipway/internal/ci.Event], and from there on nothing knows which forge
// it came from. Start with [Forge].
package forge
